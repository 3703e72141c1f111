"""Says in one sentence why a checkpoint's tensors do not fit a configuration."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from jetlit.errors import UserError


def check_loading(source: str, info: Any) -> None:
    """Checks transformers' report of a loaded checkpoint.

    Args:
        source: the checkpoint, for the message.
        info: what `from_pretrained(output_loading_info=True)` reports.

    Raises:
        UserError: tensors are missing, left over or of the wrong shape.
    """
    mismatched = [
        f"{name} is {list(found)} and should be {list(wanted)}" for name, found, wanted in info["mismatched_keys"]
    ]
    # A tensor of the wrong shape may be reported as missing too.
    missing = sorted(set(info["missing_keys"]) - {entry[0] for entry in info["mismatched_keys"]})
    problems = []
    if mismatched:
        problems.append(f"has tensors of the wrong shape ({_first(mismatched)})")
    if missing:
        problems.append(f"lacks tensors ({_first(missing)})")
    if info["unexpected_keys"]:
        problems.append(f"has tensors that nothing uses ({_first(sorted(info['unexpected_keys']))})")
    if problems:
        raise UserError(
            f"The checkpoint {source} {' and '.join(problems)}: it does not belong to its config.json; "
            "correct the configuration, or get the files again."
        )


def _first(names: Iterable[str], shown: int = 3) -> str:
    names = list(names)
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + rest
