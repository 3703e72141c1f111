"""The arguments of the gated RMSNorm."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Arguments(NamedTuple):
    """The arguments of the gated RMSNorm; see `jetlit_kernels.gated_rms_norm`.

    Attributes:
        o: [..., V].
        gate: [..., V] or None.
        weight: [V].
        skip: [..., H, V] or None.
        skip_weight: [H] or None.
        eps: the norm's epsilon.
        norm_before_gate: whether the gate comes last.
    """

    o: torch.Tensor
    gate: torch.Tensor | None
    weight: torch.Tensor
    skip: torch.Tensor | None
    skip_weight: torch.Tensor | None
    eps: float
    norm_before_gate: bool
