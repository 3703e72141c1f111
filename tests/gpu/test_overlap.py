"""Launches that overlap: a chain of kernels that read and change what the one before has written."""

import pytest
import torch
from jetlit_kernels import decode_attention, jet_decode_step, narrow_linear, rotate_and_store

pytest.importorskip("triton")
from jetlit_kernels.overlap import overlapped

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: the kernels are compiled and timed"),
]
WIDTH, INNER, HEADS, GROUPS, SIZE, SLOTS = 1536, 8960, 12, 2, 128, 300
LAYERS = 12


def test_it_is_used_from_hopper_on():
    x = torch.zeros(1, device="cuda")
    assert overlapped(x)["OVERLAP"] == (torch.cuda.get_device_capability() >= (9, 0))
    assert not overlapped(x.cpu())["OVERLAP"]


@torch.inference_mode()
@pytest.mark.parametrize("rows", [1, 3])
def test_a_chain_gives_what_it_gives_with_a_wait_after_each_kernel(rows):
    chain = Chain(rows)
    chain.run()  # compiled here, so that the runs below are launched without a pause
    chain.reset()
    chain.run(wait=torch.cuda.synchronize)
    expected = chain.results()
    for _ in range(5):
        chain.reset()
        chain.run()
        assert all(map(torch.equal, chain.results(), expected))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        chain.run()
    for _ in range(5):
        chain.reset()
        graph.replay()
        assert all(map(torch.equal, chain.results(), expected))


class Chain:
    """Layers of attention, a JetBlock's step and an MLP, each adding to one hidden state in place."""

    def __init__(self, rows: int) -> None:
        generator = torch.Generator("cuda").manual_seed(rows)

        def draw(*shape: int) -> torch.Tensor:
            return torch.randn(shape, device="cuda", generator=generator)

        def weight(outputs: int, inputs: int) -> torch.Tensor:
            return (draw(outputs, inputs) * inputs**-0.5).bfloat16()

        self.begin = draw(rows, WIDTH).bfloat16()
        self.norm = draw(WIDTH).bfloat16()
        self.attention_in, self.attention_out = weight((HEADS + 2 * GROUPS) * SIZE, WIDTH), weight(WIDTH, HEADS * SIZE)
        self.jet_in, self.w2, self.jet_out = weight(8856, WIDTH), weight(12288, 384), weight(WIDTH, 3072)
        self.mlp_in, self.mlp_out = weight(2 * INNER, WIDTH), weight(WIDTH, INNER)
        self.angles = draw(2, 1, SIZE).bfloat16()
        self.position, self.seen = torch.tensor([[40], [41]], device="cuda")
        self.cache = draw(2, rows, GROUPS, SLOTS, SIZE).bfloat16()
        self.gates, self.head_norm = draw(2, HEADS), draw(256).bfloat16()
        self.conv, self.state = draw(rows, 3072, 4).bfloat16(), draw(rows, HEADS, 96, 256)
        self.changed = [self.begin.clone(), self.cache, self.conv, self.state]
        self.first = [x.clone() for x in self.changed]

    def reset(self) -> None:
        for x, first in zip(self.changed, self.first, strict=True):
            x.copy_(first)

    def results(self) -> list[torch.Tensor]:
        return [x.clone() for x in self.changed]

    def run(self, wait=lambda: None) -> None:
        hidden = self.changed[0]
        for _ in range(LAYERS):
            projected = narrow_linear(hidden, self.attention_in, norm_weight=self.norm)
            wait()
            query = rotate_and_store(projected[:, None], *self.angles, self.position, *self.cache)
            wait()
            output = decode_attention(query[:, :, 0], *self.cache, self.seen)
            wait()
            narrow_linear(output.flatten(1), self.attention_out, add_to=hidden)
            wait()
            *parts, inner = narrow_linear(hidden, self.jet_in, norm_weight=self.norm).split(
                [1152, 1152, 3072, 3072, HEADS, HEADS, 384], 1
            )
            wait()
            kernels = narrow_linear(inner, self.w2, silu_input=True)
            wait()
            q, k, v, gate = (x.unflatten(1, (HEADS, -1)) for x in parts[:4])
            o = jet_decode_step(
                q, k, v, gate, *parts[4:], kernels.unflatten(1, (-1, 4)), *self.gates, self.head_norm,
                self.conv, self.state,
            )  # fmt: skip
            wait()
            narrow_linear(o.flatten(1), self.jet_out, add_to=hidden)
            wait()
            inner = narrow_linear(hidden, self.mlp_in, norm_weight=self.norm, swiglu=True)
            wait()
            narrow_linear(inner, self.mlp_out, add_to=hidden)
            wait()
