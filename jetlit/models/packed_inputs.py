"""Where packed sequences begin: read off the arguments by which trainers and data collators say it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from jetlit.errors import UserError

# Lengths of the longest sequences, which follow from the bounds.
_IMPLIED = ("max_length_q", "max_length_k")
# Arguments of other models, and the values that ask for nothing this model lacks.
_HARMLESS = {"output_attentions": (None, False), "output_router_logits": (None, False), "is_causal": (None, True)}


def sequence_bounds(
    rows: torch.Tensor,
    *,
    position_ids: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    cu_seqlens: torch.Tensor | None,
    extra: dict[str, Any],
) -> torch.Tensor | None:
    """Return the bounds [N + 1] of sequences packed into rows that lie one after the other; None if each row is one.

    A sequence begins where `cu_seqlens` or `cu_seq_lens_q` says so, where `seq_idx` changes, or, as in transformers,
    where a position does not follow the one before it.

    Args:
        rows: tokens [B, T] or embeddings [B, T, H].
        position_ids: [B or 1, T] or None.
        attention_mask: [B, T or more], 1 at real tokens, or None.
        cu_seqlens: [N + 1]; with it nothing else is asked.
        extra: a model's other arguments. Those that say where sequences begin are taken out.

    Raises:
        UserError: the arguments contradict each other, or sequences are packed into rows with padding.
    """
    bounds, keys = (extra.pop(name, None) for name in ("cu_seq_lens_q", "cu_seq_lens_k"))
    seq_idx = extra.pop("seq_idx", None)
    for name in _IMPLIED:
        extra.pop(name, None)
    if bounds is not None and keys is not None and bounds is not keys and not torch.equal(bounds, keys):
        raise UserError("cu_seq_lens_q and cu_seq_lens_k differ: a decoder's queries and keys are the same sequences.")
    if cu_seqlens is None:
        cu_seqlens = bounds
    batch, length = rows.shape[:2]
    if cu_seqlens is not None:
        _check_bounds(cu_seqlens, batch * length)
        return cu_seqlens.to(rows.device)
    if length == 1:
        return None
    if seq_idx is not None:
        begins = seq_idx.diff(dim=-1) != 0
    elif position_ids is not None:
        begins = position_ids.diff(dim=-1) != 1
    else:
        return None
    begins = begins.to(rows.device).expand(batch, -1)
    if attention_mask is not None:
        real = attention_mask[:, -length:].to(rows.device, torch.bool)
        begins = begins & real[:, 1:] & real[:, :-1]
    if not bool(begins.any()):
        return None
    if attention_mask is not None and not bool(real.all()):
        raise UserError("Sequences are packed into rows with padding: pack without padding, or give each its own row.")
    starts = F.pad(begins, (1, 0), value=True).flatten().nonzero()[:, 0]
    return F.pad(starts, (0, 1), value=batch * length)


def _check_bounds(bounds: torch.Tensor, tokens: int) -> None:
    """Raise UserError unless bounds lead from 0 to the number of tokens, where looking costs no wait for a device."""
    if bounds.device.type != "cpu" or torch.compiler.is_compiling():
        return
    numbers = bounds.tolist() if bounds.ndim == 1 else []
    if len(numbers) < 2 or numbers != sorted(numbers) or (numbers[0], numbers[-1]) != (0, tokens):
        raise UserError(
            f"The bounds of packed sequences must rise from 0 to {tokens}, the number of tokens, not {bounds.tolist()}."
        )


def check_arguments(owner: str, extra: dict[str, Any]) -> None:
    """Refuse arguments that a model does not follow: whoever passed one counts on it.

    Raises:
        TypeError: an argument is unknown.
        UserError: an argument of other models asks for what this one cannot do.
    """
    for name, value in extra.items():
        if name not in _HARMLESS:
            raise TypeError(f"{owner} takes no argument {name!r}: leave it out, or correct its name.")
        if value not in _HARMLESS[name]:
            raise UserError(f"{owner} cannot follow {name}={value!r}: leave it out.")
