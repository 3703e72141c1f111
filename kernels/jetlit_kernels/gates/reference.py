"""Plain-PyTorch gates of a JetBlock."""

import torch
import torch.nn.functional as F

from jetlit_kernels.dtypes import compute_dtype


def log_decay_and_beta(
    beta_logits: torch.Tensor, a: torch.Tensor, A_log: torch.Tensor, dt_bias: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute `jetlit_kernels.log_decay_and_beta`, differentiable by autograd."""
    dtype = compute_dtype(a)
    g = -A_log.to(dtype).exp() * F.softplus(a.to(dtype) + dt_bias.to(dtype))
    return g, beta_logits.to(dtype).sigmoid()
