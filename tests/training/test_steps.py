"""Where steps end: accumulated batches, signals between them, and what a resumed fit continues with."""

import json
import os
import signal
import zipfile
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from jetlit.cli.fit import open_fit
from jetlit.errors import UserError
from jetlit.pipeline.fit import FitCLI
from jetlit.training import check_checkpoint, last_checkpoint
from tests.recipes import tiny

ACCUMULATED = ["--trainer.accumulate_grad_batches", "4", "--trainer.log_every_n_steps", "2"]
ENDLESS = ["--trainer.max_steps", "7", "--trainer.val_check_interval", "8", "--checkpoint.every_n_train_steps", "2"]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    tiny.prepare_run(folder)
    return folder


def opened(run_dir: Path, folder: str, *options: str) -> FitCLI:
    argv = [*tiny.command(run_dir, "teacher", *ACCUMULATED, *ENDLESS), "--stage", folder, "--ckpt_path", "last"]
    return open_fit([*argv[1:], *options])


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return every logged point but those of speed and time."""
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    names = [name for name in events.Tags()["scalars"] if name.startswith(("train/", "val/"))]
    names = [name for name in names if name not in ("train/tokens_per_s", "train/mfu")]
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in names}


def assert_same_fit(run_dir: Path, folder: str, other: str) -> None:
    states = [
        torch.load(last_checkpoint(run_dir / name / "checkpoints"), weights_only=False)["state_dict"]
        for name in (folder, other)
    ]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert curves(run_dir / folder) == curves(run_dir / other)


@pytest.fixture(scope="module")
def whole(run_dir: Path) -> str:
    opened(run_dir, "whole").fit()
    return "whole"


class Signal(Callback):
    """Sends this process a signal at the backward pass of one batch, or in a validation."""

    def __init__(self, batch: int | None = None, validation: int | None = None) -> None:
        self.batch, self.validation, self.seen, self.validations = batch, validation, 0, 0

    def on_before_backward(self, *args: object) -> None:
        self.seen += 1
        if self.seen == self.batch:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_validation_batch_start(self, *args: object) -> None:
        self.validations += 1
        if self.validations == self.validation:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    "moment",
    [
        {"batch": 6},
        {"validation": 3},
        *(pytest.param(each, marks=pytest.mark.attack) for each in ({"batch": 8}, {"batch": 21}, {"validation": 1})),
    ],
    ids=str,
)
def test_sigterm_inside_a_step_or_a_validation_changes_nothing(run_dir, whole, moment):
    folder = "-".join(f"{key}{value}" for key, value in moment.items())
    cli = opened(run_dir, folder)
    cli.trainer.callbacks.append(Signal(**moment))
    with pytest.raises(SystemExit, match="143"):
        cli.fit()
    resumed = opened(run_dir, folder).fit()
    assert_same_fit(run_dir, folder, whole)
    assert resumed.metrics["train/loss"] == pytest.approx(opened(run_dir, whole).fit().metrics["train/loss"], abs=0)
    assert len(list((run_dir / folder / "checkpoints").iterdir())) == 1


class Batches(Callback):
    """Notes the mean of each step's batches and the gradient that the optimizer is given."""

    def __init__(self) -> None:
        self.ids: list[torch.Tensor] = []
        self.steps: list[tuple[list[torch.Tensor], dict[str, torch.Tensor], dict[str, torch.Tensor]]] = []

    def on_train_batch_start(self, trainer, recipe, batch, index):
        if not self.ids:
            self.before = {name: value.detach().clone() for name, value in recipe.model.state_dict().items()}
        self.ids.append(batch["input_ids"].clone())

    def on_before_optimizer_step(self, trainer, recipe, optimizer):
        gradients = {name: p.grad.clone() for name, p in recipe.model.named_parameters()}
        self.steps.append((self.ids, self.before, gradients))
        self.ids = []


def test_the_last_step_of_an_epoch_is_the_mean_of_its_batches(run_dir):
    cli = opened(run_dir, "short", "--trainer.max_epochs", "1", "--trainer.max_steps", "-1")
    batches = Batches()
    cli.trainer.callbacks.append(batches)
    cli.fit()
    counts = {len(ids) for ids, _, _ in batches.steps}
    assert 4 in counts and len(batches.steps[-1][0]) < 4, "the epoch must end inside of an accumulation window"
    for ids, before, gradients in batches.steps[-2:]:
        cli.model.model.load_state_dict(before)
        cli.model.zero_grad()
        sum(cli.model.next_token_loss(each) for each in ids).div(len(ids)).backward()
        for name, parameter in cli.model.model.named_parameters():
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_a_fit_shorter_than_the_interval_ends_with_a_checkpoint(run_dir, capsys):
    result = opened(run_dir, "brief", "--checkpoint.every_n_train_steps", "1000").fit()
    saved = last_checkpoint(run_dir / "brief/checkpoints")
    assert saved is not None and saved.name == "step=00000007.ckpt"
    cli = opened(run_dir, "brief")
    cli.evaluate("validate")
    assert cli.trainer.callback_metrics["val/loss"].item() == result.metrics["val/loss"]
    assert "step=00000007.ckpt" in capsys.readouterr().out
    with pytest.raises(UserError, match="earlier fit"):
        argv = tiny.command(run_dir, "teacher", *ACCUMULATED, *ENDLESS, "--stage", "brief")
        open_fit(argv[1:]).fit()


def test_fewer_steps_than_the_checkpoint_are_refused_and_more_continue_at_their_rate(run_dir, whole):
    with pytest.raises(UserError, match="max_steps"):
        opened(run_dir, whole, "--trainer.max_steps", "3").fit()
    opened(run_dir, "longer").fit()
    opened(run_dir, "longer", "--trainer.max_steps", "12").fit()
    opened(run_dir, "straight", "--trainer.max_steps", "12").fit()

    def rates(folder):
        state = torch.load(last_checkpoint(run_dir / folder / "checkpoints"), weights_only=False)
        return state["optimizer_states"][0]["param_groups"][0]["lr"]

    assert rates("longer") == rates("straight")


@pytest.mark.parametrize("damage", ["cut", "empty", "bit", "json", "other"])
def test_a_damaged_checkpoint_is_a_sentence(run_dir, whole, tmp_path, damage):
    good = last_checkpoint(run_dir / whole / "checkpoints")
    bad = tmp_path / "bad.ckpt"
    content = bytearray(good.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "empty":
        content = bytearray()
    elif damage == "bit":
        with zipfile.ZipFile(good) as archive:
            largest = max(archive.infolist(), key=lambda part: part.file_size)
        content[largest.header_offset + 512 + largest.file_size // 2] ^= 1
    elif damage == "json":
        content = bytearray(json.dumps({"state_dict": {}}).encode())
    bad.write_bytes(bytes(content))
    if damage == "other":
        torch.save({"some": "thing"}, bad)
    else:
        with pytest.raises(UserError, match="checkpoint"):
            check_checkpoint(bad)
    with pytest.raises(UserError, match="checkpoint|config"):
        opened(run_dir, f"damaged-{damage}", "--ckpt_path", str(bad)).fit()
