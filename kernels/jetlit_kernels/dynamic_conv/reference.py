"""Plain-PyTorch dynamic convolution: generator's last linear layer, causal convolution and SiLU."""

import torch
import torch.nn.functional as F

from jetlit_kernels.dtypes import compute_dtype
from jetlit_kernels.dynamic_conv.arguments import Arguments
from jetlit_kernels.history import last_inputs, shifted, with_history


def dynamic_conv(a: Arguments, output_final_state: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Compute `jetlit_kernels.dynamic_conv`, differentiable by autograd.

    One tap is held at a time in the forward pass: the kernels [B, T, D, W] are never one tensor.
    """
    v, taps, dtype = a.v, a.taps, compute_dtype(a.v)
    tap_weight = a.weight.to(dtype).view(v.shape[-1], taps, -1)
    tap_bias = a.bias.to(dtype).view(v.shape[-1], taps)
    padded, rows, ends = with_history(v, taps, a.state, a.cu_seqlens)

    with torch.autocast(device_type=v.device.type, enabled=False):
        hidden = a.hidden.to(dtype)
        total = torch.zeros(v.shape, dtype=dtype, device=v.device)
        for tap in range(taps):
            kernel = F.linear(hidden, tap_weight[:, tap], tap_bias[:, tap])
            total = total + kernel * shifted(padded, rows, tap + 1 - taps, v.shape[1]).to(dtype)
    out = F.silu(total) if a.silu else total
    return out.to(v.dtype), last_inputs(padded, ends, taps) if output_final_state else None


def state_gradient(a: Arguments, d_out: torch.Tensor) -> torch.Tensor:
    """Return the gradient of the initial state [N, D, W], which only a sequence's first W − 1 tokens see."""
    v, state, taps, dtype = a.v, a.state, a.taps, compute_dtype(a.v)
    assert state is not None
    length, channels = v.shape[1:]
    sequences = state.shape[0]
    if a.cu_seqlens is None:
        lengths = torch.full((sequences,), length, device=v.device)
        starts = torch.arange(sequences, device=v.device) * length
    else:
        lengths, starts = a.cu_seqlens.diff(), a.cu_seqlens[:-1]
    d_state = torch.zeros(state.shape, dtype=dtype, device=v.device)
    window = state.to(dtype)
    for token in range(min(taps - 1, length)):
        rows = (starts + token).clamp(max=v.shape[0] * length - 1)
        window = torch.cat([window[..., 1:], v.reshape(-1, channels)[rows].to(dtype)[..., None]], dim=-1)
        hidden = a.hidden.reshape(-1, a.hidden.shape[-1])[rows].to(dtype)
        kernels = F.linear(hidden, a.weight.to(dtype), a.bias.to(dtype)).view(sequences, channels, taps)
        d_y = d_out.reshape(-1, channels)[rows].to(dtype) * (token < lengths)[:, None]
        if a.silu:
            y = (kernels * window).sum(-1)
            d_y = d_y * y.sigmoid() * (1 + y * (1 - y.sigmoid()))
        d_state[..., token + 1 :] += kernels[..., : taps - 1 - token] * d_y[..., None]
    return d_state.to(state.dtype)
