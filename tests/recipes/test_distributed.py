"""Two processes (gloo) train as one does on the same global batches; a checkpoint may change hands between them.

Tolerance: losses and gradient norms agree to 1e-4, the rounding of float32 sums taken in another order.
"""

import json
import shutil

import pytest
import torch

from jetlit.errors import UserError
from jetlit.models import SuperNetwork, load_model
from jetlit.pipeline.consolidate import ConsolidateConfig, consolidate
from jetlit.results import read_result
from jetlit.training import last_checkpoint
from tests.recipes import distributed_fits, tiny
from tests.recipes.distributed_fits import by_one, curve, launch, stopped_by_one

pytestmark = pytest.mark.timeout(600)  # the first test waits for all fits, beside which other tests run

ACCUMULATION = ["--trainer.accumulate_grad_batches", "2", "--trainer.gradient_clip_val", "0.5"]
BACKGROUND = [*ACCUMULATION, tiny.BACKGROUND]
SHARDED = ["--trainer.strategy.save_distributed_checkpoint", "true"]
STRATEGIES = ("ddp", "fsdp2")
CLOSE = {"rel": 1e-4, "abs": 1e-6}


@pytest.fixture(scope="module")
def run(finished_run, tmp_path_factory):
    """All fits of this file: those of one process here, those of two in one launch."""
    run_dir = tmp_path_factory.mktemp("distributed") / "run"
    shutil.copytree(finished_run, run_dir)
    distributed_fits.prepare(run_dir)
    for stage in ("stage1", "supernet", "stage2", "stage2_taught"):
        options = ACCUMULATION if stage == "stage1" else []
        by_one(run_dir, stage, f"{stage}_one", *options)
    stopped_by_one(run_dir, "stage1", "one_to_two", *ACCUMULATION)
    load_model(str(run_dir / "teacher/model"), torch.bfloat16).save_pretrained(run_dir / "narrow")
    mixed = ["--trainer.precision", "bf16-mixed", "--model.init_args.teacher", str(run_dir / "narrow")]
    mixed += ["--model.init_args.fit_tokens", "0"]  # nothing to round but the steps themselves
    by_one(run_dir, "stage1", "mixed_one", *mixed)
    fit = {"options": []}
    plan = [
        fit | {"stage": stage, "folder": f"{stage}_{strategy}", "strategy": strategy}
        for strategy in STRATEGIES
        for stage in ("supernet", "stage2", "stage2_taught")
    ]
    accumulated = {"stage": "stage1", "strategy": "fsdp2", "options": ACCUMULATION}
    background = accumulated | {"options": BACKGROUND}
    spare = [*ACCUMULATION, "--model.shard_teacher", "true", "--model.reshard_after_forward", "true"]
    plan += [
        accumulated | {"folder": "stage1_ddp", "strategy": "ddp"},
        accumulated | {"folder": "stage1_fsdp2", "options": spare},
        accumulated | {"folder": "one_to_two", "options": [*ACCUMULATION, "--ckpt_path", "last"]},
        {"stage": "stage1", "strategy": "fsdp2", "folder": "mixed_fsdp2", "options": mixed},
        background | {"folder": "two_to_one", "ends": "stopped"},
        {"stage": "stage2", "strategy": "ddp", "folder": "spoiled", "options": [], "ends": "spoiled"},
        {"stage": "stage2", "strategy": "fsdp2", "folder": "spoiled_fsdp2", "options": [], "ends": "spoiled"},
        background | {"folder": "terminated", "ends": "terminated"},
        background | {"folder": "terminated", "options": [*BACKGROUND, "--ckpt_path", "last"]},
        accumulated | {"folder": "sharded", "options": [*ACCUMULATION, *SHARDED], "ends": "stopped"},
        accumulated | {"folder": "sharded", "options": [*ACCUMULATION, *SHARDED, "--ckpt_path", "last"]},
    ]
    launch(run_dir, plan)
    by_one(run_dir, "stage1", "two_to_one", *ACCUMULATION, "--ckpt_path", "last")
    return run_dir


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("stage", ["supernet", "stage1", "stage2", "stage2_taught"])
def test_two_processes_train_as_one_does(run, stage, strategy):
    for name in ("train/objective", "train/grad_norm"):
        assert curve(run, f"{stage}_{strategy}", name) == pytest.approx(curve(run, f"{stage}_one", name), **CLOSE)
    one, two = (read_result(run / f"{stage}_{which}")["metrics"] for which in ("one", strategy))
    for name in ("val/loss", "tokens_seen", "parameters", "steps"):
        assert two[name]["value"] == pytest.approx(one[name]["value"], **CLOSE)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("stage", ["supernet", "stage1", "stage2", "stage2_taught"])
def test_the_export_of_two_processes_is_that_of_one(run, stage, strategy):
    load = SuperNetwork.from_pretrained if stage == "supernet" else load_model
    one, two = (load(str(run / f"{stage}_{which}/model")).state_dict() for which in ("one", strategy))
    torch.testing.assert_close(two, one, rtol=1e-3, atol=2e-4)


def test_frozen_bfloat16_stays_whole_beside_sharded_float32_masters(run):
    # Products in bfloat16: gradients of two half batches are rounded twice where one whole batch's is rounded once.
    for name in ("train/objective", "train/grad_norm"):
        assert curve(run, "mixed_fsdp2", name) == pytest.approx(curve(run, "mixed_one", name), rel=1e-2)
    one, two = (load_model(str(run / f"mixed_{which}/model")).state_dict() for which in ("one", "fsdp2"))
    assert {tensor.dtype for tensor in two.values()} == {torch.float32}
    frozen = [name for name in one if ".self_attn." not in name]
    assert all(torch.equal(two[name], one[name]) for name in frozen)


@pytest.mark.parametrize(("folder", "share"), [("stage1_fsdp2", 0.5), ("mixed_fsdp2", 1.0)])
def test_the_teacher_is_spread_only_if_asked_for(run, folder, share):
    for rank in (0, 1):
        held = json.loads((run / folder / f"teacher_rank{rank}.json").read_text())
        assert held and set(held.values()) == {share}


@pytest.mark.parametrize("folder", ["one_to_two", "two_to_one", "sharded", "terminated"])
def test_a_checkpoint_changes_hands(run, folder):
    for name in ("train/objective", "train/grad_norm"):
        assert curve(run, folder, name) == pytest.approx(curve(run, "stage1_one", name), **CLOSE)
    assert read_result(run / folder)["metrics"]["val/kl"]["value"] == pytest.approx(
        read_result(run / "stage1_one")["metrics"]["val/kl"]["value"], **CLOSE
    )


@pytest.mark.parametrize("folder", ["spoiled", "spoiled_fsdp2"])
def test_what_is_bad_on_one_rank_is_skipped_on_all(run, folder):
    saved = sorted(path.name for path in (run / folder).glob("bad_batch*"))
    assert saved == ["bad_batch_step2_rank0.pt", "bad_batch_step2_rank1.pt"]
    losses = curve(run, folder, "train/objective")
    assert losses[:2] == pytest.approx(curve(run, "stage2_ddp", "train/objective")[:2], **CLOSE)
    assert all(loss == loss for loss in losses[3:])


@pytest.mark.parametrize("folder", ["sharded", "stage1_fsdp2", "supernet_ddp", "supernet_fsdp2"])
def test_any_checkpoint_is_consolidated(run, folder, tmp_path):
    assert last_checkpoint(run / folder / "checkpoints").is_dir() == (folder == "sharded")
    consolidate(ConsolidateConfig(str(run / folder), str(tmp_path / "model")))
    load = SuperNetwork.from_pretrained if folder.startswith("supernet") else load_model
    written, exported = (load(str(path)).state_dict() for path in (tmp_path / "model", run / folder / "model"))
    assert written.keys() == exported.keys()
    assert all(torch.equal(written[name], exported[name]) for name in exported)


def test_what_cannot_be_consolidated_is_said(run, tmp_path):
    with pytest.raises(UserError, match="no fit's folder"):
        consolidate(ConsolidateConfig(str(tmp_path), str(tmp_path / "model")))
    with pytest.raises(UserError, match="no checkpoint"):
        consolidate(ConsolidateConfig(str(run / "sharded"), str(tmp_path / "model"), str(tmp_path / "nowhere.ckpt")))


def test_a_checkpoint_that_cannot_be_written_in_the_background_is_said_at_the_end(run):
    job = {"stage": "stage1", "folder": "unwritable", "options": BACKGROUND, "ends": "unwritable"}
    launch(run, [job | {"strategy": strategy} for strategy in ("ddp", "fsdp2")], processes=1)


@pytest.mark.slow
def test_two_nodes_train_as_one_process_does(run):
    plan = [{"stage": "stage2", "folder": "stage2_nodes", "strategy": "fsdp2", "options": []}]
    launch(run, plan, processes=2, nodes=2)
    expected = curve(run, "stage2_one", "train/objective")
    assert curve(run, "stage2_nodes", "train/objective") == pytest.approx(expected, **CLOSE)
