"""Operators of JetBlock and its rivals: Triton kernels, plain-PyTorch references, and the dispatch between them."""

from jetlit_kernels.decode_attention import decode_attention
from jetlit_kernels.decode_step import jet_decode_step, recurrent_step
from jetlit_kernels.dplr_delta_rule import dplr_delta_rule
from jetlit_kernels.dynamic_conv import dynamic_conv
from jetlit_kernels.gated_delta_rule import gated_delta_rule
from jetlit_kernels.gated_norm import gated_rms_norm
from jetlit_kernels.gates import log_decay_and_beta
from jetlit_kernels.linear_attention import linear_attention
from jetlit_kernels.narrow_linear import narrow_linear
from jetlit_kernels.rotate import rotary_angles, rotate
from jetlit_kernels.rotate_and_store import rotate_and_store
from jetlit_kernels.short_conv import short_conv
from jetlit_kernels.silu import silu
from jetlit_kernels.swiglu import silu_mul
from jetlit_kernels.token_losses import (
    cross_entropy_with_gradient,
    kl_with_gradient,
    relative_error_with_gradient,
)
from jetlit_kernels.window_attention import window_attention

__all__ = [
    "cross_entropy_with_gradient",
    "decode_attention",
    "dplr_delta_rule",
    "dynamic_conv",
    "gated_delta_rule",
    "gated_rms_norm",
    "jet_decode_step",
    "kl_with_gradient",
    "linear_attention",
    "log_decay_and_beta",
    "narrow_linear",
    "recurrent_step",
    "relative_error_with_gradient",
    "rotary_angles",
    "rotate",
    "rotate_and_store",
    "short_conv",
    "silu",
    "silu_mul",
    "window_attention",
]
