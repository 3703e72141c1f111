"""Plain-PyTorch dynamic convolution: generator's last linear layer, causal convolution and SiLU."""

import torch
import torch.nn.functional as F

from jetlit_kernels.dtypes import compute_dtype
from jetlit_kernels.dynamic_conv.arguments import Arguments


def dynamic_conv(a: Arguments, output_final_state: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Compute `jetlit_kernels.dynamic_conv`, differentiable by autograd.

    One tap is held at a time in the forward pass: the kernels [B, T, D, W] are never one tensor.
    """
    v, taps, dtype = a.v, a.taps, compute_dtype(a.v)
    tap_weight = a.weight.to(dtype).view(v.shape[-1], taps, -1)
    tap_bias = a.bias.to(dtype).view(v.shape[-1], taps)
    padded, rows, ends = _with_history(a)

    with torch.autocast(device_type=v.device.type, enabled=False):
        hidden = a.hidden.to(dtype)
        total = torch.zeros(v.shape, dtype=dtype, device=v.device)
        for tap in range(taps):
            kernel = F.linear(hidden, tap_weight[:, tap], tap_bias[:, tap])
            total = total + kernel * _shifted(padded, rows, tap + 1 - taps, v.shape[1]).to(dtype)
    out = F.silu(total) if a.silu else total
    return out.to(v.dtype), _last_inputs(padded, ends, taps) if output_final_state else None


def final_conv_state(a: Arguments) -> torch.Tensor:
    """Return the last W inputs of every sequence, oldest first: [N, D, W] in the dtype of `v`."""
    if a.cu_seqlens is None and a.v.shape[1] >= a.taps:
        return a.v[:, -a.taps :].transpose(1, 2).contiguous()
    padded, _, ends = _with_history(a)
    return _last_inputs(padded, ends, a.taps)


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


def _with_history(a: Arguments) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Put W rows of history before every sequence of `v`.

    Returns:
        The padded inputs [B, T + N·W / B, D], the row of each token in them [T] (None: row t + W for token t) and the
        row after each sequence [N / B].
    """
    v, state, taps = a.v, a.state, a.taps
    batch, length, channels = v.shape
    if a.cu_seqlens is None:
        history = v.new_zeros(batch, taps, channels) if state is None else state.transpose(1, 2).to(v.dtype)
        end = torch.full((1,), taps + length, device=v.device)  # made there: to bring it is to wait for the device
        return torch.cat([history, v], dim=1), None, end

    bounds = a.cu_seqlens.to(v.device, torch.long)
    sequences = bounds.numel() - 1
    owner = torch.searchsorted(bounds, torch.arange(length, device=v.device), right=True)
    rows = torch.arange(length, device=v.device) + owner * taps
    ends = bounds[1:] + torch.arange(1, sequences + 1, device=v.device) * taps
    padded = v.new_zeros(1, length + sequences * taps, channels).index_copy(1, rows, v)
    if state is not None:
        starts = bounds[:-1] + torch.arange(sequences, device=v.device) * taps
        history_rows = starts[:, None] + torch.arange(taps, device=v.device)
        history = state.transpose(1, 2).reshape(1, -1, channels).to(v.dtype)
        padded = padded.index_copy(1, history_rows.flatten(), history)
    return padded, rows, ends


def _shifted(padded: torch.Tensor, rows: torch.Tensor | None, offset: int, length: int) -> torch.Tensor:
    """Return for each token the input `offset` (≤ 0) tokens away: [B, T, D]."""
    if rows is None:
        return padded[:, padded.shape[1] - length + offset :][:, :length]
    return padded.index_select(1, rows + offset)


def _last_inputs(padded: torch.Tensor, ends: torch.Tensor, taps: int) -> torch.Tensor:
    """Return the `taps` rows before each of `ends`, channels first: [N, D, W]."""
    rows = ends[:, None] + torch.arange(-taps, 0, device=ends.device)
    batch, _, channels = padded.shape
    return padded[:, rows].reshape(batch * ends.numel(), taps, channels).transpose(1, 2).contiguous()
