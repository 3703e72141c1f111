"""The subcommands that run one stage: each runs it, writes result.json and prints what was decided."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from jetlit.once import once
from jetlit.pipeline.blocks import BlocksConfig
from jetlit.pipeline.blocks import search_blocks as run_blocks
from jetlit.pipeline.convert import ConvertConfig
from jetlit.pipeline.convert import convert as run_convert
from jetlit.pipeline.data import DataConfig, prepare_data
from jetlit.pipeline.export import ExportConfig
from jetlit.pipeline.export import export as run_export
from jetlit.pipeline.hardware import HardwareConfig
from jetlit.pipeline.hardware import search_hardware as run_hardware
from jetlit.pipeline.placement import PlacementConfig
from jetlit.pipeline.placement import search_placement as run_placement
from jetlit.pipeline.ranking import RankingConfig, rank_layers
from jetlit.pipeline.teacher import TeacherConfig, prepare_teacher
from jetlit.results import Result, write_result


def data(config: DataConfig) -> None:
    """Prepare corpora."""
    _run(prepare_data, config)


def teacher(config: TeacherConfig) -> None:
    """Prepare a pre-trained teacher, once."""
    states: list[str] = []
    once(config.out_dir, config.values(), lambda: prepare_teacher(config), states.append)
    before = states[0].startswith("finished")
    print(f"{config.out_dir}/model was prepared before." if before else f"Wrote {config.out_dir}/model.")


def search_placement(config: PlacementConfig) -> None:
    """Search which layers keep full attention."""
    result = _run(run_placement, config)
    kept = ", ".join(map(str, result.decision["full_attention"])) or "none"
    done, naive = (result.metrics[f"layer_evaluations/{name}"] for name in ("done", "naive"))
    print(f"Full attention stays in layers {kept}; {done} layer evaluations instead of {naive} ({naive / done:.1f}x).")


def search_blocks(config: BlocksConfig) -> None:
    """Search the linear block."""
    print(f"The most accurate block is {_run(run_blocks, config).decision['block']}.")


def search_hardware(config: HardwareConfig) -> None:
    """Search the shape of the linear block."""
    result = _run(run_hardware, config)
    row = result.config["rows"][result.decision["row"]]
    shape = f"d_K {row['key_dim']}, d_V {row['value_dim']}, {row['heads']} heads"
    print(f"The most accurate shape of {result.decision['block']} is {shape}.")


def search_ranking(config: RankingConfig) -> None:
    """Rank the layers by restoring one at a time."""
    print(f"Layers, the most useful first: {', '.join(map(str, _run(rank_layers, config).decision['order']))}.")


def export(config: ExportConfig) -> None:
    """Write a Hugging Face directory."""
    _run(run_export, config)


def convert(config: ConvertConfig) -> None:
    """Turn a teacher's checkpoint into a hybrid."""
    run_convert(config)
    print(f"Wrote {config.out_dir}.")


def _run(function: Callable[[Any], Result], config: Any) -> Result:
    begun = time.monotonic()
    result = function(config)
    write_result(config.out_dir, replace(result, seconds=time.monotonic() - begun))
    return result
