"""Layers that are more than their weights: whatever stands around a layer takes part in what a block computes."""

import functools

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_map

from jetlit.blocks import Attention, get_block
from jetlit.blocks.projections import project
from jetlit.errors import UserError
from tests.blocks.cases import HIDDEN, LINEAR, DictCache, assert_agree, inputs, lively, make

ATTENTION = {"hidden_size": HIDDEN, "num_heads": 4, "num_kv_heads": 2, "head_dim": 6, "qk_norm": True}
every_mixer = pytest.mark.parametrize("name", [*LINEAR, "attn"])


class Wrapped(torch.Tensor):
    """A tensor subclass that stands for another tensor, as quantized weights do."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=inner.device)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function.overloadpacket is torch.ops.aten.cat:
            raise NotImplementedError("quantized weights cannot be joined")
        result = function(*tree_map(lambda x: x.inner if isinstance(x, cls) else x, args), **(kwargs or {}))
        return cls(result) if function.overloadpacket is torch.ops.aten.detach else result


def hooked(layer, delta):
    layer.register_forward_hook(lambda layer, args, output: output + args[0] @ delta.T)


def patched(layer, delta):
    plain = layer.forward
    layer.forward = lambda x: plain(x) + x @ delta.T


def parametrized(layer, delta):
    class Sum(nn.Module):
        def forward(self, weight):
            return weight + delta

    parametrize.register_parametrization(layer, "weight", Sum())


def subclassed(layer, delta):
    class Adapter(nn.Linear):
        def forward(self, x):
            return super().forward(x) + x @ delta.T

    layer.__class__ = Adapter


def wrapped(layer, delta):
    layer.weight = nn.Parameter(Wrapped((layer.weight + delta).detach()), requires_grad=False)


WAYS = {way.__name__: way for way in (hooked, patched, parametrized, subclassed, wrapped)}
ways = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def build(name):
    if name == "attn":
        torch.manual_seed(0)
        return lively(Attention(**ATTENTION)).eval()
    return make(name)


def linears(block):
    return {name: layer for name, layer in block.named_modules() if isinstance(layer, nn.Linear)}


def deltas(block):
    torch.manual_seed(5)
    return {name: 0.3 * torch.randn_like(layer.weight) for name, layer in linears(block).items()}


def run(block, x, *, token_by_token=False):
    """Mix [B, T, hidden] at once, or with a cache in a prefill and single tokens where the block is linear."""
    if not token_by_token or isinstance(block, Attention):
        return block(x)
    cache = DictCache()
    pieces = x.split([9, *[1] * (x.shape[1] - 9)], 1)
    return torch.cat([block(piece, cache=cache) for piece in pieces], 1)


@ways
@every_mixer
@torch.no_grad()
def test_a_changed_layer_is_a_merged_one(name, way):
    changed, merged, x = build(name), build(name), inputs(2, 13)
    for layer, delta in deltas(merged).items():
        way(changed.get_submodule(layer), delta)
        merged.get_submodule(layer).weight.add_(delta)
    for token_by_token in (False, True):
        assert_agree(run(changed, x, token_by_token=token_by_token), run(merged, x))
    if isinstance(changed, Attention):
        return
    bounds = torch.tensor([0, 5, 5, 13])
    assert_agree(changed(x[:1], cu_seqlens=bounds), merged(x[:1], cu_seqlens=bounds))


@every_mixer
def test_an_adapter_on_any_layer_learns_as_a_merged_one(name):
    adapted, merged, x = build(name), build(name), inputs(2, 13)
    found = deltas(adapted)
    for layer, delta in found.items():
        patched(adapted.get_submodule(layer), delta.requires_grad_())
        with torch.no_grad():
            merged.get_submodule(layer).weight.add_(delta)
    adapted(x).square().sum().backward()
    merged(x).square().sum().backward()
    for layer, delta in found.items():
        assert_agree(delta.grad, merged.get_submodule(layer).weight.grad)


def offload(module):
    """Keep a module's own parameters elsewhere but while its forward runs, as offloading libraries do."""
    kept, forward = dict(module._parameters), module.forward
    away = {name: None if p is None else nn.Parameter(p.to("meta"), False) for name, p in kept.items()}

    @functools.wraps(forward)
    def forward_with_weights(*args, **kwargs):
        module._parameters.update(kept)
        try:
            return forward(*args, **kwargs)
        finally:
            module._parameters.update(away)

    module.forward = forward_with_weights
    module._parameters.update(away)


@every_mixer
@torch.no_grad()
def test_weights_that_are_there_only_while_a_module_runs_are_enough(name):
    block, x = build(name), inputs(2, 13)
    expected = run(block, x)
    for module in block.modules():
        if any(parameter is not None for parameter in module._parameters.values()):
            offload(module)
    for token_by_token in (False, True):
        assert_agree(run(block, x, token_by_token=token_by_token), expected)


@ways
def test_attention_that_is_more_than_its_weights_is_not_inherited(way):
    attention = Attention(**ATTENTION)
    way(attention.v_proj, torch.zeros_like(attention.v_proj.weight))
    for name in ("gla", "jet", "swa"):
        with pytest.raises(UserError, match="merge adapters"):
            get_block(name).from_attention(attention, **({"window_size": 4} if name == "swa" else {}))


@ways
def test_projections_call_what_is_more_than_its_weights(way):
    layers = [nn.Linear(HIDDEN, 4) for _ in range(3)]
    x, delta = inputs(2, 5), torch.randn(4, HIDDEN)
    expected = [layer(x) for layer in layers]
    way(layers[1], delta)
    expected[1] = expected[1] + x @ delta.T
    for a, b in zip(project(x, layers), expected, strict=True):
        torch.testing.assert_close(a, b)
