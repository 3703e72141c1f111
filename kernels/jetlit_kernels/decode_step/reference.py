"""Plain-PyTorch decode step of a JetBlock: everything between its projections, for one token a sequence."""

import torch
import torch.nn.functional as F

from jetlit_kernels.dynamic_conv.reference import accumulate_dtype
from jetlit_kernels.gated_norm.reference import gated_rms_norm
from jetlit_kernels.gates import log_decay_and_beta


def jet_decode_step(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    gate: torch.Tensor,
    beta_logits: torch.Tensor,
    a: torch.Tensor,
    conv_kernels: torch.Tensor,
    A_log: torch.Tensor,
    dt_bias: torch.Tensor,
    norm_weight: torch.Tensor,
    conv_state: torch.Tensor,
    recurrent_state: torch.Tensor,
    *,
    scale: float,
    norm_eps: float,
) -> torch.Tensor:
    """Reference of `jetlit_kernels.jet_decode_step`; same arguments and result, both states updated in place."""
    dtype = accumulate_dtype(q.dtype)
    batch, heads, _ = q.shape
    value_dim = v.shape[-1]

    conv_state.copy_(torch.cat([conv_state[:, :, 1:], v.reshape(batch, -1, 1).to(conv_state.dtype)], dim=-1))
    kernels = conv_kernels.to(dtype).view(batch, heads * value_dim, -1)
    value = F.silu((kernels * conv_state.to(dtype)).sum(-1)).view(batch, heads, value_dim)
    query = _unit(F.silu(q.to(dtype))) * scale
    key = _unit(F.silu(k.to(dtype)))
    log_decay, beta = log_decay_and_beta(beta_logits, a, A_log, dt_bias)

    state = recurrent_state.to(dtype) * log_decay.to(dtype).exp()[..., None, None]
    write = beta.to(dtype)[..., None] * (value - torch.einsum("bhkv,bhk->bhv", state, key))
    state = state + key[..., None] * write[..., None, :]
    recurrent_state.copy_(state)
    o = torch.einsum("bhkv,bhk->bhv", state, query)
    return gated_rms_norm(o, gate, norm_weight, norm_eps).to(v.dtype)


def _unit(x: torch.Tensor) -> torch.Tensor:
    """L2-normalise over the last dimension (checkpoint format, step 4)."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)
