"""What the tests of blocks share: a layer cache as simple as the contract, and blocks whose every parameter matters."""

import torch

from jetlit.blocks import BLOCKS, LinearMixer

LINEAR = [name for name, block in BLOCKS.items() if issubclass(block, LinearMixer)]
HIDDEN = 22


def add_block(monkeypatch, name, block):
    """Enters a block in the table until the test ends."""
    monkeypatch.setitem(BLOCKS._entries, name, block)


class DictCache:
    """The state cache of one layer: named tensors, written in place once allocated."""

    def __init__(self):
        self.tensors = {}

    def read(self, name):
        return self.tensors.get(name)

    def write(self, name, tensor):
        if name in self.tensors:
            self.tensors[name].copy_(tensor)
        else:
            self.tensors[name] = tensor.detach().clone(memory_format=torch.contiguous_format)


def lively(block, seed=0):
    """Move every parameter off its starting value, so that none is zero or one by initialization."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator).to(parameter))
    return block


def make(name, seed=0, dtype=torch.float32, **config):
    torch.manual_seed(seed)
    sizes = {"num_heads": 3, "head_dim": 6, "expand_v": 1.5} | config
    return lively(BLOCKS[name](hidden_size=HIDDEN, **sizes), seed).to(dtype).eval()


def inputs(*shape, seed=1, dtype=torch.float32):
    return torch.randn(*shape, HIDDEN, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def assert_agree(actual, expected):
    """Equal to 2e-5 of the largest number: elements may be small differences of large sums."""
    scale = expected.abs().max().clamp(min=1e-3)
    torch.testing.assert_close(actual / scale, expected / scale, rtol=0, atol=2e-5)
