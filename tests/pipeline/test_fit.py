"""Fits from Python: defaults of the classes themselves, and Lightning's own habits."""

import inspect

import pytest
import torch

from jetlit.cli.fit import open_fit, run_fit
from jetlit.pipeline.fit import FitConfig, fit, resolved_config
from jetlit.results import read_result
from tests.recipes import tiny


def test_fit_returns_its_numbers_and_writes_no_result(run_dir):
    expected = read_result(run_dir / "teacher")
    files = [run_dir / "common.yaml", run_dir / "teacher.yaml"]
    result = fit(FitConfig(files, {"run_dir": str(run_dir), "stage": "again"}))
    assert read_result(run_dir / "again") is None and (run_dir / "again/model/config.json").exists()
    assert result.metrics["val/loss"] == expected["metrics"]["val/loss"]["value"]
    assert (result.stage, result.seed, result.decision) == ("again", 3, {"model": "model"})
    assert result.config["model"] == expected["config"]["model"]


OPTIMIZERS = ["SGD", "Adam", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adamax", "AdamW"]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("named_before", [False, True])
def test_what_nobody_gave_is_the_optimizers_own_default(run_dir, name, named_before):
    """Neither the recipe's default, AdamW, nor an earlier file's optimizer leaks into another class."""
    files = [run_dir / "teacher.yaml"]
    if named_before:
        early = run_dir / "early.yaml"
        early.write_text("model: {init_args: {optimizer: {class_path: torch.optim.SGD, init_args: {weight_decay: 7}}}}")
        files.insert(0, early)
    late = run_dir / "late.yaml"
    late.write_text(f"model: {{init_args: {{optimizer: {{class_path: torch.optim.{name}, init_args: {{lr: 0.5}}}}}}}}")
    data = {"data": "TokenDataModule", "data.corpora": "x", "data.block_size": 8, "data.batch_size": 1}
    found = resolved_config(FitConfig([*files, late], data))["model"]["init_args"]["optimizer"]["init_args"]
    for key, parameter in inspect.signature(getattr(torch.optim, name)).parameters.items():
        if key == "weight_decay" and named_before and name == "SGD":
            assert found[key] == 7  # the same class, so the earlier file's settings stay
        elif key in found and key != "lr":
            assert found[key] == (list(parameter.default) if key == "betas" else parameter.default)
    assert found["lr"] == 0.5


def test_an_option_below_a_class_that_no_file_names_is_kept(run_dir):
    data = {"data": "TokenDataModule", "data.corpora": "x", "data.block_size": 8, "data.batch_size": 1}
    config = resolved_config(FitConfig([run_dir / "teacher.yaml"], data | {"model.optimizer.lr": 0.25}))
    assert config["model"]["init_args"]["optimizer"]["class_path"] == "torch.optim.AdamW"
    assert config["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 0.25


@pytest.mark.parametrize(
    ("logger", "files"),
    [
        ("CSVLogger", ["lightning_logs/version_0/metrics.csv"]),
        ("true", ["lightning_logs/version_0"]),
        ("false", []),
        ("[CSVLogger, jetlit.training.StageLogger]", ["lightning_logs/version_0/metrics.csv", "tensorboard"]),
    ],
)
def test_any_logger_writes_into_the_stages_folder(run_dir, logger, files):
    cli = tiny.fit(run_dir, "teacher", "--stage", "logged", f"--trainer.logger={logger}")
    assert all((cli.folder / file).exists() for file in files)
    assert (cli.folder / "tensorboard").exists() == ("tensorboard" in files)


def test_fast_dev_run_writes_nothing(run_dir):
    before = read_result(run_dir / "teacher")
    options = ["--trainer.fast_dev_run", "true", "--model.scheduler.warmup_steps", "0"]
    cli = run_fit(tiny.command(run_dir, "teacher", *options))
    assert cli.trainer.global_step == 1 and read_result(run_dir / "teacher") == before
    assert run_fit(tiny.command(run_dir, "teacher", "--stage", "dev", *options)).trainer.global_step == 1
    assert not (run_dir / "dev").exists()


def test_profiler_and_timer_of_lightning(run_dir, capfd, caplog):
    options = ["--trainer.profiler", "simple", "--trainer.callbacks+=Timer", "--trainer.callbacks.duration=00:00:10:00"]
    cli = run_fit(tiny.command(run_dir, "teacher", "--stage", "profiled", *options))
    assert "run_training_batch" in capfd.readouterr().err + caplog.text
    again = open_fit(["--config", str(cli.folder / "config.yaml")], build=False).config
    assert again.trainer.callbacks[0].class_path.endswith("Timer")


def test_ctrl_c_leaves_as_an_interruption(run_dir):
    cli = open_fit(tiny.command(run_dir, "teacher", "--stage", "stopped")[1:])

    class Interrupt(tiny.Kill):
        def on_train_batch_start(self, trainer, *args):
            raise KeyboardInterrupt

    cli.trainer.callbacks.append(Interrupt())
    with pytest.raises(KeyboardInterrupt):
        cli.fit()
