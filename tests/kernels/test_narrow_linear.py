"""narrow_linear against its parts written out in float64."""

import pytest
import torch
from jetlit_kernels import narrow_linear

from tests.kernels.backends import BACKENDS, assert_near


def definition(x, weight, bias=None, norm_weight=None, norm_eps=1e-6, silu_input=False, swiglu=False, add_to=None):
    if norm_weight is not None:
        x = x / (x.pow(2).mean(-1, keepdim=True) + norm_eps).sqrt() * norm_weight
    if silu_input:
        x = x / (1 + (-x).exp())
    out = torch.einsum("bk,nk->bn", x, weight)
    if bias is not None:
        out = out + bias
    if swiglu:
        gate, up = out[:, : out.shape[1] // 2], out[:, out.shape[1] // 2 :]
        out = gate / (1 + (-gate).exp()) * up
    return out if add_to is None else out + add_to


def draw(rows, width, outputs, dtype, parts, device="cpu"):
    torch.manual_seed(width)
    shapes = {"bias": (outputs,), "norm_weight": (width,)}
    shapes["add_to"] = (rows, outputs // 2 if "swiglu" in parts else outputs)
    tensors = {
        "x": torch.randn(rows, width, device=device, dtype=dtype),
        "weight": torch.randn(outputs, width, device=device, dtype=dtype) * width**-0.5,
    }
    tensors |= {name: torch.randn(shapes[name], device=device, dtype=dtype) for name in parts if name in shapes}
    return tensors, {name: True for name in parts if name not in shapes}


def in_float64(tensors):
    return {name: x.double() for name, x in tensors.items()}


PARTS = pytest.mark.parametrize(
    "parts",
    [
        (),
        ("norm_weight", "bias"),
        ("silu_input", "bias"),
        ("norm_weight", "swiglu", "bias"),
        ("swiglu", "add_to"),
        ("add_to", "bias"),
    ],
    ids="-".join,
)


@BACKENDS
@PARTS
@pytest.mark.parametrize(
    ("rows", "width", "outputs"), [(1, 64, 34), (1, 1100, 10), (1, 4700, 6), (3, 100, 70), (16, 8, 2), (2, 130, 96)]
)
def test_matches_definition(rows, width, outputs, parts, backend, dtype, tolerance):
    tensors, switches = draw(rows, width, outputs, dtype, parts)
    expected = definition(**in_float64(tensors), **switches, norm_eps=1e-3)
    actual = narrow_linear(**tensors, **switches, norm_eps=1e-3, backend=backend)
    assert "add_to" not in parts or actual is tensors["add_to"]
    assert_near([actual], [expected], tolerance)


@BACKENDS
def test_a_part_of_a_merged_projection_as_input(backend, dtype, tolerance):
    tensors, switches = draw(4, 50, 20, dtype, ("silu_input",))
    x = tensors.pop("x")
    merged = torch.cat((torch.zeros(4, 7, dtype=dtype), x, torch.zeros(4, 3, dtype=dtype)), 1)
    actual = narrow_linear(merged[:, 7:57], **tensors, **switches, backend=backend)
    assert_near([actual], [definition(x.double(), **in_float64(tensors), **switches)], tolerance)


def test_takes_any_number_of_rows_without_triton():
    tensors, switches = draw(40, 24, 12, torch.float64, ("norm_weight", "swiglu"))
    assert_near([narrow_linear(**tensors, **switches)], [definition(**tensors, **switches)], 1e-12)


@pytest.mark.parametrize("wrong", ["weight", "bias", "norm_weight", "add_to", "odd", "both"])
def test_refuses_what_does_not_fit(wrong):
    tensors, switches = draw(2, 8, 6, torch.float32, ("bias", "norm_weight", "add_to"))
    if wrong == "odd":
        tensors, switches = draw(2, 8, 7, torch.float32, ("swiglu",))
    elif wrong == "both":
        switches["silu_input"] = True
    else:
        tensors[wrong] = tensors[wrong][..., :-1]
    with pytest.raises(ValueError, match="narrow_linear needs"):
        narrow_linear(**tensors, **switches)
