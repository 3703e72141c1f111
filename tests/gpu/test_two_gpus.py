"""`jetlit fit` on two GPUs (NCCL): it trains as one does on the same global batches, and goes on where it was stopped.

Tolerance: losses and gradient norms agree to 1e-3: float32 sums in another order, and the kernels' products of float32
in three pieces of TF32, through six steps.
"""

import pytest
import torch

from jetlit.models import load_model
from jetlit.results import read_result
from tests.recipes import distributed_fits, tiny
from tests.recipes.distributed_fits import by_one, curve, launch, stopped_by_one
from tests.recipes.striped import StripedTokens

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs"),
    pytest.mark.timeout(600),  # the first test waits for all fits and for the kernels' compilation
]

ACCELERATOR = "gpu"
BLOCK = 100
# Heads of 32, the smallest that the kernels take.
SHAPE = {"hidden_size": 128, "intermediate_size": 192, "num_attention_heads": 4, "num_key_value_heads": 2}
RATE = ["--model.init_args.optimizer.init_args.lr", "0.003"]
STAGE1 = ["--trainer.accumulate_grad_batches", "2", "--trainer.gradient_clip_val", "0.5", *RATE]
STAGE1 += ["--model.init_args.fit_tokens", str(4 * BLOCK)]  # whole sequences, the same by one process and by two
RESUME = ["--ckpt_path", "last"]
STRATEGIES = ("ddp", "fsdp2")
CLOSE = {"rel": 1e-3, "abs": 1e-6}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """All fits of this file: those of one GPU here, those of two in one launch. Folders are named STAGE_WHAT."""
    run_dir = tmp_path_factory.mktemp("two_gpus")
    tiny.prepare_run(run_dir, tiny.DECODER | SHAPE, linear="jet")
    tiny.fit(run_dir, "teacher")
    distributed_fits.prepare(run_dir, ACCELERATOR, block_size=BLOCK)
    options = {"stage1": STAGE1, "stage2": ["--model.init_args.student", f"{run_dir}/stage1_one/model", *RATE]}
    plan = []
    for stage in options:
        by_one(run_dir, stage, f"{stage}_one", *options[stage])
        for strategy in STRATEGIES:
            plan += [{"stage": stage, "strategy": strategy, "folder": f"{stage}_{strategy}", "options": options[stage]}]
    for fit in plan[len(STRATEGIES) :]:
        stopped = fit | {"folder": f"{fit['folder']}_stopped"}
        plan += [stopped | {"ends": "stopped"}, stopped | {"options": [*fit["options"], *RESUME]}]
    stopped_by_one(run_dir, "stage1", "stage1_one_to_two", *STAGE1)
    fit = {"stage": "stage1", "strategy": "fsdp2"}
    plan += [fit | {"folder": "stage1_one_to_two", "options": [*STAGE1, *RESUME]}]
    plan += [fit | {"folder": "stage1_two_to_one", "options": STAGE1, "ends": "stopped"}]
    launch(run_dir, plan, start_method="spawn")
    by_one(run_dir, "stage1", "stage1_two_to_one", *STAGE1, *RESUME)
    return run_dir


def agree(run_dir, folder, expected):
    for name in ("train/objective", "train/grad_norm"):
        assert curve(run_dir, folder, name) == pytest.approx(curve(run_dir, expected, name), **CLOSE)
    metrics, wanted = (read_result(run_dir / which)["metrics"] for which in (folder, expected))
    for name in ("val/loss", "tokens_seen", "parameters", "trainable_parameters", "steps"):
        assert metrics[name]["value"] == pytest.approx(wanted[name]["value"], **CLOSE)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_two_train_as_one_does(run, stage, strategy):
    agree(run, f"{stage}_{strategy}", f"{stage}_one")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_resumed_fit_equals_an_undisturbed_one(run, strategy):
    agree(run, f"stage2_{strategy}_stopped", f"stage2_{strategy}")


@pytest.mark.parametrize("folder", ["stage1_one_to_two", "stage1_two_to_one"])
def test_a_checkpoint_changes_hands(run, folder):
    agree(run, folder, "stage1_one")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_export_is_what_was_validated(run, strategy):
    """Weights gathered from two GPUs make a model with the held-out loss that the fit tells."""
    data = StripedTokens(block_size=BLOCK).tokens
    model = load_model(str(run / f"stage2_{strategy}/model"))
    loss = model(data, labels=data, use_cache=False).loss.item()
    assert loss == pytest.approx(read_result(run / f"stage2_{strategy}")["metrics"]["val/loss"]["value"], **CLOSE)
