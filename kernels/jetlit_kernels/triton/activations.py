"""SiLU inside Triton kernels."""

import triton
import triton.language as tl


@triton.jit
def sigmoid(x):
    """σ(x) of float32 numbers."""
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def silu(x):
    """x σ(x) of float32 numbers."""
    return x / (1.0 + tl.exp(-x))


@triton.jit
def silu_slope(x):
    """The derivative of SiLU at float32 numbers."""
    gate = sigmoid(x)
    return gate * (1.0 + x * (1.0 - gate))
