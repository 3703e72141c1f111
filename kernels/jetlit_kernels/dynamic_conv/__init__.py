"""Dynamic causal convolution: kernels generated from each token, never held in memory (Jet-Nemotron, section 2.4)."""

import torch

from jetlit_kernels.dispatch import resolve_backend
from jetlit_kernels.dynamic_conv import reference
from jetlit_kernels.dynamic_conv.arguments import Arguments
from jetlit_kernels.dynamic_conv.autograd import run
from jetlit_kernels.history import final_inputs

MIN_TAPS, MAX_TAPS = 2, 8


def dynamic_conv(
    v: torch.Tensor,
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    *,
    activation: str | None = "silu",
    state: torch.Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: torch.Tensor | None = None,
    backend: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Convolve `v` with kernels that the generator's last linear layer makes from `hidden`.

    With w[t, d, j] = hidden[t] · weight[d·W + j] + bias[d·W + j]:
    out[t, d] = activation(Σ_j w[t, d, j] · v[t − W + 1 + j, d]), with `state` (zeros if None) before the start.
    Equal inputs give equal results, bit for bit. Parameters are cast to the dtype of `v` (bf16 products, float32 sums).

    Args:
        v: [B, T, D], float32, bfloat16 or float16 (float64 too with the torch backend).
        hidden: [B, T, R], the generator's hidden layer after its activation.
        weight: [D·W, R], channel-major: row d·W + j is tap j of channel d; W from 2 to 8.
        bias: [D·W].
        activation: "silu" or None.
        state: [N, D, W], the W inputs before the start, oldest first; N is B, or the number of packed sequences.
        output_final_state: also return the last W inputs, to be the next call's `state`.
        cu_seqlens: [N + 1] integers: sequence n is tokens cu_seqlens[n] to cu_seqlens[n + 1] of a batch of 1.
        backend: "auto" (Triton on CUDA, plain PyTorch elsewhere), "triton" or "torch".

    Returns:
        `(out, final_state)`: out [B, T, D] in the dtype of `v`; final_state [N, D, W] or None.

    Raises:
        ValueError: shapes or arguments contradict each other, or the backend cannot run here.
    """
    if activation not in ("silu", None):
        raise ValueError(f'dynamic_conv knows activation "silu" or None, not {activation!r}.')
    trains_state = state is not None and state.requires_grad and torch.is_grad_enabled()
    a = Arguments(v, hidden, weight, bias, state, cu_seqlens, activation == "silu", trains_state)
    _check(a)
    if resolve_backend(backend, v) == "torch":
        return reference.dynamic_conv(a, output_final_state)
    return run(*a), final_inputs(v, a.taps, state, cu_seqlens) if output_final_state else None


def _check(a: Arguments) -> None:
    v, hidden, weight = a.v, a.hidden, a.weight
    if v.ndim != 3 or hidden.ndim != 3 or v.shape[:2] != hidden.shape[:2]:
        raise ValueError(
            f"dynamic_conv needs v [B, T, D] and hidden [B, T, R] of the same B and T; got {tuple(v.shape)} and "
            f"{tuple(hidden.shape)}."
        )
    batch, _, channels = v.shape
    taps, remainder = divmod(weight.shape[0], channels)
    if remainder or not MIN_TAPS <= taps <= MAX_TAPS or weight.shape[1:] != hidden.shape[2:]:
        raise ValueError(
            f"dynamic_conv needs weight [D·W, R] with W from {MIN_TAPS} to {MAX_TAPS}; got {tuple(weight.shape)} for "
            f"D = {channels} and R = {hidden.shape[2]}."
        )
    if a.bias.shape != weight.shape[:1]:
        raise ValueError(f"dynamic_conv needs bias [D·W] = [{weight.shape[0]}]; got {tuple(a.bias.shape)}.")
    if a.cu_seqlens is not None and batch != 1:
        raise ValueError(f"Packed sequences (cu_seqlens) need a batch of 1; got {batch}: pack them along T.")
    sequences = batch if a.cu_seqlens is None else a.cu_seqlens.shape[0] - 1
    if a.state is not None and a.state.shape != (sequences, channels, taps):
        raise ValueError(
            f"dynamic_conv needs state [N, D, W] = [{sequences}, {channels}, {taps}]; got {tuple(a.state.shape)}."
        )
