"""bf16-mixed: frozen weights of a bfloat16 checkpoint stay bfloat16 in training, and cost no gradients of their own."""

import pytest
import torch
from lightning.pytorch import Callback
from torch.utils.flop_counter import FlopCounterMode

from jetlit.cli.fit import open_fit, run_fit
from jetlit.models import load_model
from tests.recipes import tiny

MIXED = ["--trainer.precision", "bf16-mixed"]


@pytest.fixture
def narrow(run_dir):
    """Options that train stage 1 in bf16-mixed from a teacher saved in bfloat16."""
    teacher = load_model(str(run_dir / "teacher/model"), torch.bfloat16)
    teacher.save_pretrained(run_dir / "narrow")
    return [*MIXED, "--model.init_args.teacher", str(run_dir / "narrow")]


class Types(Callback):
    """Records the dtypes of frozen and trained parameters and of the residual stream during training."""

    def on_train_start(self, trainer, pl_module):
        self.hidden = set()
        pl_module.model.model.norm.register_forward_hook(lambda module, args, out: self.hidden.add(args[0].dtype))

    def on_train_batch_end(self, trainer, pl_module, *_):
        parameters = list(pl_module.model.parameters())
        self.frozen = {p.dtype for p in parameters if not p.requires_grad}
        self.trained = {p.dtype for p in parameters if p.requires_grad}


def fit(run_dir, *options):
    cli = open_fit(tiny.command(run_dir, "stage1", "--ckpt_path", "none", *options)[1:])
    types = Types()
    cli.trainer.callbacks.append(types)
    cli.fit()
    return cli, types


def test_only_what_is_trained_has_float32_masters(run_dir, narrow):
    _, types = fit(run_dir, *narrow)
    assert types.frozen == {torch.bfloat16} and types.trained == {torch.float32} and types.hidden == {torch.bfloat16}
    exported = load_model(str(run_dir / "stage1/model"))
    teacher = load_model(str(run_dir / "narrow")).state_dict()
    frozen = {name: tensor for name, tensor in exported.state_dict().items() if ".self_attn." not in name}
    assert {tensor.dtype for tensor in exported.state_dict().values()} == {torch.float32}
    assert all(torch.equal(tensor, teacher[name].float()) for name, tensor in frozen.items())


def test_frozen_weights_with_more_digits_keep_them(run_dir):
    _, types = fit(run_dir, *MIXED)
    assert torch.float32 in types.frozen


def test_a_resumed_mixed_fit_equals_an_undisturbed_one(run_dir, narrow):
    expected = fit(run_dir, *narrow, "--trainer.max_steps", "8")[0].model.model.state_dict()
    cli = open_fit(tiny.command(run_dir, "stage1", "--ckpt_path", "none", *narrow, "--trainer.max_steps", "8")[1:])
    with pytest.raises(tiny.Killed):
        tiny.interrupted_cli(cli).fit()
    resumed = tiny.fit(run_dir, "stage1", *narrow, "--trainer.max_steps", "8", "--ckpt_path", "last")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in resumed.model.model.state_dict().items())


def test_checkpointed_mlps_change_no_weight(run_dir, narrow):
    plain = fit(run_dir, *narrow)[0].model.model.state_dict()
    kept = fit(run_dir, *narrow, "--model.activation_checkpointing", "mlp")[0].model.model.state_dict()
    assert all(torch.equal(tensor, plain[name]) for name, tensor in kept.items())


def test_frozen_matrices_cost_no_weight_gradient(run_dir):
    recipe = run_fit(tiny.command(run_dir, "stage1", "--ckpt_path", "none", subcommand="validate")).model
    ids = torch.randint(200, (2, 24))

    def flops():
        with FlopCounterMode(display=False) as counter:
            recipe.losses(ids)["objective"].backward()
        return counter.get_total_flops()

    before = flops()
    mlps = [p for layer in recipe.model.model.layers for p in layer.mlp.parameters()]
    for parameter in mlps:
        parameter.requires_grad_(True)
    assert flops() - before == 2 * ids.numel() * sum(parameter.numel() for parameter in mlps)
