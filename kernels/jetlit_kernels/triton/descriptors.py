"""Tensor descriptors, through which kernels load whole tiles: by TMA on Hopper; elsewhere Triton makes pointers."""

import torch
import torch.nn.functional as F
from triton.tools.tensor_descriptor import TensorDescriptor


def described(x: torch.Tensor, block: list[int]) -> TensorDescriptor:
    """Describes `x` to kernels that load blocks of it, with zeros out of range.

    Args:
        x: copied if its rows are not contiguous or do not lie on 16 bytes.
        block: a tile's size in every dimension.
    """
    missing = -x.shape[-1] % (16 // x.element_size())
    # Padding by nothing would copy.
    x = (F.pad(x, (0, missing)) if missing else x).contiguous()
    if x.data_ptr() % 16:
        x = x.clone()
    return TensorDescriptor.from_tensor(x, block)
