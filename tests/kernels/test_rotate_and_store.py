"""rotate_and_store against a rotation by complex numbers in float64."""

import pytest
import torch
from jetlit_kernels import rotate_and_store

from tests.kernels.backends import BACKENDS, assert_near


def rotated(heads, angles, norm_weight, eps):
    """Heads [B, H, T, D]; coordinates i and i + D/2 of token t are one complex number, turned by angle [t, i]."""
    if norm_weight is not None:
        heads = heads / (heads.pow(2).mean(-1, keepdim=True) + eps).sqrt() * norm_weight
    half = heads.shape[-1] // 2
    turned = torch.complex(heads[..., :half], heads[..., half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((turned.real, turned.imag), -1)


def draw(batch, length, queries, groups, slots, size, dtype, normed, device="cpu"):
    torch.manual_seed(size)
    angles = torch.rand(length, size // 2, device=device, dtype=torch.float64) * 6
    tensors = {
        "projected": torch.randn(batch, length, (queries + 2 * groups) * size, device=device, dtype=dtype),
        "cos": angles.cos().repeat(1, 2).to(dtype),
        "sin": angles.sin().repeat(1, 2).to(dtype),
        "keys": torch.randn(batch, groups, slots, size, device=device, dtype=dtype),
        "values": torch.randn(batch, groups, slots, size, device=device, dtype=dtype),
    }
    if normed:
        tensors["norm_weights"] = tuple(torch.randn(2, size, device=device, dtype=dtype))
    return tensors, angles


def expected(tensors, angles, position, groups, eps=1e-3):
    keys, values = tensors["keys"].double().clone(), tensors["values"].double().clone()
    heads = tensors["projected"].double().unflatten(2, (-1, keys.shape[-1])).transpose(1, 2)
    norms = [None, None] if "norm_weights" not in tensors else [w.double() for w in tensors["norm_weights"]]
    slots = [(position + t) % keys.shape[2] for t in range(heads.shape[2])]
    keys[:, :, slots] = rotated(heads[:, -2 * groups : -groups], angles, norms[1], eps)
    values[:, :, slots] = heads[:, -groups:]
    return rotated(heads[:, : -2 * groups], angles, norms[0], eps), keys, values


@BACKENDS
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize(
    ("batch", "length", "queries", "groups", "slots", "size", "position"),
    [(1, 1, 4, 2, 9, 16, 8), (3, 1, 3, 1, 5, 12, 13), (2, 40, 5, 2, 43, 12, 1), (1, 70, 6, 3, 70, 8, 5)],
)
def test_matches_definition(batch, length, queries, groups, slots, size, position, normed, backend, dtype, tolerance):
    tensors, angles = draw(batch, length, queries, groups, slots, size, dtype, normed)
    wanted = expected(tensors, angles, position, groups)
    query = rotate_and_store(**tensors, position=torch.tensor([position]), norm_eps=1e-3, backend=backend)
    assert_near([query, tensors["keys"], tensors["values"]], wanted, tolerance)


@pytest.mark.parametrize("wrong", ["projected", "cos", "values", "longer than the cache"])
def test_refuses_shapes_that_disagree(wrong):
    tensors, _ = draw(2, 3, 4, 2, 5, 8, torch.float32, False)
    if wrong in tensors:
        tensors[wrong] = tensors[wrong][..., :-1]
    else:
        tensors, _ = draw(2, 6, 4, 2, 5, 8, torch.float32, False)
    with pytest.raises(ValueError, match="rotate_and_store needs"):
        rotate_and_store(**tensors, position=torch.tensor([0]))
