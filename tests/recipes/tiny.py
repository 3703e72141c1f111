"""The smallest real fits: a byte corpus, a two-layer teacher, and command lines for every recipe."""

import json
from pathlib import Path

from jetlit_data import CorpusSpec, prepare
from lightning.pytorch import Callback

from jetlit.cli.fit import run_fit
from jetlit.models import Architecture
from jetlit.pipeline.fit import FitCLI

VOCABULARY = 259
CONFIG = {
    "seed_everything": 3,
    "data": {
        "class_path": "TokenDataModule",
        "init_args": {"block_size": 24, "batch_size": 3, "seed": 1, "val_batches": 2},
    },
    "model": {
        "init_args": {
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}},
            "scheduler": {"class_path": "WarmupCosine", "init_args": {"warmup_steps": 2}},
        }
    },
    "trainer": {"accelerator": "cpu", "log_every_n_steps": 2, "max_steps": 6, "enable_progress_bar": False},
    "checkpoint": {"every_n_train_steps": 3},
}
BACKGROUND = "--trainer.plugins=[{class_path: jetlit.training.BackgroundCheckpointIO}]"
DECODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
RECIPES = {
    "supernet": {
        "class_path": "SuperNetworkTraining",
        "init_args": {"teacher": "${run_dir}/teacher/model", "fit_tokens": 288},
    },
    "stage1": {
        "class_path": "Distillation",
        "init_args": {
            "teacher": "${run_dir}/teacher/model",
            "architecture": "${run_dir}/architecture.json",
            "feature_weight": 0.5,
            "fit_tokens": 288,
        },
    },
    "stage2": {"class_path": "FullTraining", "init_args": {"student": "${run_dir}/stage1/model"}},
    "stage2_taught": {
        "class_path": "FullTraining",
        "init_args": {"teacher": "${run_dir}/teacher/model", "student": "${run_dir}/stage1/model"},
    },
}


def prepare_run(run_dir: Path, decoder: dict[str, int] = DECODER, linear: str = "gla") -> None:
    """Make a corpus and an architecture (a linear block, then attention) in a new run folder, and its config files."""
    corpora = {"recall": CorpusSpec("recall", 20_000, {"pairs": 4, "queries": 6})}
    prepare(str(run_dir / "data"), corpora, val_fraction=0.1, chunk_tokens=24 * 40, progress=False)
    Architecture([linear, "attn"], {linear: {}}).save(run_dir / "architecture.json")
    config = json.loads(json.dumps(CONFIG))
    config["data"]["init_args"]["corpora"] = "${run_dir}/data/recall"
    (run_dir / "common.yaml").write_text(json.dumps(config))
    teacher = {"class_path": "Pretraining", "init_args": {"decoder": decoder}}
    for stage, recipe in {"teacher": teacher, **RECIPES}.items():
        (run_dir / f"{stage}.yaml").write_text(json.dumps({"stage": stage, "model": recipe}))


def command(run_dir: Path, stage: str, *options: str, source: Path | None = None, subcommand: str = "fit") -> list[str]:
    """Return the command line of one stage; `source` holds its files if that is another folder than `run_dir`."""
    source = source or run_dir
    configs = ["--config", f"{source}/common.yaml", "--config", f"{source}/{stage}.yaml"]
    return [subcommand, *configs, "--run_dir", str(run_dir), *options]


def fit(run_dir: Path, stage: str, *options: str) -> FitCLI:
    """Run one stage."""
    return run_fit(command(run_dir, stage, *options))


class Killed(BaseException):
    """Ends a fit as a kill would: nothing handles it."""


class Kill(Callback):
    """Ends a fit in its sixth step."""

    def on_train_batch_start(self, trainer, *args):
        if trainer.global_step == 5:
            raise Killed


def interrupted_cli(cli: FitCLI) -> FitCLI:
    """Make a fit end in its sixth step."""
    cli.trainer.callbacks.append(Kill())
    return cli
