"""Eager calls of the operators pass torch.library's dispatch; compilers get the operator. Both give the same."""

from typing import NamedTuple

import torch
import torch.utils.checkpoint
from jetlit_kernels.operators import differentiable, is_eager

calls: list[str] = []


class Arguments(NamedTuple):
    x: torch.Tensor
    scale: float


def _cube(a: Arguments) -> torch.Tensor:
    calls.append("forward")
    return a.scale * a.x**3


def _slope(a: Arguments, kept: tuple[()], d_out: torch.Tensor) -> torch.Tensor:
    calls.append("backward")
    return 3 * a.scale * a.x**2 * d_out


_, cube = differentiable(
    "jetlit_tests::cube",
    Arguments,
    _cube,
    lambda a: torch.empty_like(a.x),
    _slope,
    lambda a: torch.empty_like(a.x),
    gradients=1,
)


def derivative(function) -> torch.Tensor:
    x = torch.arange(5.0, requires_grad=True)
    function(x).sum().backward()
    return x.grad


def test_a_compiled_call_is_one_operator_and_gives_what_an_eager_one_gives():
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph

    compiled = torch.compile(lambda x: cube(x, 0.5), fullgraph=True, backend=keep)
    x = torch.arange(5.0)
    assert torch.equal(compiled(x), cube(x, 0.5))
    assert [str(node.target) for node in graphs[0].graph.nodes if node.op == "call_function"] == [
        "jetlit_tests.cube.default"
    ]


def test_gradients_agree_with_autograd_eagerly_and_compiled():
    expected = derivative(lambda x: 0.5 * x**3)
    torch.testing.assert_close(derivative(lambda x: cube(x, 0.5)), expected)
    compiled = torch.compile(lambda x: cube(x, 0.5), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(derivative(compiled), expected)


def test_a_gradient_that_nobody_wants_is_not_computed():
    calls.clear()
    assert not cube(torch.ones(3), 2.0).requires_grad
    assert calls == ["forward"]


def test_a_layer_that_is_recomputed_has_the_same_gradient():
    calls.clear()
    recomputed = derivative(lambda x: torch.utils.checkpoint.checkpoint(cube, x, 0.5, use_reentrant=False))
    torch.testing.assert_close(recomputed, derivative(lambda x: 0.5 * x**3))
    assert calls == ["forward", "forward", "backward"]


def test_stand_ins_of_tensors_are_not_eager():
    from torch._subclasses.fake_tensor import FakeTensorMode

    assert is_eager((torch.ones(1), torch.nn.Parameter(torch.ones(1)), 3, None))
    with FakeTensorMode():
        fake = torch.ones(2)
        assert not is_eager((fake,))
        assert cube(fake, 1.0).shape == (2,)
