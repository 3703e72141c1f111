"""Launch the short convolution's Triton kernels.

Forward: a program computes a tile of tokens and channels; the W loads of a tile hit the same lines. Backward: one pass
in which a program walks over a segment of rows, see `kernels.backward_kernel`. Both are bound by memory. The batch and
time dimensions are one dimension of M rows; a row's position in its sequence says which taps look before the start.
"""

from __future__ import annotations

import torch

from jetlit_kernels.history import Sequences, constant_stride
from jetlit_kernels.short_conv.arguments import Arguments
from jetlit_kernels.short_conv.kernels import backward_kernel, final_state_kernel, forward_kernel
from jetlit_kernels.sizes import cdiv

ROWS, CHANNELS = 32, 128  # of a program, forward
SEGMENT, BLOCK, STAGES = 64, 256, 3  # rows and channels of a program, backward


def forward(a: Arguments) -> torch.Tensor:
    """Return the output [B, T, D] of the convolution."""
    batch, length, channels = a.x.shape
    rows = batch * length
    out = torch.empty(a.x.shape, dtype=a.x.dtype, device=a.x.device)
    if not out.numel():
        return out
    x, stride = constant_stride(a.x)
    places = Sequences.of(a.cu_seqlens, rows)
    forward_kernel[(cdiv(rows, ROWS), cdiv(channels, CHANNELS))](
        x, a.weight.contiguous(), _contiguous(a.bias), _contiguous(a.state), places.positions, places.owners, out,
        rows, length, channels, stride, BT=ROWS, BD=CHANNELS, **_options(a), num_warps=4,
    )  # fmt: skip
    return out


def backward(a: Arguments, d_out: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients of x, weight and bias (empty without one), each in its dtype, summed in float32."""
    batch, length, channels = a.x.shape
    rows, taps = batch * length, a.weight.shape[1]
    d_x = torch.empty(a.x.shape, dtype=a.x.dtype, device=a.x.device)
    segments = cdiv(rows, SEGMENT)
    sums = torch.empty(segments, taps + 1, channels, dtype=torch.float32, device=a.x.device)
    x, stride = constant_stride(a.x)
    d_out, stride_d = constant_stride(d_out)
    places = Sequences.of(a.cu_seqlens, rows)
    if d_x.numel():
        backward_kernel[(segments, cdiv(channels, BLOCK))](
            d_out, x, a.weight.contiguous(), _contiguous(a.bias), _contiguous(a.state), places.positions,
            places.owners, d_x, sums, rows, length, channels, stride, stride_d, SEGMENT, BD=BLOCK, **_options(a),
            STAGES=STAGES, num_warps=4,
        )  # fmt: skip
    total = sums.sum(0)
    d_bias = a.x.new_empty(0) if a.bias is None else total[taps].to(a.bias.dtype, copy=True)
    return d_x, total[:taps].T.to(a.weight.dtype).contiguous(), d_bias


def final_state(a: Arguments) -> torch.Tensor:
    """Return the last W inputs of every sequence, [N, D, W]."""
    batch, length, channels = a.x.shape
    taps = a.weight.shape[1]
    sequences = batch if a.cu_seqlens is None else a.cu_seqlens.shape[0] - 1
    final = torch.empty(sequences, channels, taps, dtype=a.x.dtype, device=a.x.device)
    if final.numel():
        x, stride = constant_stride(a.x)
        final_state_kernel[(sequences, cdiv(channels, BLOCK))](
            x, _contiguous(a.state), a.cu_seqlens, final, length, channels, stride, W=taps, BD=BLOCK,
            PACKED=a.cu_seqlens is not None, HAS_STATE=a.state is not None, num_warps=4,
        )  # fmt: skip
    return final


def _options(a: Arguments) -> dict[str, int | bool]:
    return {
        "W": a.weight.shape[1],
        "SILU": a.silu,
        "PACKED": a.cu_seqlens is not None,
        "HAS_STATE": a.state is not None,
        "HAS_BIAS": a.bias is not None,
    }


def _contiguous(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor.contiguous()
