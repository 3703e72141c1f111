"""rotate_and_store against a rotation by complex numbers in float64."""

import pytest
import torch
from jetlit_kernels import rotate_and_store

from tests.kernels.backends import BACKENDS, assert_near


def rotated(heads, angles, norm_weight, eps):
    """Heads [B, H, D]; coordinates i and i + D/2 are one complex number, turned by angle i."""
    if norm_weight is not None:
        heads = heads / (heads.pow(2).mean(-1, keepdim=True) + eps).sqrt() * norm_weight
    half = heads.shape[-1] // 2
    turned = torch.complex(heads[..., :half], heads[..., half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((turned.real, turned.imag), -1)


def draw(batch, queries, groups, slots, size, dtype, normed, device="cpu"):
    torch.manual_seed(size)
    angles = torch.rand(size // 2, device=device, dtype=torch.float64) * 6
    tensors = {
        "projected": torch.randn(batch, (queries + 2 * groups) * size, device=device, dtype=dtype),
        "cos": angles.cos().repeat(2).to(dtype),
        "sin": angles.sin().repeat(2).to(dtype),
        "keys": torch.randn(batch, groups, slots, size, device=device, dtype=dtype),
        "values": torch.randn(batch, groups, slots, size, device=device, dtype=dtype),
    }
    if normed:
        tensors["norm_weights"] = tuple(torch.randn(2, size, device=device, dtype=dtype))
    return tensors, angles


def expected(tensors, angles, position, groups, eps=1e-3):
    keys, values = tensors["keys"].double().clone(), tensors["values"].double().clone()
    heads = tensors["projected"].double().unflatten(1, (-1, keys.shape[-1]))
    norms = [None, None] if "norm_weights" not in tensors else [w.double() for w in tensors["norm_weights"]]
    slot = position % keys.shape[2]
    keys[:, :, slot] = rotated(heads[:, -2 * groups : -groups], angles, norms[1], eps)
    values[:, :, slot] = heads[:, -groups:]
    return rotated(heads[:, : -2 * groups], angles, norms[0], eps), keys, values


@BACKENDS
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize(
    ("batch", "queries", "groups", "slots", "size", "position"), [(1, 4, 2, 9, 16, 8), (3, 3, 1, 5, 12, 13)]
)
def test_matches_definition(batch, queries, groups, slots, size, position, normed, backend, dtype, tolerance):
    tensors, angles = draw(batch, queries, groups, slots, size, dtype, normed)
    wanted = expected(tensors, angles, position, groups)
    query = rotate_and_store(**tensors, position=torch.tensor([position]), norm_eps=1e-3, backend=backend)
    assert_near([query, tensors["keys"], tensors["values"]], wanted, tolerance)


@pytest.mark.parametrize("wrong", ["projected", "cos", "values"])
def test_refuses_shapes_that_disagree(wrong):
    tensors, _ = draw(2, 4, 2, 5, 8, torch.float32, False)
    tensors[wrong] = tensors[wrong][..., :-1]
    with pytest.raises(ValueError, match="rotate_and_store needs"):
        rotate_and_store(**tensors, position=torch.tensor([0]))
