"""Tensor descriptors: kernels load whole tiles through them (TMA on Hopper; Triton makes pointers of them elsewhere)."""

import torch
import torch.nn.functional as F
from triton.tools.tensor_descriptor import TensorDescriptor


def described(x: torch.Tensor, block: list[int]) -> TensorDescriptor:
    """Describes `x` to kernels that load blocks of it, with zeros out of range.

    Args:
        x: copied if its rows are not contiguous or do not lie on 16 bytes.
        block: a tile's size in every dimension.
    """
    per_16_bytes = 16 // x.element_size()
    x = F.pad(x, (0, -x.shape[-1] % per_16_bytes)).contiguous()
    if x.data_ptr() % 16:
        x = x.clone()
    return TensorDescriptor.from_tensor(x, block)
