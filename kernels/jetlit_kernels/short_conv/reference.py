"""Plain-PyTorch short convolution: history in front, a grouped convolution, SiLU."""

import torch
import torch.nn.functional as F

from jetlit_kernels.dtypes import compute_dtype
from jetlit_kernels.history import last_inputs, shifted, with_history
from jetlit_kernels.short_conv.arguments import Arguments


def short_conv(a: Arguments, output_final_state: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Compute `jetlit_kernels.short_conv`, differentiable by autograd."""
    taps, dtype = a.weight.shape[1], compute_dtype(a.x)
    padded, rows, ends = with_history(a.x, taps, a.state, a.cu_seqlens)
    with torch.autocast(device_type=a.x.device.type, enabled=False):
        y = F.conv1d(
            padded.to(dtype).transpose(1, 2),
            a.weight.to(dtype)[:, None],
            None if a.bias is None else a.bias.to(dtype),
            groups=a.x.shape[2],
        ).transpose(1, 2)
    # Row r of y ends at row r + W - 1 of the padded inputs.
    y = y[:, 1:] if rows is None else shifted(y, rows, 1 - taps, a.x.shape[1])
    out = F.silu(y) if a.silu else y
    return out.to(a.x.dtype), last_inputs(padded, ends, taps) if output_final_state else None
