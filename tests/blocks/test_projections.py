"""Linear layers applied together against the same layers one by one."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from jetlit.blocks import BLOCKS
from jetlit.blocks.projections import project

INPUTS = 33
WIDTHS = {"narrow": (3, 16, 7), "wide": (40, 17), "both": (17, 5, 64, 9), "one": (5,)}
widths = pytest.mark.parametrize("sizes", WIDTHS.values(), ids=WIDTHS)


def draw(sizes: tuple[int, ...], bias: bool = False, dtype: torch.dtype = torch.float64):
    torch.manual_seed(0)
    layers = nn.ModuleList(nn.Linear(INPUTS, size, bias=bias, dtype=dtype) for size in sizes)
    x = torch.randn(2, 5, INPUTS, dtype=dtype, requires_grad=True)
    return layers, x, [torch.randn(2, 5, size, dtype=dtype) for size in sizes]


def gradients(outputs, x, layers, upstream):
    return torch.autograd.grad(outputs, [x, *layers.parameters()], upstream)


@widths
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_those_of_separate_layers(sizes, bias):
    layers, x, upstream = draw(sizes, bias)
    together, separate = project(x, layers), [layer(x) for layer in layers]
    pairs = zip(gradients(together, x, layers, upstream), gradients(separate, x, layers, upstream), strict=True)
    for a, b in [*zip(together, separate, strict=True), *pairs]:
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@widths
def test_autocast_multiplies_in_bfloat16_and_keeps_float32_gradients(sizes):
    layers, x, upstream = draw(sizes, True, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        together = project(x, layers)
    exact = gradients([layer(x) for layer in layers], x, layers, upstream)
    found = gradients(together, x, layers, [u.bfloat16() for u in upstream])
    assert all(output.dtype == torch.bfloat16 for output in together)
    for a, b in zip(found, exact, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() < 1e-2 * b.norm()


@widths
def test_frozen_layers_get_no_gradient_and_pass_one_on(sizes):
    layers, x, upstream = draw(sizes)
    layers.requires_grad_(False)
    torch.autograd.backward(project(x, layers), upstream)
    expected = sum(u @ layer.weight for u, layer in zip(upstream, layers, strict=True))
    torch.testing.assert_close(x.grad, expected)
    assert all(parameter.grad is None for parameter in layers.parameters())


def test_biased_and_unbiased_layers_may_be_mixed():
    layers, x, _ = draw((4, 5, 17), bias=True)
    layers.append(nn.Linear(INPUTS, 6, bias=False, dtype=torch.float64))
    for a, b in zip(project(x, layers), [layer(x) for layer in layers], strict=True):
        torch.testing.assert_close(a, b)


def test_without_gradients_the_values_are_the_same_to_the_bit():
    layers, x, _ = draw((4, 17))
    with torch.no_grad():
        quiet = project(x, layers)
    assert all(torch.equal(a, b) and not a.requires_grad for a, b in zip(quiet, project(x, layers), strict=True))


def test_layers_with_hooks_or_of_another_class_are_called():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    layers, x, _ = draw((4, 4))
    layers[0].register_forward_hook(lambda module, args, output: output + 1)
    torch.testing.assert_close(project(x, layers)[0], layers[0](x))
    doubled = Doubled(INPUTS, 4, dtype=torch.float64)
    torch.testing.assert_close(project(x, [doubled])[0], 2 * nn.functional.linear(x, doubled.weight, doubled.bias))


class Operations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("sizes", "joined"), [((17, 18), 0), ((17, 3, 4), 2), ((17, 3), 0)])
def test_gradients_are_joined_for_narrow_layers_alone(sizes, joined):
    layers, x, upstream = draw(sizes)
    with Operations() as operations:  # the narrow layers' weights, and later the gradients of their outputs
        torch.autograd.backward(project(x, layers), upstream)
    assert operations.names.count("cat") == joined


@pytest.mark.parametrize(("hidden", "heads", "size"), [(1536, 12, 96), (2048, 16, 128), (576, 9, 64), (64, 4, 16)])
@torch.no_grad()
def test_a_jet_block_projects_in_five_products(hidden, heads, size):
    with torch.device("meta"):
        block = BLOCKS["jet"](hidden, heads, size)
        x = torch.empty(2, 5, hidden)
    generator = block.dynamic_conv1d.kernel_generator
    wide = [block.q_proj, block.k_proj, block.v_proj, block.g_proj]
    narrow = [generator.w1, block.a_proj, block.b_proj]
    outputs = project(x, [*wide, *narrow])
    assert all(output.is_contiguous() for output in outputs[:4])
    widths = sum(layer.out_features for layer in narrow)
    assert all(output.stride() == (5 * widths, widths, 1) for output in outputs[4:])


def test_compiles_without_graph_break():
    layers, x, upstream = draw((17, 5), dtype=torch.float32)
    compiled = torch.compile(lambda x: project(x, layers), fullgraph=True, backend="aot_eager")
    pairs = zip(
        gradients(compiled(x), x, layers, upstream), gradients(project(x, layers), x, layers, upstream), strict=True
    )
    for a, b in pairs:
        torch.testing.assert_close(a, b)
