"""Plain-PyTorch decode step of a JetBlock: everything between its projections, for one token per sequence."""

import torch
import torch.nn.functional as F

from jetlit_kernels.decode_step.arguments import Arguments
from jetlit_kernels.dtypes import compute_dtype
from jetlit_kernels.gated_norm.arguments import Arguments as NormArguments
from jetlit_kernels.gated_norm.reference import gated_rms_norm
from jetlit_kernels.gates import log_decay_and_beta


def jet_decode_step(x: Arguments) -> torch.Tensor:
    """Compute `jetlit_kernels.jet_decode_step`; both states are updated in place."""
    dtype = compute_dtype(x.q)
    batch, heads, value_dim = x.v.shape

    newest = x.v.reshape(batch, -1, 1).to(x.conv_state.dtype)
    x.conv_state.copy_(torch.cat([x.conv_state[:, :, 1:], newest], dim=-1))
    kernels = x.conv_kernels.to(dtype).view(batch, heads * value_dim, -1)
    value = F.silu((kernels * x.conv_state.to(dtype)).sum(-1)).view(batch, heads, value_dim)
    query = _unit(F.silu(x.q.to(dtype))) * x.scale
    key = _unit(F.silu(x.k.to(dtype)))
    log_decay, beta = log_decay_and_beta(x.beta_logits, x.a, x.A_log, x.dt_bias)

    state = x.recurrent_state.to(dtype) * log_decay.to(dtype).exp()[..., None, None]
    write = beta.to(dtype)[..., None] * (value - torch.einsum("bhkv,bhk->bhv", state, key))
    state = state + key[..., None] * write[..., None, :]
    x.recurrent_state.copy_(state)
    o = torch.einsum("bhkv,bhk->bhv", state, query)
    return gated_rms_norm(NormArguments(o, x.gate, x.norm_weight, None, None, x.norm_eps, True)).to(x.v.dtype)


def _unit(x: torch.Tensor) -> torch.Tensor:
    """L2-normalize over the last dimension (checkpoint format, step 4)."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)
