"""Tokens per second, MFU and peak memory of the three training steps at 2B size, on one GPU.

    python benchmarks/training.py                # supernet, stage 1, stage 2
    python benchmarks/training.py stage1 --batch 3 --steps 12 --eager
    python benchmarks/training.py stage1 --profile   # where the GPU time of one step goes

Random weights in the shapes of Jet-Nemotron-2B and of its teacher, Qwen2.5-1.5B; the real recipes in Lightning's
trainer with its NaN guard, bf16 autocast over float32 masters, fused AdamW. Random tokens serve, since time does not
depend on them. MFU is as `jetlit.callbacks.Throughput` counts it: products with weights alone, over the device's dense
bf16 peak. Rows take the place of earlier ones of the same step and batch.
"""

import argparse
import gc
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning
import torch
from profiling import StepProfile
from reporting import RESULTS, report, with_earlier
from torch.utils.data import DataLoader

from jetlit.callbacks import NanGuard, Throughput
from jetlit.models import Architecture, JetNemotronConfig, JetNemotronForCausalLM, hybridize
from jetlit.recipes import Distillation, FullTraining, Recipe, SuperNetworkTraining

CONFIGS = Path(__file__).parent.parent / "configs"
# Tokens/s on one H100: derived from the paper's H100-hours, and our target.
PAPER = {"supernet": 17_200, "stage1": 22_300, "stage2": 12_900}
TARGET = {"supernet": 30_000, "stage1": 34_000, "stage2": 20_000}
KEYS = ("step", "batch x length")


def save_models(folder: Path, scale: str, device: torch.device) -> tuple[Path, Path]:
    """Save a random full-attention teacher and the hybrid made from it, in bf16."""
    architecture = Architecture.load(CONFIGS / scale / "architecture.json")
    config = JetNemotronConfig.from_pretrained(str(CONFIGS / scale))
    config.layer_types = ["attn"] * config.num_hidden_layers
    torch.manual_seed(0)
    with device:
        teacher = JetNemotronForCausalLM(config).bfloat16()
    teacher.save_pretrained(folder / "teacher")
    hybridize(teacher, architecture).save_pretrained(folder / "student")
    return folder / "teacher", folder / "student"


def build(step: str, teacher: Path, student: Path, options: dict[str, Any]) -> Recipe:
    """Return the recipe of that step."""
    if step == "supernet":
        return SuperNetworkTraining(str(teacher), **options)
    if step == "stage1":
        return Distillation(str(teacher), student=str(student), feature_weight=0.0, **options)
    return FullTraining(str(student), **options)


def fused_adamw(groups: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=1e-4, fused=True)


class RandomTokens(torch.utils.data.Dataset):
    """Blocks of random tokens [T]."""

    def __init__(self, blocks: int, length: int, vocabulary: int) -> None:
        self.blocks, self.length, self.vocabulary = blocks, length, vocabulary

    def __len__(self) -> int:
        return self.blocks

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(index)
        return {"input_ids": torch.randint(self.vocabulary, (self.length,), generator=generator)}


def measure(step: str, models: tuple[Path, Path], arguments: argparse.Namespace) -> dict[str, Any]:
    """One row of the table."""
    options = {
        "optimizer": fused_adamw,
        "compile": not arguments.eager,
        "activation_checkpointing": {"none": False, "mlp": "mlp", "layers": True}[arguments.checkpointing],
        "chunk": arguments.chunk,
    }
    recipe = build(step, *models, options)
    throughput = Throughput(warmup_steps=arguments.warmup)
    guard = NanGuard(tempfile.gettempdir())  # as in every `jetlit fit`: a norm and a wait for the device a step
    profile = StepProfile(arguments.steps - 1) if arguments.profile else None
    trainer = lightning.Trainer(
        max_steps=arguments.steps,
        precision="bf16-mixed",
        devices=1,
        callbacks=[throughput, guard, *([profile] if profile else [])],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=arguments.steps,
        gradient_clip_val=1.0,
    )
    tokens = RandomTokens(arguments.batch * arguments.steps, arguments.length, 151_936)
    start = time.perf_counter()
    trainer.fit(recipe, DataLoader(tokens, batch_size=arguments.batch, num_workers=2, pin_memory=True))
    if profile:
        print(f"{step}\n{profile.table()}\n", flush=True)
    numbers = {name: float(value) for name, value in trainer.callback_metrics.items()}
    row = {
        "step": step,
        "batch x length": f"{arguments.batch}x{arguments.length}",
        "tokens/s": numbers["training_tokens_per_s"],
        "paper, derived": PAPER[step],
        "to reach": TARGET[step],
        "MFU": numbers.get("train/mfu"),
        "peak GiB": numbers.get("training_peak_memory_bytes", 0.0) / 2**30,
        "loss": numbers.get("train/objective"),
        "whole fit, compilation included, s": time.perf_counter() - start,
    }
    del recipe, trainer
    gc.collect()
    torch.cuda.empty_cache()
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", nargs="*", default=list(PAPER), help="supernet, stage1, stage2")
    parser.add_argument("--scale", default="jet_nemotron_2b")
    parser.add_argument("--models", type=Path, help="folder with teacher/ and student/; default: random ones")
    parser.add_argument("--batch", type=int, default=3)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--warmup", type=int, default=4)
    parser.add_argument("--chunk", type=int, default=2048, help="tokens whose logits are held at a time")
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--checkpointing", choices=("none", "mlp", "layers"), default="none")
    parser.add_argument("--profile", action="store_true", help="print the GPU time of the last step by kernel")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    with tempfile.TemporaryDirectory() as folder:
        if arguments.models:
            models = arguments.models / "teacher", arguments.models / "student"
        else:
            models = save_models(Path(folder), arguments.scale, torch.device("cuda"))
        torch.cuda.empty_cache()
        for step in arguments.step:
            rows = with_earlier([measure(step, models, arguments)], "training", KEYS, arguments.out)
            report("training", "Training steps at 2B size, one GPU", rows, folder=arguments.out)


if __name__ == "__main__":
    main()
