"""Checks that a checkpoint's tensors fit its configuration."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from jetlit.errors import UserError

# Old Llama checkpoints hold this buffer, which is computed instead.
IGNORED_TENSORS = r"rotary_emb\.inv_freq$"
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def check_files(folder: Path, expected: Mapping[str, torch.Tensor], *, tied: bool, mismatched: bool = False) -> None:
    """Compare the names and shapes in a folder's safetensors with a causal language model's, without reading a tensor.

    A tied model's folder may lack either the head or the embedding, and a folder of the decoder alone lacks the head.

    Args:
        folder: the checkpoint.
        expected: the model's state dict.
        tied: whether head and embedding are one tensor.
        mismatched: accept tensors of other shapes.

    Raises:
        UserError: there are no safetensors, tensors are missing, unexpected or of the wrong shape, or a file is
            damaged.
    """
    found = _declared_shapes(folder)
    shapes = {name: list(tensor.shape) for name, tensor in expected.items()}
    if not any(name.startswith("model.") for name in found):
        shapes = {name.removeprefix("model."): shape for name, shape in shapes.items() if name != HEAD}
    missing = set(shapes) - set(found)
    if tied and not {HEAD, EMBEDDING} <= missing:
        missing -= {HEAD, EMBEDDING}
    both = sorted(set(found) & set(shapes))
    wrong = [] if mismatched else [(name, found[name], shapes[name]) for name in both if found[name] != shapes[name]]
    unexpected = {name for name in set(found) - set(shapes) if not re.search(IGNORED_TENSORS, name)}
    check_loading(str(folder), {"missing_keys": missing, "unexpected_keys": unexpected, "mismatched_keys": wrong})


def check_loading(source: str, info: Any) -> None:
    """Check what `from_pretrained(output_loading_info=True)` reports of the checkpoint `source`.

    Raises:
        UserError: tensors are missing, unexpected or of the wrong shape.
    """
    wrong = info["mismatched_keys"]
    mismatched = [f"{name} is {list(found)} and should be {list(right)}" for name, found, right in wrong]
    # A tensor of the wrong shape may be reported as missing too.
    missing = sorted(set(info["missing_keys"]) - {name for name, *_ in wrong})
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


def _declared_shapes(folder: Path) -> dict[str, list[int]]:
    """Return names and shapes from the headers of the folder's safetensors."""
    index = folder / "model.safetensors.index.json"
    files = ["model.safetensors"] if (folder / "model.safetensors").is_file() else []
    if index.is_file():
        try:
            files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{index} is damaged ({error}): get the file again.") from None
    if not files:
        raise UserError(
            f"{folder} holds no safetensors, the only weights that are read: get model.safetensors, or convert other "
            "files with transformers' save_pretrained."
        )
    shapes: dict[str, list[int]] = {}
    for file in files:
        try:
            with safe_open(folder / file, framework="pt") as tensors:
                shapes |= {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise UserError(f"{folder / file} is missing or damaged ({error}): get the file again.") from None
    return shapes


def first_line(error: Exception) -> str:
    """Return the first paragraph of an error's message, or its type, to be quoted in a sentence."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return " ".join(text.strip().split("\n\n")[0].split()).rstrip(".:") or type(error).__name__


def _first(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
