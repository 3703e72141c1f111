"""One fit: LightningCLI over the recipes, from merged YAML files to a `Result`."""

from __future__ import annotations

import contextlib
import enum
import inspect
import json
import logging
import pickle
import re
import shutil
import signal
import traceback
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningDataModule, Trainer, loggers
from lightning.pytorch.callbacks import LearningRateMonitor, Timer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException
from lightning.pytorch.utilities.model_helpers import is_overridden

import jetlit.datamodules  # noqa: F401 (YAML names its class without the module)
from jetlit.callbacks import (
    ExportModel,
    NanGuard,
    RunManifest,
    StageCheckpoint,
    StepProgressBar,
    TaskScores,
    Throughput,
)
from jetlit.errors import UserError
from jetlit.files import atomic_path, check_folder, claim_folder, existing_paths, remove_temporaries
from jetlit.pipeline.config_classes import check_classes
from jetlit.pipeline.config_errors import one_sentence
from jetlit.pipeline.configs import Overrides, merge_configs, named_object, parse_config
from jetlit.pipeline.lock import run_lock
from jetlit.recipes import Recipe
from jetlit.results import Result
from jetlit.training import AtomicCheckpointIO, StageLogger, last_checkpoint
from jetlit.values import Count, Length, NonNegativeFloat, NonNegativeInt, Seed, check_values

# What a fit leaves in its folder, as patterns.
FIT_FILES = (
    *("config.yaml", "checkpoints/step=*", "checkpoints/.step=*", "tensorboard/*", "model", "bad_batch_step*.pt"),
    *("lightning_logs", "wandb", "mlruns"),  # of other loggers
)
_FOLDER = "${run_dir}/${stage}"
# Reading a checkpoint unpickles it, which runs what its author put there: these stores hold one's own files.
_OWN_STORES = ("file", "s3", "gs", "abfs")
# jsonargparse writes configs with PyYAML, which has no form for enums; Lightning's Timer has one as a default.
yaml.SafeDumper.add_multi_representer(enum.Enum, lambda dumper, member: dumper.represent_data(member.value))


@dataclass(frozen=True)
class FitConfig:
    """What one fit is made of.

    Attributes:
        configs: YAML files; later ones win.
        overrides: values that win over the files, by dotted name: "run_dir", "stage", "trainer.max_steps",
            "ckpt_path". `init_args` may be left out of a name.
    """

    configs: Sequence[str | Path]
    overrides: Overrides = field(default_factory=dict)


def fit(config: FitConfig) -> Result:
    """Train; resume from a checkpoint where `ckpt_path` says so. Writes no result.json.

    Raises:
        UserError: an argument is wrong, data or a model is missing, or the loss is not a number.
        SystemExit: of status 143, after a SIGTERM; a checkpoint has been saved.
    """
    return FitCLI(config).fit()


def resolved_config(config: FitConfig) -> dict[str, Any]:
    """Return the config that `fit` would run with, JSON values only; nothing is built.

    Raises:
        UserError: an argument is wrong.
    """
    return FitCLI(config, build=False).resolved()


@dataclass
class FitValues:
    """The range of what LightningCLI adds."""

    seed_everything: Seed


@dataclass
class TrainerValues:
    """The ranges of arguments of Lightning's Trainer that it does not check itself."""

    max_steps: Length
    max_epochs: Length | None
    min_steps: NonNegativeInt | None
    min_epochs: NonNegativeInt | None
    num_nodes: Count
    accumulate_grad_batches: Count
    log_every_n_steps: NonNegativeInt | None
    check_val_every_n_epoch: Count | None
    gradient_clip_val: NonNegativeFloat | None


class FitCLI(LightningCLI):
    """A fit with its trainer, model and data, built but not started.

    A fit's folder is `${run_dir}/${stage}`. Besides Lightning's own groups there are `nan_guard`, `tasks`,
    `throughput`, `export`, `manifest` and `checkpoint`: callbacks that every fit has, each with its arguments.

    Args:
        config: files and overrides.
        build: whether to build anything; without, only the config is parsed.
    """

    def __init__(self, config: FitConfig, build: bool = True) -> None:
        self._build = build
        _quiet_lightning()
        super().__init__(
            model_class=Recipe,
            datamodule_class=LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            save_config_callback=None,
            seed_everything_default=0,
            # jsonargparse resolves `${...}` over all keys only where there are no subcommands.
            parser_kwargs={"parser_mode": "omegaconf+", "exit_on_error": False, "prog": "jetlit fit"},
            run=False,
            args=merge_configs(config.configs, config.overrides),
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the folder, the callbacks that every fit has, and defaults for the trainer."""
        parser.add_argument("--run_dir", type=str, default="runs/quickstart", help="Folder of the whole run.")
        parser.add_argument("--stage", type=str, default="fit", help="Folder of this fit inside run_dir.")
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            default=None,
            help='A checkpoint to resume from or to evaluate; "last" for the newest, if any; "none" to start over. A '
            "checkpoint is a pickle: only one of your own, on a disk or in an object store (s3://, gs://, abfs://).",
        )
        parser.add_lightning_class_args(RunManifest, "manifest")
        parser.add_lightning_class_args(NanGuard, "nan_guard")
        parser.add_lightning_class_args(TaskScores, "tasks")
        parser.add_lightning_class_args(Throughput, "throughput")
        parser.add_lightning_class_args(ExportModel, "export")
        parser.add_lightning_class_args(StageCheckpoint, "checkpoint")
        parser.set_defaults(
            {
                "nan_guard.folder": _FOLDER,
                "export.folder": f"{_FOLDER}/model",
                "manifest.folder": _FOLDER,
                "manifest.stage": "${stage}",
                "checkpoint.dirpath": f"{_FOLDER}/checkpoints",
                "trainer.default_root_dir": _FOLDER,
                "trainer.logger": _named(StageLogger, folder=f"{_FOLDER}/tensorboard"),
                "trainer.plugins": [_named(AtomicCheckpointIO)],
                "trainer.max_epochs": -1,
                "trainer.max_steps": 1000,
                "trainer.check_val_every_n_epoch": None,
                "trainer.val_check_interval": 1000,
                "trainer.num_sanity_val_steps": 0,
                "trainer.log_every_n_steps": 10,
                "trainer.enable_model_summary": False,
            }
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse a mapping, with defaults that depend on its classes."""
        trainer = args.get("trainer", {})
        for key in ("logger", "logger+"):
            if trainer.get(key):
                trainer[key] = _with_folder(trainer[key])
        self.config = parse_config(parser, args)
        check_classes(self.config)
        _restore_defaults(self.config, args)
        if self.config.seed_everything is not True:  # which draws one
            check_values(FitValues, {"seed_everything": self.config.seed_everything})
        check_values(TrainerValues, dict(self.config.trainer.items()), "trainer.")

    def instantiate_classes(self) -> None:
        """Build nothing where the config alone is asked for."""
        if not self._build:
            return
        try:
            super().instantiate_classes()
        except (
            ArithmeticError,
            AttributeError,
            ImportError,
            LookupError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            # What the constructors of Lightning's or anybody's classes make of their arguments. jsonargparse wraps it
            # in the list of all it tried.
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, UserError):
                cause = cause.__cause__
            raise (cause or UserError(one_sentence(str(error)))) from error
        except MisconfigurationException as error:
            raise UserError(f"The trainer cannot be set up: {' '.join(str(error).split())}") from error
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        if any(isinstance(callback, Timer) and callback.time_remaining() == 0 for callback in callbacks):
            raise UserError("trainer.max_time leaves no time to train: give a longer one, as DD:HH:MM:SS.")

    def _set_seed(self) -> None:
        if self._build:
            super()._set_seed()

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        if config["fast_dev_run"]:  # writes nothing
            callbacks = [callback for callback in callbacks if isinstance(callback, NanGuard | TaskScores)]
        if config["enable_progress_bar"] is not False:
            callbacks.append(StepProgressBar())
        if config["logger"]:
            callbacks.append(LearningRateMonitor())
        return super()._instantiate_trainer(config, callbacks)

    @property
    def folder(self) -> Path:
        """The stage's folder.

        Raises:
            UserError: the stage leads out of the run's folder.
        """
        run_dir, stage = Path(self.config.run_dir), Path(self.config.stage)
        if stage.is_absolute() or ".." in stage.parts or not stage.parts:
            raise UserError(
                f"The stage {str(stage)!r} is no folder in {run_dir}: give a name without `..` and `/` before."
            )
        return run_dir / stage

    @property
    def is_dev_run(self) -> bool:
        """Whether this is Lightning's `fast_dev_run`, which leaves no files and no result."""
        return bool(self.config.trainer.fast_dev_run)

    def resolved(self) -> dict[str, Any]:
        """Return the config as JSON values, without what does not affect the result: ckpt_path and the hash."""
        config = json.loads(self.parser.dump(self.config, skip_unset=False, format="json"))
        config.pop("config", None)
        config.pop("ckpt_path", None)
        config["manifest"].pop("hash", None)
        return config

    def fit(self) -> Result:
        """Train, then validate the final weights; see `fit`."""
        with contextlib.ExitStack() as stack:
            if self.trainer.is_global_zero and not self.is_dev_run:
                resolved = self.resolved()
                check_folder(self.folder, *existing_paths([resolved["model"], resolved["data"]]))
                claim_folder(self.folder)
                stack.enter_context(run_lock(self.folder))
                remove_temporaries(self.folder)  # of a process that was killed while it wrote
            return self._fit()

    def _fit(self) -> Result:
        checkpoint = self._checkpoint_to_resume()
        if 0 <= self.trainer.max_steps < _step_of(checkpoint):
            raise UserError(
                f"{checkpoint} is {_step_of(checkpoint)} steps old, more than trainer.max_steps "
                f"{self.trainer.max_steps}: raise it, or start over with --ckpt_path none."
            )
        for logger in self.trainer.loggers:
            if isinstance(logger, StageLogger):
                logger.begin_at(_step_of(checkpoint))
        if self.trainer.is_global_zero and not self.is_dev_run:
            with atomic_path(Path(self.trainer.default_root_dir) / "config.yaml") as path:
                self.parser.save(self.config, path, skip_unset=False, overwrite=True, multifile=False)
        manifest = self.config_init.manifest
        self._call("fit", checkpoint)
        manifest.gather(self.trainer)
        if not self.is_dev_run:
            # The step that curves are drawn at; Lightning leaves it one behind where a resumed fit has nothing to do.
            self.trainer.fit_loop.epoch_loop._batches_that_stepped = self.trainer.global_step
            # Measured anew on the final weights, so that the numbers do not depend on when the fit was interrupted.
            self._call("validate", None, verbose=False)
            manifest.gather(self.trainer)
        result: Result = manifest.result(self.resolved(), self.config.seed_everything, {"model": "model"})
        return result

    def evaluate(self, loop: str) -> None:
        """Run the loop "validate" or "test" on a checkpoint and print its losses."""
        if loop == "test" and not is_overridden("test_dataloader", self.datamodule, LightningDataModule):
            self.datamodule.test_dataloader = self.datamodule.val_dataloader  # token data has one held-out split
        checkpoint = self._checkpoint_to_evaluate()
        if self.trainer.is_global_zero and self.trainer.loggers:
            claim_folder(self.folder)
        rank_zero_only(print)(f"Reading {checkpoint or 'the model as it is built'}.", flush=True)
        self._call(loop, checkpoint)

    def _call(self, loop: str, checkpoint: str | None, **settings: Any) -> None:
        run = getattr(self.trainer, loop)
        try:
            run(self.model, datamodule=self.datamodule, ckpt_path=checkpoint, weights_only=False, **settings)
        except SIGTERMException:
            raise SystemExit(128 + signal.SIGTERM) from None
        except (RuntimeError, KeyError, EOFError, pickle.UnpicklingError) as error:
            # What loading makes of a checkpoint that is whole, but another model's, or no fit's.
            if checkpoint is None or not any("checkpoint_connector" in frame.filename for frame in _frames(error)):
                raise
            raise UserError(
                f"{checkpoint} does not fit this config ({str(error).splitlines()[0]}): resume with the config that it "
                "was made with."
            ) from error
        except (MisconfigurationException, ValueError) as error:
            if isinstance(error, UserError) or not _is_lightnings(error):
                raise
            raise UserError(f"The trainer's settings do not fit: {' '.join(str(error).split())}") from error
        except SystemExit as error:
            if isinstance(error.__context__, KeyboardInterrupt):  # Lightning turns Ctrl-C into status 1
                raise KeyboardInterrupt from None
            raise

    def _checkpoint_to_resume(self) -> str | None:
        folder, asked = Path(self.config.checkpoint.dirpath), self.config.ckpt_path
        if self.is_dev_run:
            return None if asked == "last" else self._checkpoint(asked)
        if asked is None and last_checkpoint(folder) is not None:
            raise UserError(
                f"{folder} holds checkpoints of an earlier fit: resume from them with --ckpt_path last, "
                "or start over with --ckpt_path none."
            )
        if asked == "none":
            for checkpoint in folder.glob("step=*.ckpt"):
                shutil.rmtree(checkpoint) if checkpoint.is_dir() else checkpoint.unlink()
        return self._checkpoint(asked)

    def _checkpoint_to_evaluate(self) -> str | None:
        asked = self.config.ckpt_path or "last"
        found = self._checkpoint(asked)
        if found is None and asked != "none":
            raise UserError(
                f"There is no checkpoint in {self.config.checkpoint.dirpath}: run the fit first, give one with "
                "--ckpt_path, or evaluate the model as it is built with --ckpt_path none."
            )
        return found

    def _checkpoint(self, asked: str | None) -> str | None:
        if asked is None or asked == "none":
            return None
        if asked == "last":
            last = last_checkpoint(self.config.checkpoint.dirpath)
            return None if last is None else str(last)
        store = asked.rpartition("://")[0]
        if store and store not in _OWN_STORES:
            raise UserError(
                f"The checkpoint {asked} is not loaded, because a checkpoint is a pickle, and one from elsewhere can "
                f"run anything: give one of your own, by a path or in {', '.join(f'{s}://' for s in _OWN_STORES)}."
            )
        if not store and not Path(asked).exists():
            raise UserError(f"The checkpoint {asked} does not exist: correct --ckpt_path, or say last or none.")
        return asked


def _named(kind: type, **init_args: Any) -> dict[str, Any]:
    return {"class_path": f"{kind.__module__}.{kind.__name__}", "init_args": init_args}


def _with_folder(logger: Any) -> Any:
    """Give a logger that takes a folder the stage's, unless it has one."""
    if isinstance(logger, str) and logger[:1] in ("[", "{"):
        logger = yaml.safe_load(logger)
    if isinstance(logger, list):
        return [_with_folder(item) for item in logger]
    spec: Any = {"class_path": logger} if isinstance(logger, str) else logger
    try:
        name = spec["class_path"]
        parameters = inspect.signature(named_object(name if "." in name else f"{loggers.__name__}.{name}")).parameters
    except (TypeError, LookupError, ImportError, AttributeError, ValueError):
        return logger  # true, or a class that jsonargparse knows better
    folders = {"save_dir": _FOLDER, "folder": f"{_FOLDER}/tensorboard"}
    taken = {key: folder for key, folder in folders.items() if key in parameters}
    return {**spec, "init_args": taken | spec.get("init_args", {})}


def _restore_defaults(config: Any, given: Any) -> None:
    """Reset what nobody gave to the class's own default: jsonargparse keeps that of the class it replaces.

    Args:
        config: parsed, changed in place.
        given: the merged mapping that it was parsed from.
    """
    for key, value in given.items() if isinstance(given, Mapping) else ():
        parsed = config.get(key) if isinstance(config, Namespace) else None
        if not isinstance(parsed, Namespace):
            continue
        if "class_path" in parsed and "init_args" in parsed:
            spec = value if isinstance(value, Mapping) else {}
            given_args = {**spec.get("dict_kwargs", {}), **spec.get("init_args", spec)}
            for name, parameter in inspect.signature(named_object(parsed.class_path)).parameters.items():
                if name in parsed.init_args and name not in given_args and _is_number(parameter.default):
                    parsed.init_args[name] = parameter.default
        _restore_defaults(parsed, value)


def _is_number(value: Any) -> bool:
    parts = value if isinstance(value, tuple) else (value,)
    return all(isinstance(part, bool | int | float | None) for part in parts)


def _is_lightnings(error: Exception) -> bool:
    """Return whether Lightning itself has raised an error: it checks some settings only when a loop begins."""
    last = [frame for frame, _ in traceback.walk_tb(error.__traceback__)][-1]
    return str(last.f_globals["__name__"]).startswith("lightning.")


def _frames(error: BaseException) -> traceback.StackSummary:
    return traceback.extract_tb(error.__traceback__)


def _step_of(checkpoint: str | None) -> int:
    """Return the step in a checkpoint's name; 0 for none and for other names, so that no earlier curve is kept."""
    found = re.search(r"step=(\d+)", Path(checkpoint).name) if checkpoint else None
    return int(found[1]) if found else 0


def _quiet_lightning() -> None:
    """Keep Lightning's warnings and its profilers' tables, but no warning that does not apply to streamed data."""
    for name, level in {"pytorch": "WARNING", "fabric": "WARNING", "pytorch.profilers": "INFO"}.items():
        logging.getLogger(f"lightning.{name}").setLevel(level)
    for message in (
        ".*does not have many workers.*",
        ".*isinstance.treespec, LeafSpec.*",
        ".*has `__len__` defined.*",
        ".*exists and is not empty.*",  # as it is whenever a fit is resumed
        ".*args parameter is intended to run from within Python.*",
    ):
        warnings.filterwarnings("ignore", message)
