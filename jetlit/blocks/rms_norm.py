"""Root mean square norms as the released checkpoints compute them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jetlit_kernels import gated_rms_norm
from torch import nn


class RMSNorm(nn.Module):
    """Root mean square norm over the last dimension, computed in float32 (float64 stays float64).

    weight · x / sqrt(mean(x²) + eps), multiplied before the cast back to the input's dtype, as the released code does.
    Released configurations may write `eps` as a string.
    """

    def __init__(self, size: int, eps: float | str = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = float(eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize [..., size]; shape and dtype stay."""
        if x.dtype == self.weight.dtype:
            # PyTorch's own kernel computes in float32 and casts last, in one pass; autocast may widen its result.
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps).to(x.dtype)
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        return F.rms_norm(exact, self.weight.shape, self.weight.to(exact.dtype), self.eps).to(x.dtype)

    def extra_repr(self) -> str:
        """Return size and epsilon."""
        return f"{self.weight.shape[0]}, eps={self.eps}"


class HeadRMSNorm(RMSNorm):
    """RMSNorm of each head of a recurrence's output, with the gate and skip that some blocks have."""

    def forward(  # type: ignore[override]
        self,
        o: torch.Tensor,
        gate: torch.Tensor | None = None,
        *,
        norm_before_gate: bool = True,
        skip: torch.Tensor | None = None,
        skip_weight: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return RMSNorm(x) · SiLU(gate), or RMSNorm(x · SiLU(gate)), with x = o + skip_weight · skip.

        Args:
            o: [B, T, h, V].
            gate: [B, T, h · V] or None.
            norm_before_gate: whether the gate comes last.
            skip: [B, T, h, V] or None.
            skip_weight: [h], with a skip.

        Returns:
            [B, T, h · V] in the dtype of `o`.
        """
        gate = None if gate is None else gate.unflatten(-1, o.shape[2:])
        y = gated_rms_norm(
            o,
            gate,
            self.weight,
            self.eps,
            norm_before_gate=norm_before_gate,
            skip=skip,
            skip_weight=skip_weight,
        )
        return y.flatten(2)
