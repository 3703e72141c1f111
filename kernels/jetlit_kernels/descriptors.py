"""Tensor descriptors, through which kernels load whole tiles: by TMA on Hopper; elsewhere Triton makes pointers."""

import torch
import torch.nn.functional as F
from triton.tools.tensor_descriptor import TensorDescriptor


def described(x: torch.Tensor, block: list[int]) -> TensorDescriptor:
    """Return a descriptor of `x` for kernels that load blocks of it, with zeros out of range.

    Args:
        x: copied if its rows are not contiguous or do not lie on 16 bytes; its other dimensions may have any order.
        block: a tile's size in every dimension.
    """
    size = x.element_size()
    missing = -x.shape[-1] % (16 // size)
    # Padding by nothing would copy.
    x = F.pad(x, (0, missing)) if missing else x
    aligned = not (x.data_ptr() % 16 or any(stride * size % 16 for stride in x.stride()[:-1]))
    if not aligned or x.stride(-1) != 1:
        x = x.clone(memory_format=torch.contiguous_format)
    return TensorDescriptor.from_tensor(x, block)
