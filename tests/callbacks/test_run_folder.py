"""What a fit leaves in its folder: checkpoints, curves, model, numbers."""

import json
import multiprocessing
import shutil
import statistics
import threading
import time

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.flop_counter import FlopCounterMode

from jetlit.callbacks.export_model import write_model
from jetlit.callbacks.throughput import training_flops_per_token
from jetlit.cli.fit import main, open_fit, run_fit
from jetlit.errors import UserError
from jetlit.recipes import Pretraining
from jetlit.results import read_result, unit_of
from jetlit.training import AtomicCheckpointIO, BackgroundCheckpointIO, last_checkpoint
from tests.recipes import tiny


def curve(run_dir, stage, name):
    events = EventAccumulator(str(run_dir / stage / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_curves_hold_losses_rate_norm_and_speed(finished_run):
    names = ("train/loss", "lr-AdamW/pg1", "train/grad_norm", "train/tokens_seen")
    for name in names:
        assert [step for step, _ in curve(finished_run, "teacher", name)] == [1, 3, 5]
    assert [value for _, value in curve(finished_run, "teacher", "train/tokens_seen")] == [144, 288, 432]
    assert curve(finished_run, "teacher", "train/tokens_per_s")[-1][1] > 0


def test_curves_go_on_without_a_seam(run_dir):
    tiny.fit(run_dir, "teacher", "--trainer.max_steps", "8", "--trainer.log_every_n_steps", "1", "--ckpt_path", "none")
    undisturbed = curve(run_dir, "teacher", "train/loss")
    shutil.rmtree(run_dir / "teacher")
    options = ["--trainer.max_steps", "8", "--trainer.log_every_n_steps", "1"]
    cli = open_fit(tiny.command(run_dir, "teacher", *options)[1:])
    with pytest.raises(tiny.Killed):
        tiny.interrupted_cli(cli).fit()
    assert [step for step, _ in curve(run_dir, "teacher", "train/loss")] == [0, 1, 2, 3, 4]
    tiny.fit(run_dir, "teacher", *options, "--ckpt_path", "last")
    assert curve(run_dir, "teacher", "train/loss") == undisturbed


def test_speed_is_the_median_of_steps_and_generation_is_measured(run_dir):
    cli = tiny.fit(run_dir, "stage1", "--ckpt_path", "none", "--throughput.batch", "2", "--throughput.context", "48")
    metrics = read_result(run_dir / "stage1")["metrics"]
    throughput = cli.config_init.throughput
    assert metrics["training_tokens_per_s"]["value"] == pytest.approx(statistics.median(throughput._speeds))
    assert len(throughput._speeds) == 3  # six steps less three of warm-up
    expected = {"prefill_tokens_per_s": "tokens/s", "decode_tokens_per_s": "tokens/s", "cache_bytes": "B"}
    for name, unit in expected.items():
        assert metrics[name]["unit"] == unit and metrics[name]["value"] > 0
    mixers = [layer.self_attn for layer in cli.model.model.model.layers]
    # The engine keeps float32 states and caches here; each block says itself what it needs.
    computed = sum(mixer.state_bytes(2, 48, torch.float32) for mixer in mixers)
    assert metrics["cache_bytes"]["value"] == pytest.approx(computed, rel=0.02)


def test_generation_of_a_model_of_the_same_shapes_is_measured_once(run_dir):
    cache = run_dir / "measurements"
    options = ["--ckpt_path", "none", "--throughput.batch", "1", "--throughput.cache", str(cache)]
    speeds = []
    for seed, context in ((0, 48), (1, 48), (0, 40)):
        tiny.fit(run_dir, "stage1", *options, "--seed_everything", str(seed), "--throughput.context", str(context))
        speeds.append(read_result(run_dir / "stage1")["metrics"]["decode_tokens_per_s"]["value"])
    assert speeds[0] == speeds[1] != speeds[2]
    assert len(list(cache.iterdir())) == 2


def matrices(module):
    return sum(parameter.numel() for parameter in module.parameters() if parameter.ndim == 2)


def test_flops_are_those_that_pytorch_counts(run_dir):
    recipe = run_fit(tiny.command(run_dir, "teacher", "--ckpt_path", "none", subcommand="validate")).model
    ids = torch.randint(200, (2, 150))
    # Of itself it leaves out a product that is added where the sum lies, and on a CPU attention's own.
    added = {torch.ops.aten.addmm_: lambda total, a, b, **_: 2 * a[0] * a[1] * b[1]}
    with FlopCounterMode(display=False, custom_mapping=added) as counter:
        recipe.losses(ids)["objective"].backward()
    # The last token of a sequence predicts nothing.
    assert counter.get_total_flops() == pytest.approx(ids.numel() * training_flops_per_token(recipe), rel=0.01)


def test_flops_of_a_super_network_are_those_of_its_paths_mean(run_dir):
    recipe = run_fit(tiny.command(run_dir, "supernet", "--ckpt_path", "none", subcommand="validate")).model
    counted = []
    layers = recipe.model.model.layers
    teacher = 2 * sum(map(matrices, recipe.teacher.model.model.layers))
    for path in ("attn", "gla"):
        mixers = sum(matrices(layer.self_attn.paths[path]) for layer in layers)
        mlps = sum(matrices(layer.mlp) for layer in layers)
        counted.append(teacher + 4 * (mixers + mlps) + 2 * mixers)
    assert training_flops_per_token(recipe) == pytest.approx(statistics.mean(counted))


def test_mfu_is_what_is_multiplied_a_second_as_a_share_of_the_device_s_peak(run_dir, monkeypatch):
    peak = 3e9
    monkeypatch.setattr("jetlit.callbacks.throughput.peak_flops", lambda trainer, pl_module: peak)
    recipe = tiny.fit(run_dir, "stage1", "--ckpt_path", "none").model
    speeds = curve(run_dir, "stage1", "train/tokens_per_s")
    expected = [(step, pytest.approx(speed * training_flops_per_token(recipe) / peak)) for step, speed in speeds]
    assert speeds and curve(run_dir, "stage1", "train/mfu") == expected


def test_tasks_are_scored_and_a_mistake_in_them_shows_before_training(run_dir):
    specs = json.dumps([{"kind": "recall", "name": "easy", "documents": 4, "pairs": 4, "queries": 4}])
    tiny.fit(run_dir, "teacher", "--ckpt_path", "none", "--tasks.specs", specs)
    metrics = read_result(run_dir / "teacher")["metrics"]
    assert 0 <= metrics["task/easy/accuracy"]["value"] <= 1
    with pytest.raises(UserError, match="no kind of task"):
        tiny.fit(run_dir, "teacher", "--ckpt_path", "none", "--tasks.specs", '[{"kind": "nothing"}]')
    assert read_result(run_dir / "teacher") is None


def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    io = AtomicCheckpointIO()
    io.save_checkpoint({"value": 1}, tmp_path / "step=1.ckpt")

    class Unwritable:
        def __reduce__(self):
            raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="No space left on device.*free some space"):
        io.save_checkpoint({"value": 2, "bad": Unwritable()}, tmp_path / "step=1.ckpt")
    assert torch.load(tmp_path / "step=1.ckpt") == {"value": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["step=1.ckpt"]


def test_a_checkpoint_written_in_the_background_outlives_its_successors_writing(tmp_path, monkeypatch):
    io, written = BackgroundCheckpointIO(), threading.Event()
    io.save_checkpoint({"value": torch.tensor(1)}, tmp_path / "step=1.ckpt")
    io.teardown()  # waits
    save = AtomicCheckpointIO.save_checkpoint

    def slowly(self, *args):
        assert written.wait(20)
        save(self, *args)

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", slowly)
    value = torch.tensor(2)
    io.save_checkpoint({"value": value}, tmp_path / "step=2.ckpt")
    io.remove_checkpoint(tmp_path / "step=1.ckpt")
    value += 1  # training continues
    assert (tmp_path / "step=1.ckpt").exists()
    written.set()
    io.teardown()
    assert [path.name for path in tmp_path.iterdir()] == ["step=2.ckpt"]
    assert torch.load(tmp_path / "step=2.ckpt") == {"value": torch.tensor(2)}


def test_a_background_write_that_fails_keeps_the_last_good_checkpoint(tmp_path):
    io = BackgroundCheckpointIO()
    io.save_checkpoint({"value": 1}, tmp_path / "step=1.ckpt")
    (tmp_path / "step=2.ckpt").mkdir()  # cannot be replaced by a file
    io.save_checkpoint({"value": 2}, tmp_path / "step=2.ckpt")
    io.remove_checkpoint(tmp_path / "step=1.ckpt")
    with pytest.raises(UserError, match="Could not write"):
        io.teardown()
    assert torch.load(tmp_path / "step=1.ckpt") == {"value": 1}


def test_the_last_checkpoint_is_the_newest_whole_one(tmp_path):
    assert last_checkpoint(tmp_path / "nowhere") is None
    for name in ("step=00000009.ckpt", "step=00000010.ckpt", ".step=00000011.ckpt.x.tmp.ckpt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "step=00000012.ckpt").mkdir()  # sharded, and its metadata was never written
    assert last_checkpoint(tmp_path).name == "step=00000010.ckpt"
    meta = tmp_path / "step=00000012.ckpt" / "meta.pt"
    torch.save({"global_step": 12}, meta)
    whole = meta.read_bytes()
    meta.write_bytes(whole[:-1])  # killed while it was written
    assert last_checkpoint(tmp_path).name == "step=00000010.ckpt"
    meta.write_bytes(whole)
    assert last_checkpoint(tmp_path).name == "step=00000012.ckpt"


def test_an_export_that_fails_leaves_the_old_one(tmp_path):
    class Model:
        def __init__(self, works):
            self.works = works

        def save_pretrained(self, folder):
            (folder / "config.json").write_text(str(self.works))
            if not self.works:
                raise OSError(28, "No space left on device")

    write_model(Model(True), None, tmp_path / "model")
    with pytest.raises(UserError, match="free some space"):
        write_model(Model(False), None, tmp_path / "model")
    assert (tmp_path / "model/config.json").read_text() == "True"
    write_model(Model(True), None, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_units():
    assert unit_of("val/loss") == "nats/token"
    assert unit_of("train/tokens_per_s") == unit_of("decode_tokens_per_s") == "tokens/s"
    assert unit_of("cache_bytes") == "B"
    assert unit_of("task/recall/objective") == unit_of("task/recall/accuracy") == "1"


def slow_fit(argv, steps):
    """Run a fit in a process of its own; it says in `steps` where it is."""

    def slowly(recipe, *args):
        steps.put(recipe.global_step)
        time.sleep(0.05)

    torch.set_num_threads(1)  # the parent's pool of threads does not survive the fork
    Pretraining.on_train_batch_start = slowly
    main(argv)


def test_sigterm_saves_and_a_rerun_goes_on_to_the_same_result(run_dir):
    expected = tiny.fit(run_dir, "teacher", "--ckpt_path", "none", "--trainer.max_steps", "40")
    expected = expected.trainer.callback_metrics["val/loss"].item()
    shutil.rmtree(run_dir / "teacher")
    options = ["--trainer.max_steps", "40", "--checkpoint.every_n_train_steps", "1000", "--ckpt_path", "last"]
    context = multiprocessing.get_context("fork")  # spares the imports
    steps = context.Queue()
    process = context.Process(target=slow_fit, args=(tiny.command(run_dir, "teacher", *options), steps))
    process.start()
    for step in range(4):
        assert steps.get(timeout=60) == step
    process.terminate()
    process.join(60)
    assert process.exitcode == 143
    saved = torch.load(last_checkpoint(run_dir / "teacher/checkpoints"), weights_only=False)["global_step"]
    assert 4 <= saved < 40
    assert read_result(run_dir / "teacher") is None
    resumed = tiny.fit(run_dir, "teacher", *options)
    assert resumed.trainer.callback_metrics["val/loss"].item() == expected
