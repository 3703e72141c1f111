"""The stages of PostNAS: their order and what each one reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jetlit.errors import UserError

# Name -> stages whose results it reads (paper, section 2; each name is a folder of the run).
NEEDS: dict[str, tuple[str, ...]] = {
    "data": (),
    "teacher": ("data",),
    "supernet": ("data", "teacher"),
    "placement": ("data", "supernet"),
    "blocks": ("data", "teacher", "placement"),
    "hardware": ("data", "teacher", "blocks"),
    "stage1": ("data", "teacher", "hardware"),
    "stage2": ("data", "stage1"),
    "export": ("stage2",),
}
# A pre-trained teacher comes before the data, which needs its tokenizer.
PRETRAINED: dict[str, tuple[str, ...]] = {"teacher": (), "data": ("teacher",)}
FITS = ("teacher", "supernet", "stage1", "stage2")


def stage_needs(pretrained: bool) -> dict[str, tuple[str, ...]]:
    """Returns every stage, in order, with the stages whose results it reads.

    Args:
        pretrained: whether the teacher is a pre-trained model in place of one trained by the run.
    """
    if not pretrained:
        return NEEDS
    return PRETRAINED | {name: needs for name, needs in NEEDS.items() if name not in PRETRAINED}


def check_stages(configs: Mapping[str, Any]) -> None:
    """Checks that every stage has its configs and nothing else does.

    Raises:
        UserError: a stage is unknown or missing.
    """
    unknown = sorted(set(configs) - set(NEEDS))
    if unknown:
        raise UserError(f"There is no stage {unknown[0]!r}: the stages are {', '.join(NEEDS)}.")
    missing = [name for name in NEEDS if name not in configs]
    if missing:
        raise UserError(f"The stage {missing[0]!r} has no configuration: name its YAML files under stages.")
