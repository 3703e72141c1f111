"""`jetlit fit | validate | test`: LightningCLI over the recipes."""

import json
import logging
import re
import shutil
import signal
import warnings
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, Namespace
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.model_helpers import is_overridden
from omegaconf.errors import OmegaConfBaseException

import jetlit.datamodules  # noqa: F401 (its class is named in YAML without its module)
from jetlit.callbacks import (
    ExportModel,
    NanGuard,
    RunManifest,
    StageCheckpoint,
    StepProgressBar,
    TaskScores,
    Throughput,
)
from jetlit.cli.config_errors import one_sentence
from jetlit.errors import UserError
from jetlit.recipes import Recipe
from jetlit.training import AtomicCheckpointIO, StageLogger, last_checkpoint

VERBS = ("fit", "validate", "test")
_FOLDER = "${run_dir}/${stage}"
# Reading a checkpoint unpickles it, which runs what its author put there: these hold files of one's own, not the web's.
_OWN_STORES = ("file", "s3", "gs", "abfs")


class SaveStageConfig(SaveConfigCallback):
    """Writes the resolved config into the stage's folder, over that of an earlier run."""

    def save_config(self, trainer: Any, pl_module: LightningModule, stage: str) -> None:
        """Write config.yaml when a fit is set up."""
        if stage == "fit":
            path = Path(trainer.default_root_dir) / self.config_filename
            path.parent.mkdir(parents=True, exist_ok=True)
            self.parser.save(self.config, path, skip_none=False, overwrite=True, multifile=False)


class _DroppedSettings(logging.Handler):
    """Notes what jsonargparse drops when a later file names a class: it cannot check values that hold `${...}` yet."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        found = re.search(r"discarding init_args: (.*\$\{.*)", record.getMessage())
        if found:
            self.messages.append(found[1].rstrip("."))


class JetlitCLI(LightningCLI):
    """Recipes and data by class name, several configs, and `${...}` across them.

    A fit's folder is `${run_dir}/${stage}`. Beside Lightning's own groups there are `nan_guard`, `tasks`,
    `throughput`, `export`, `manifest` and `checkpoint`: callbacks that every fit has, each with its arguments.
    """

    def __init__(self, args: list[str], build: bool = True) -> None:
        self._build = build
        _quieten_lightning()
        self._dropped = _DroppedSettings()
        logger = logging.getLogger("jetlit.cli.fit.parser")
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
        logger.handlers = [self._dropped]
        super().__init__(
            model_class=Recipe,
            datamodule_class=LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            save_config_callback=SaveStageConfig,
            save_config_kwargs={"save_to_log_dir": False},
            seed_everything_default=0,
            # Only at top level does omegaconf+ resolve `${...}` over all files: hence no subcommands here.
            parser_kwargs={
                "parser_mode": "omegaconf+",
                "exit_on_error": False,
                "prog": "jetlit fit",
                "logger": logger,
            },
            run=False,
            args=args,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the folder, the callbacks every fit has, and defaults for the trainer."""
        parser.add_argument("--run_dir", type=str, default="runs/quickstart", help="Folder of the whole run.")
        parser.add_argument("--stage", type=str, default="fit", help="Folder of this fit inside run_dir.")
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            default=None,
            help='A checkpoint to go on from or to evaluate; "last" for the newest, if any; "none" to start over. A '
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
        """As in the base class, without its warning where a program calls with arguments of its own."""
        try:
            config = parser.parse_args(args)
        except (ArgumentError, OmegaConfBaseException) as error:
            raise UserError(one_sentence(str(error))) from None
        if self._dropped.messages:
            raise UserError(
                f"A file sets values with ${{}} before the class they belong to is named, and they would be lost "
                f"({self._dropped.messages[0]}): name the class_path in that file, or set them in a later one."
            )
        self.config = _with_run_dir_in_keys(config, str(config.run_dir))

    def instantiate_classes(self) -> None:
        """Build nothing where only the config is wanted."""
        if not self._build:
            return
        try:
            super().instantiate_classes()
        except ValueError as error:
            # jsonargparse wraps what a constructor raises in the list of all it tried.
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, UserError):
                cause = cause.__cause__
            raise (cause or UserError(one_sentence(str(error)))) from None

    def _set_seed(self) -> None:
        if self._build:
            super()._set_seed()

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        if config["enable_progress_bar"] is not False:
            callbacks.append(StepProgressBar())
        if config["logger"]:
            callbacks.append(LearningRateMonitor())
        return super()._instantiate_trainer(config, callbacks)

    @property
    def folder(self) -> Path:
        """The stage's folder."""
        return Path(self.config.run_dir) / self.config.stage

    def resolved(self) -> dict[str, Any]:
        """The config as plain values, without what does not bear on the result: where to resume, the caller's hash."""
        config = json.loads(self.parser.dump(self.config, skip_none=False, format="json"))
        config.pop("config", None)
        config.pop("ckpt_path", None)
        config["manifest"].pop("hash", None)
        return config

    def run(self, verb: str) -> None:
        """Fit, validate or test; a fit that a SIGTERM ended has saved a checkpoint and leaves with status 143."""
        if verb == "fit":
            try:
                self._fit()
            except SIGTERMException:
                raise SystemExit(128 + signal.SIGTERM) from None
            return
        if verb == "test" and not is_overridden("test_dataloader", self.datamodule, LightningDataModule):
            self.datamodule.test_dataloader = self.datamodule.val_dataloader  # token data has one held-out split
        checkpoint = self._checkpoint_to_evaluate()
        getattr(self.trainer, verb)(self.model, datamodule=self.datamodule, ckpt_path=checkpoint, weights_only=False)

    def _fit(self) -> None:
        checkpoint = self._checkpoint_to_resume()
        for logger in self.trainer.loggers:
            if isinstance(logger, StageLogger):
                logger.begin_at(_step_of(checkpoint))
        self.trainer.fit(self.model, datamodule=self.datamodule, ckpt_path=checkpoint, weights_only=False)
        manifest = self.config_init.manifest
        manifest.gather(self.trainer)
        # Measured anew on the final weights, so that the numbers do not depend on when the fit was interrupted.
        self.trainer.validate(self.model, datamodule=self.datamodule, verbose=False)
        manifest.gather(self.trainer)
        if self.trainer.is_global_zero:
            manifest.write(self.resolved(), self.config.seed_everything, decision={"model": "model"})

    def _checkpoint_to_resume(self) -> str | None:
        folder, asked = Path(self.config.checkpoint.dirpath), self.config.ckpt_path
        last = last_checkpoint(folder)
        if asked is None and last is not None:
            raise UserError(
                f"{folder} holds checkpoints of an earlier fit: go on from them with --ckpt_path last, "
                "or start over with --ckpt_path none."
            )
        if asked == "none":
            shutil.rmtree(folder, ignore_errors=True)
        if asked in (None, "none"):
            return None
        if asked == "last":
            return None if last is None else str(last)
        return _existing(asked)

    def _checkpoint_to_evaluate(self) -> str | None:
        asked = self.config.ckpt_path or "last"
        if asked == "none":
            return None
        if asked != "last":
            return _existing(asked)
        last = last_checkpoint(self.config.checkpoint.dirpath)
        if last is None:
            raise UserError(
                f"There is no checkpoint in {self.config.checkpoint.dirpath}: run the fit first, give one with "
                "--ckpt_path, or evaluate the model as it is built with --ckpt_path none."
            )
        return str(last)


def run_fit(argv: list[str]) -> JetlitCLI:
    """Run one fit, validation or test in this process; may be called any number of times.

    Args:
        argv: the verb (`fit`, `validate` or `test`) and its arguments, as on the command line.

    Returns:
        The finished CLI object, with `.trainer`, `.model`, `.datamodule`, `.config` and `.folder`.

    Raises:
        UserError: a wrong argument or config, data or a model that is not there, a loss that is no number.
    """
    verb, arguments = _split(argv)
    cli = JetlitCLI(arguments)
    cli.run(verb)
    return cli


def resolved_config(argv: list[str]) -> dict[str, Any]:
    """The config that `run_fit(argv)` would run with, as plain values; nothing is built.

    Raises:
        UserError: a wrong argument or config.
    """
    return JetlitCLI(_split(argv)[1], build=False).resolved()


def main(argv: list[str]) -> None:
    """The command line's `fit`, `validate` and `test`."""
    run_fit(argv)


def _split(argv: list[str]) -> tuple[str, list[str]]:
    if not argv or argv[0] not in VERBS:
        raise UserError(f"Say what to do first: one of {', '.join(VERBS)}.")
    return argv[0], list(argv[1:])


def _named(kind: type, **init_args: Any) -> dict[str, Any]:
    return {"class_path": f"{kind.__module__}.{kind.__name__}", "init_args": init_args}


def _with_run_dir_in_keys(value: Any, run_dir: str) -> Any:
    """Resolve `${run_dir}` in keys too (corpora with weights): omegaconf resolves values alone."""
    if isinstance(value, Namespace):
        for key, item in vars(value).items():
            setattr(value, key, _with_run_dir_in_keys(item, run_dir))
    elif isinstance(value, dict):
        return {
            key.replace("${run_dir}", run_dir) if isinstance(key, str) else key: _with_run_dir_in_keys(item, run_dir)
            for key, item in value.items()
        }
    elif isinstance(value, list):
        return [_with_run_dir_in_keys(item, run_dir) for item in value]
    return value


def _existing(path: str) -> str:
    store = path.rpartition("://")[0]
    if store and store not in _OWN_STORES:
        raise UserError(
            f"The checkpoint {path} is not loaded, because a checkpoint is a pickle, and one from elsewhere can run "
            f"anything: give one of your own, by a path or in {', '.join(f'{name}://' for name in _OWN_STORES)}."
        )
    if not store and not Path(path).exists():
        raise UserError(f"The checkpoint {path} does not exist: correct --ckpt_path, or say last or none.")
    return path


def _step_of(checkpoint: str | None) -> int:
    """The step a checkpoint's name tells; 0 for none or another's naming, which keeps no earlier curve."""
    found = re.search(r"step=(\d+)", Path(checkpoint).name) if checkpoint else None
    return int(found[1]) if found else 0


def _quieten_lightning() -> None:
    """Only warnings, and of these not the ones that do not apply to streamed, endless data."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*isinstance.treespec, LeafSpec.*",
        ".*has `__len__` defined.*",
        ".*exists and is not empty.*",  # as it is whenever a fit is resumed
    ):
        warnings.filterwarnings("ignore", message)
