"""Plain-PyTorch rotation of queries and keys, and the place of keys and values in the cache."""

import torch
import torch.nn.functional as F


def rotate_and_store(
    projected: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    position: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    norm_weights: tuple[torch.Tensor, torch.Tensor] | None,
    norm_eps: float,
) -> torch.Tensor:
    """Compute `jetlit_kernels.rotate_and_store`."""
    groups, size = keys.shape[1], keys.shape[3]
    heads = projected.unflatten(2, (-1, size)).transpose(1, 2)
    query, key, value = heads.split([heads.shape[1] - 2 * groups, groups, groups], 1)
    if norm_weights is not None:
        query = F.rms_norm(query, (size,), norm_weights[0], norm_eps)
        key = F.rms_norm(key, (size,), norm_weights[1], norm_eps)
    place = (position + torch.arange(projected.shape[1], device=position.device)) % keys.shape[2]
    keys.index_copy_(2, place, _rotate(key, cos, sin))
    values.index_copy_(2, place, value)
    return _rotate(query, cos, sin)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin
