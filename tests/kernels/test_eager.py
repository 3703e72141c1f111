"""Eager calls of the operators pass torch.library's dispatch; compilers get the operator. Both give the same."""

import torch
import torch.utils.checkpoint
from jetlit_kernels.operators import differentiable, is_eager, without_gradient

calls: list[str] = []


def _cube(x: torch.Tensor, scale: float) -> torch.Tensor:
    calls.append("forward")
    return scale * x**3


def _slope(d_out: torch.Tensor, x: torch.Tensor, scale: float) -> torch.Tensor:
    calls.append("backward")
    return 3 * scale * x**2 * d_out


_operator = torch.library.custom_op("jetlit_tests::cube", _cube, mutates_args=())
_backward_operator = torch.library.custom_op("jetlit_tests::slope", _slope, mutates_args=())
_operator.register_fake(lambda x, scale: torch.empty_like(x))
_backward_operator.register_fake(lambda d_out, x, scale: torch.empty_like(x))
_gradient = without_gradient(_backward_operator, _slope)


def _save(ctx, inputs, output):
    x, ctx.scale = inputs
    ctx.save_for_backward(x)


def _backward(ctx, d_out):
    return _gradient(d_out, *ctx.saved_tensors, ctx.scale), None


cube = differentiable(_operator, _cube, _save, _backward)


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
