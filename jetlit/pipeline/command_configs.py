"""Configs of the subcommands that are no stage. They import no training stack, so that help is quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jetlit.pipeline.stage_config import StageConfig
from jetlit.values import BlockSize, Count, Device, Dtype, Seed


@dataclass
class PostnasConfig(StageConfig):
    """Run the stages of PostNAS in order and write the report.

    Finished stages are skipped, a changed config redoes what depends on it, and an interrupted run resumes when the
    same command is given again and comes to the same decisions. Stages may be left out: later ones then read the last
    file that there is.

    Attributes:
        stages: the YAML files of each stage: data, teacher, supernet, placement, blocks, hardware, stage1, stage2,
            export; of several files later ones win.
        run_dir: folder of the whole run.
        pretrained: the teacher's files are those of `jetlit teacher`, not of a fit; it then comes before the data.
        teacher: folder or hub name of a teacher, in place of the stage teacher.
        architecture: JSON file of an architecture, in place of a placement search.
        seed: seed of every stage; None leaves the files' own.
        report_config: YAML file of the report.
    """

    stages: dict[str, list[str]]
    run_dir: str = "runs/quickstart"
    pretrained: bool = False
    teacher: str | None = None
    architecture: str | None = None
    seed: Seed | None = None
    report_config: str | None = None


@dataclass
class ReportConfig(StageConfig):
    """Write the report of a run: report.html, report.md, report.json, figures and TensorBoard's files.

    Attributes:
        run_dir: folder of the whole run.
        tasks: what teacher and students are scored on, see `jetlit.tasks.build_task`.
        prompts: what the teacher and the last student continue.
        sample_tokens: number of tokens that they add.
        batch: sequences generated at a time when throughput is measured.
        context: tokens of context at which it is measured.
        device: "auto", "cpu" or "cuda".
    """

    run_dir: str = "runs/quickstart"
    tasks: list[dict[str, Any]] | None = None
    prompts: list[str] | None = None
    sample_tokens: Count = 96
    batch: Count = 8
    context: Count = 512
    device: Device = "auto"


@dataclass
class ParamsConfig(StageConfig):
    """Count parameters from shapes alone; no weight is allocated.

    Attributes:
        model: folder of a model (its config.json is enough); by default table 2 of the paper and Jet-Nemotron-2B.
    """

    model: str | None = None


@dataclass
class GenerationConfig(StageConfig):
    """Measure prefill and decode tokens/s: warm-up, then the median of repeats.

    Attributes:
        model: folder of the model.
        batch: sequences at a time.
        context: tokens of a sequence.
        repeats: measurements of which the median is taken.
        device: "auto", "cpu" or "cuda".
        dtype: dtype to compute in; by default the checkpoint's.
        cache: folder of measurements; one taken before on the same machine and versions is not taken again.
    """

    model: str
    batch: Count = 1
    context: Count = 1024
    repeats: Count = 3
    device: Device = "auto"
    dtype: Dtype | None = None
    cache: str | None = None


@dataclass
class TrainingConfig(StageConfig):
    """Measure training tokens/s: forward, backward and AdamW on all weights.

    Attributes:
        model: folder of the model.
        batch: sequences at a time.
        length: tokens of a sequence.
        repeats: measurements of which the median is taken.
        device: "auto", "cpu" or "cuda".
        dtype: dtype to compute in; by default the checkpoint's.
    """

    model: str
    batch: Count = 8
    length: BlockSize = 512
    repeats: Count = 5
    device: Device = "auto"
    dtype: Dtype | None = None
