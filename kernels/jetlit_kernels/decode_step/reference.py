"""Plain-PyTorch decode step of a linear block: everything between its projections, for one token of each sequence."""

import torch
import torch.nn.functional as F

from jetlit_kernels.decode_step.arguments import Arguments
from jetlit_kernels.dtypes import compute_dtype
from jetlit_kernels.gated_norm.arguments import Arguments as NormArguments
from jetlit_kernels.gated_norm.reference import gated_rms_norm


def recurrent_step(x: Arguments) -> torch.Tensor:
    """Compute `jetlit_kernels.recurrent_step`; all states are updated in place."""
    dtype = compute_dtype(x.q)
    slots = torch.arange(len(x.q), device=x.q.device) if x.slots is None else x.slots.long()
    query, key, value = (
        _convolve(t.to(dtype), kernels, bias, window, slots)
        for t, kernels, bias, window in (
            (x.q, x.q_kernels, x.q_bias, x.q_window),
            (x.k, x.k_kernels, x.k_bias, x.k_window),
            (x.v, x.v_kernels, x.v_bias, x.v_window),
        )
    )
    value = value if x.v_window is None else F.silu(value)
    if x.qk_silu:
        query, key = F.silu(query), F.silu(key)
    if x.qk_l2norm:
        query, key = _unit(query), _unit(key)

    state = x.recurrent_state[slots].to(dtype)
    beta: torch.Tensor | None = None
    if x.a is not None and x.A_log is not None and x.dt_bias is not None:
        beta = F.softplus(x.a.to(dtype) + x.dt_bias.to(dtype))
        state = state * (-x.A_log.to(dtype).exp() * beta).exp()[..., None, None]
    elif x.log_decay is not None:
        decay = x.log_decay.to(dtype).exp()
        state = state * (decay if decay.ndim == 3 else decay[..., None])[..., None]
    if x.beta_logits is not None:
        beta = x.beta_logits.to(dtype).sigmoid()

    write = value - torch.einsum("bhkv,bhk->bhv", state, key) if x.delta_rule else value
    write = write if beta is None else beta[..., None] * write
    state = state + key[..., None] * write[..., None, :]
    x.recurrent_state[slots] = state.to(x.recurrent_state.dtype)
    o = torch.einsum("bhkv,bhk->bhv", state, query * x.scale)
    skip = None if x.skip_weight is None else value
    return gated_rms_norm(
        NormArguments(o, x.gate, x.norm_weight, skip, x.skip_weight, x.norm_eps, x.norm_before_gate)
    ).to(x.v.dtype)


def _convolve(
    x: torch.Tensor,
    kernels: torch.Tensor | None,
    bias: torch.Tensor | None,
    window: torch.Tensor | None,
    slots: torch.Tensor,
) -> torch.Tensor:
    """Append x [B, H, D] to the windows in `slots`; return the convolution there, or x without windows."""
    if window is None or kernels is None:
        return x
    inputs = torch.cat([window[slots][:, :, 1:], x.reshape(len(x), -1, 1).to(window.dtype)], dim=-1)
    window[slots] = inputs
    y = (kernels.to(x.dtype) * inputs.to(x.dtype)).sum(-1)
    return (y if bias is None else y + bias.to(x.dtype)).view(x.shape)


def _unit(x: torch.Tensor) -> torch.Tensor:
    """L2-normalize over the last dimension (checkpoint format, step 4)."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)
