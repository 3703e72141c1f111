"""Gradients are clipped for every optimizer, fused ones under bf16 included, which Lightning refuses."""

import pytest
import torch

from tests.recipes import tiny

CLIP = 1e-3


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_step_of_plain_descent_is_no_longer_than_the_clip(run_dir, precision, fused):
    sgd = {"class_path": "torch.optim.SGD", "init_args": {"lr": 1.0, "weight_decay": 0.0, "fused": fused}}
    cli = tiny.fit(
        run_dir,
        "stage2",
        *("--model.init_args.optimizer", str(sgd), "--model.init_args.scheduler", "null"),
        *("--trainer.precision", precision, "--trainer.gradient_clip_val", str(CLIP), "--trainer.max_steps", "1"),
    )
    before = type(cli.model).build(cli.model).state_dict()
    after = cli.model.model.state_dict()
    step = torch.stack(
        [(after[name] - before[name]).double().norm() for name in before if "lm_head" not in name]
    ).norm()
    assert step == pytest.approx(CLIP, rel=0.02)
