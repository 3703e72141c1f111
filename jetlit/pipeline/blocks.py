"""Stage `blocks`: which linear block."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jetlit.files import claim_folder
from jetlit.models import Architecture
from jetlit.pipeline.candidates import CandidatesConfig, choice
from jetlit.pipeline.report.candidates import save_candidates
from jetlit.results import Result, config_hash
from jetlit.search.selection import select_block


@dataclass(kw_only=True)
class BlocksConfig(CandidatesConfig):
    """Train each candidate block with the same data and steps and take the best of the most accurate (paper, table 1).

    Writes architecture.json (the placement with the chosen block), table.png and table.md. Every candidate has a folder
    candidates/NAME. Several processes may run this with one out_dir at a time: they share the candidates.

    Attributes:
        blocks: arguments of each candidate by its registered name; {} inherits sizes from the attention.
        placement: file of the placement.
    """

    blocks: dict[str, dict[str, Any]]
    placement: str = "${run_dir}/placement/placement.json"
    out_dir: str = "${run_dir}/blocks"


def search_blocks(config: BlocksConfig) -> Result:
    """Select the block; the decision names it."""
    values = config.values()
    placement, evaluate = Architecture.load(config.placement), config.evaluation("candidates")
    guessed = config.guessed_by_teacher()
    claim_folder(config.out_dir, search=config_hash(values))
    found = select_block(config.blocks, placement, evaluate)
    found.architecture.save(Path(config.out_dir) / "architecture.json")
    metrics = {f"{name}/{key}": value for name, row in found.candidates.items() for key, value in row.items()}
    decision = {"block": found.chosen, "config": dict(config.blocks[found.chosen])} | choice(found, guessed)
    seed = values["fit_configs"]["seed_everything"]
    result = Result("blocks", values, metrics | {"candidates": len(config.blocks)}, decision, seed)
    save_candidates(result, Path(config.out_dir))
    return result
