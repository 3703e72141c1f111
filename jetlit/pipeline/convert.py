"""`jetlit convert`: a teacher's checkpoint as a hybrid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jetlit.models import export as writing
from jetlit.models.loading import pick_dtype
from jetlit.pipeline.stage_config import StageConfig
from jetlit.results import Result
from jetlit.values import Dtype


@dataclass
class ConvertConfig(StageConfig):
    """Turn a teacher's checkpoint into a hybrid whose new blocks start from its attention.

    Attributes:
        teacher: folder or hub name of the checkpoint.
        architecture: JSON file of the layers' blocks.
        out_dir: the Hugging Face directory to write; an existing one is replaced.
        block: replaces the architecture's block in every layer that is not attention.
        block_config: arguments of that block.
        dtype: dtype of the weights; by default the checkpoint's.
    """

    teacher: str
    architecture: str
    out_dir: str
    block: str | None = None
    block_config: dict[str, Any] | None = None
    dtype: Dtype | None = None


def convert(config: ConvertConfig) -> Result:
    """Write the hybrid."""
    dtype = None if config.dtype is None else pick_dtype(config.dtype)
    writing.convert(
        config.teacher,
        config.architecture,
        config.out_dir,
        block=config.block,
        block_config=config.block_config,
        dtype=dtype,
    )
    return Result("convert", config.values(), {}, {"model": "."})
