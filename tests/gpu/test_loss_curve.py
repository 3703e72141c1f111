"""The fast path (Triton, torch.compile, bf16 over float32 masters) trains as plain PyTorch in float32 does, 50 steps.

Tolerance: losses within 3% at every step and 0.5% in the mean, the loss having fallen by a fifth at least. No step
of it makes the host wait for the device.
"""

import lightning
import pytest
import torch
from jetlit_kernels import dispatch
from torch.utils.data import DataLoader

from jetlit.models import Architecture, JetNemotronConfig, JetNemotronForCausalLM, hybridize
from jetlit.recipes import Distillation, FullTraining

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: compares with the Triton kernels"),
]
STEPS, ROW = 50, 500
SHAPE = {"vocab_size": 2048, "hidden_size": 256, "intermediate_size": 640, "num_hidden_layers": 4}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}


class Losses(lightning.Callback):
    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.values.append(outputs["loss"].item())


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    teacher = JetNemotronForCausalLM(JetNemotronConfig(**SHAPE, **HEADS, initializer_range=0.05)).bfloat16()
    teacher.save_pretrained(folder / "teacher")
    architecture = Architecture(["jet", "attn", "swa", "jet"], {"jet": {}, "swa": {"window_size": 100}})
    hybridize(teacher, architecture).save_pretrained(folder / "student")
    return folder


def recipe_of(models, stage, precision, compile):
    def optimizer(groups):
        return torch.optim.AdamW(groups, lr=1e-3, fused=precision != "32-true")

    student, options = str(models / "student"), {"optimizer": optimizer, "compile": compile, "chunk": 700, "seed": 0}
    if stage == "stage1":
        return Distillation(str(models / "teacher"), student=student, feature_weight=0.5, **options)
    return FullTraining(student, **options)


def trainer_of(steps, precision, callbacks, accelerator="gpu"):
    return lightning.Trainer(
        accelerator=accelerator,
        devices=1,
        max_steps=steps,
        precision=precision,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=1.0,
    )


def batches():
    start = torch.randint(1500, (STEPS * 4, 1), generator=torch.Generator().manual_seed(1))
    return DataLoader([{"input_ids": row} for row in start + torch.arange(ROW)], batch_size=4)


def curve(models, stage, precision, compile, accelerator="gpu"):
    losses = Losses()
    trainer_of(STEPS, precision, [losses], accelerator).fit(recipe_of(models, stage, precision, compile), batches())
    return torch.tensor(losses.values)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_the_fast_path_s_losses_are_those_of_plain_pytorch(models, stage, monkeypatch):
    fast = curve(models, stage, "bf16-mixed", compile=True)
    monkeypatch.setattr(dispatch, "why_not_triton", lambda tensor: "this is the plain path")
    plain = curve(models, stage, "32-true", compile=False)
    apart = ((fast - plain) / plain).abs()
    print(f"{stage}: {plain[0]:.4f} to {plain[-1]:.4f}, apart by {apart.mean():.2%}, at most {apart.max():.2%}")
    assert plain[-1] < 0.8 * plain[0]
    assert apart.mean() < 0.005 and apart.max() < 0.03


class WaitsAreErrors(lightning.Callback):
    """From the third step on; those before it compile and tune."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        torch.cuda.set_sync_debug_mode("error" if batch_idx >= 2 else "default")

    def on_train_batch_end(self, *_):
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_no_step_waits_for_the_device(models, stage):
    try:
        trainer_of(6, "bf16-mixed", [WaitsAreErrors()]).fit(recipe_of(models, stage, "bf16-mixed", True), batches())
    finally:
        torch.cuda.set_sync_debug_mode("default")
