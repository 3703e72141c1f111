"""Short causal convolution of each channel, with its bias and SiLU in the same pass."""

from __future__ import annotations

import torch

from jetlit_kernels.dispatch import resolve_backend
from jetlit_kernels.short_conv import reference
from jetlit_kernels.short_conv.arguments import Arguments
from jetlit_kernels.short_conv.autograd import final_state, run

MIN_TAPS, MAX_TAPS = 2, 8


def short_conv(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    activation: str | None = None,
    state: torch.Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: torch.Tensor | None = None,
    backend: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Convolve each channel of `x` with its own W taps, over this token and the W − 1 before it.

    out[t, d] = activation(bias[d] + Σ_j weight[d, j] · x[t − W + 1 + j, d]), with `state` (zeros if None) before the
    start. Sums are in float32 (float64 for float64). Equal inputs give equal results, bit for bit.

    Args:
        x: [B, T, D], float32, bfloat16 or float16 (float64 too with the torch backend); rows may be any distance apart.
        weight: [D, W], W from 2 to 8.
        bias: [D] or None.
        activation: "silu" or None.
        state: [N, D, W], the W inputs before the start, oldest first; N is B, or the number of packed sequences. A
            state that needs a gradient is left to plain PyTorch.
        output_final_state: also return the last W inputs, to be the next call's `state`.
        cu_seqlens: [N + 1] integers: sequence n is tokens cu_seqlens[n] to cu_seqlens[n + 1] of a batch of 1.
        backend: "auto" (Triton on CUDA, plain PyTorch elsewhere), "triton" or "torch".

    Returns:
        `(out, final_state)`: out [B, T, D] in the dtype of `x`; final_state [N, D, W] or None.

    Raises:
        ValueError: shapes or arguments contradict each other, or the backend cannot run here.
    """
    if activation not in ("silu", None):
        raise ValueError(f'short_conv knows activation "silu" or None, not {activation!r}.')
    a = Arguments(x, weight, bias, state, cu_seqlens, activation == "silu")
    _check(a)
    trains_state = state is not None and state.requires_grad and torch.is_grad_enabled()
    if resolve_backend(backend, x) == "torch" or trains_state:
        return reference.short_conv(a, output_final_state)
    return run(*a), final_state(a) if output_final_state else None


def _check(a: Arguments) -> None:
    x, weight = a.x, a.weight
    if x.ndim != 3:
        raise ValueError(f"short_conv needs x [B, T, D]; got {tuple(x.shape)}.")
    batch, _, channels = x.shape
    if weight.ndim != 2 or weight.shape[0] != channels or not MIN_TAPS <= weight.shape[1] <= MAX_TAPS:
        raise ValueError(
            f"short_conv needs weight [D, W] with D = {channels} and W from {MIN_TAPS} to {MAX_TAPS}; got "
            f"{tuple(weight.shape)}."
        )
    if a.bias is not None and a.bias.shape != (channels,):
        raise ValueError(f"short_conv needs bias [D] = [{channels}]; got {tuple(a.bias.shape)}.")
    if a.cu_seqlens is not None and batch != 1:
        raise ValueError(f"Packed sequences (cu_seqlens) need a batch of 1; got {batch}: pack them along T.")
    sequences = batch if a.cu_seqlens is None else a.cu_seqlens.shape[0] - 1
    if a.state is not None and a.state.shape != (sequences, channels, weight.shape[1]):
        raise ValueError(
            f"short_conv needs state [N, D, W] = [{sequences}, {channels}, {weight.shape[1]}]; got "
            f"{tuple(a.state.shape)}."
        )
