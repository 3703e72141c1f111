"""SiLU inside Triton kernels.

FAST takes the GPU's approximate exponential and division, for 16-bit results: they err by a few roundings of float32,
and give zero for σ below 2⁻¹²⁶. Triton's interpreter does not know them.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import libdevice


@triton.jit
def sigmoid(x, FAST: tl.constexpr = False):
    """Return σ(x) of float32 numbers."""
    return libdevice.fast_dividef(1.0, 1.0 + libdevice.fast_expf(-x)) if FAST else 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def silu(x, FAST: tl.constexpr = False):
    """Return x σ(x) of float32 numbers."""
    return libdevice.fast_dividef(x, 1.0 + libdevice.fast_expf(-x)) if FAST else x / (1.0 + tl.exp(-x))


@triton.jit
def silu_slope(x, FAST: tl.constexpr = False):
    """Return the derivative of SiLU at float32 numbers."""
    gate = sigmoid(x, FAST)
    return gate * (1.0 + x * (1.0 - gate))
