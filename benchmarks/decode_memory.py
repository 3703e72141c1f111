"""What a decode step reads beside weights: recurrent states and keys and values, by configuration of their kernels.

    python benchmarks/decode_memory.py --batch 128 --context 65536
    python benchmarks/decode_memory.py --batch 1 --context 4096

The 2B's shapes in bf16, states in float32. Each line is one layer's kernel; its bound is the bytes it must move.
`decode_attention.py` compares the attention with PyTorch's own.
"""

import argparse
import functools
import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from jetlit_kernels.decode_attention import kernels as decode_attention
from jetlit_kernels.decode_step import kernels as decode_step
from reporting import RESULTS, report
from timing import ceilings, milliseconds

HEADS, KEY, VALUE, TAPS = 12, 96, 256, 4
KV_HEADS, SIZE = 2, 128


def state_step(batch: int) -> tuple[Callable[[Any], Any], int]:
    """Return the JetBlock's step, by configuration, and the bytes of its state read and written."""

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device="cuda").bfloat16()

    tensors = [draw(batch, HEADS, KEY), draw(batch, HEADS, KEY), draw(batch, HEADS, VALUE), draw(batch, HEADS, VALUE)]
    tensors += [draw(batch, HEADS), draw(batch, HEADS), draw(batch, HEADS * VALUE, TAPS)]
    tensors += [torch.zeros(HEADS, device="cuda"), torch.zeros(HEADS, device="cuda"), draw(VALUE)]
    tensors += [draw(batch, HEADS * VALUE, TAPS), torch.randn(batch, HEADS, KEY, VALUE, device="cuda")]
    names = ("q", "k", "v", "gate", "beta_logits", "a", "v_kernels", "A_log", "dt_bias", "norm_weight", "v_window")
    given = dict(zip((*names, "recurrent_state"), tensors, strict=True))
    switches = {"delta_rule": True, "qk_silu": True, "qk_l2norm": True, "norm_before_gate": True}
    given |= {"scale": KEY**-0.5, "norm_eps": 1e-5} | switches
    arguments = decode_step.Arguments(**{name: given.get(name) for name in decode_step.Arguments._fields})
    run = functools.partial(decode_step.recurrent_step, arguments)
    return lambda config: run(config=config), 2 * tensors[-1].nbytes


def attention(batch: int, context: int) -> tuple[Callable[[Any], Any], int]:
    """Return a token's attention, by configuration, and the bytes of keys and values."""
    query = torch.randn(batch, HEADS, SIZE, device="cuda").bfloat16()
    keys, values = torch.zeros(2, batch, KV_HEADS, context, SIZE, device="cuda", dtype=torch.bfloat16)
    seen = torch.tensor([context], device="cuda")
    run = functools.partial(decode_attention.forward, query, keys, values, seen, SIZE**-0.5)
    return lambda config: run(config=config), 2 * keys.nbytes


def rows(
    name: str, run: Callable[[Any], Any], moved: int, configs: Iterable[Any], used: Any, peak: float
) -> list[dict]:
    """Time every configuration inside a CUDA graph."""
    found = []
    for config in configs:
        try:
            run(config)
        except Exception as error:  # Triton's own classes differ by version; too many registers or too much memory
            print(f"{name}: {config} does not run ({type(error).__name__})")
            continue
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(8):
                run(config)
        microseconds = milliseconds(graph.replay, repeats=8) / 8 * 1e3
        bound = moved / peak * 1e6
        marks = {"µs": microseconds, "share of bound": bound / microseconds, "in use": "yes" if config == used else ""}
        found.append({"kernel": name, "configuration": str(config)} | marks)
    return found


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--context", type=int, default=65536)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    peak = ceilings()["bytes"]
    steps = [decode_step.Config(*values) for values in itertools.product((32, 64, 128, 256), (4, 8, 16))]
    in_use = decode_step.choose(arguments.batch * HEADS, KEY, VALUE)
    table = rows("jet_decode_step", *state_step(arguments.batch), steps, in_use, peak)
    splits = [decode_attention.Config(*values) for values in itertools.product((64, 128), (4, 8), (2, 3, 4))]
    in_use = decode_attention.Config()
    table += rows("decode_attention", *attention(arguments.batch, arguments.context), splits, in_use, peak)
    notes = f"Device copy {peak / 1e12:.2f} TB/s, bytes read and written; below some 50 MB the L2 cache serves repeats."
    title = f"States, keys and values of a decode step, batch {arguments.batch}, {arguments.context} tokens"
    report(f"decode_memory_{arguments.batch}x{arguments.context}", title, table, notes, arguments.out)


if __name__ == "__main__":
    main()
