"""A decode step's attention: the Triton kernel against PyTorch's and FlashInfer's, in one process, with errors.

    python benchmarks/decode_attention.py                      # every setting
    python benchmarks/decode_attention.py --settings 2B-1      # one sequence of the 2B's heads

FlashInfer is compared where it is installed; it compiles its kernels with nvcc on first use, about a minute.
One layer in bf16, 64K slots of cache. Each is timed in a CUDA graph over copies of the cache that the L2 cache cannot
hold. The engine's graph serves every length, so the number of filled slots must come from a tensor on the device: half
the cache is timed only where a function can do that. Errors are those of one sequence against float64.
"""

import argparse
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jetlit_kernels import decode_attention
from reporting import RESULTS, report, with_earlier
from timing import ceilings, milliseconds
from torch.nn.attention.flex_attention import flex_attention

SLOTS, SIZE = 65536, 128
PAGE = 16  # slots of a page, FlashInfer's unit of splitting
L2_BYTES = 256 * 2**20  # several times that of any card
# Query heads, key/value heads, sequences.
SETTINGS = {
    "2B-1": (12, 2, 1),
    "2B-128": (12, 2, 128),
    "Qwen3-1.7B-1": (16, 8, 1),
    "Qwen3-1.7B-8": (16, 8, 8),
}
# Takes query [B, Hq, D], keys and values [B, Hkv, S, D] and the number of filled slots [1]; returns [B, Hq, D].
Candidate = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def own(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Attend with this project's kernel."""
    return decode_attention(query, keys, values, seen)


def sdpa(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """PyTorch's; it sees every slot, since with a mask it has no kernel that shares keys among heads."""
    return F.scaled_dot_product_attention(query[:, :, None], keys, values, enable_gqa=True)[:, :, 0]


def sdpa_by_group(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """PyTorch's, with the query heads of a group in the place of tokens."""
    grouped = query.unflatten(1, (keys.shape[1], -1))
    return F.scaled_dot_product_attention(grouped, keys, values).flatten(1, 2)


def sdpa_repeated(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """PyTorch's, with a copy of keys and values for every query head."""
    group = query.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(group, 1), values.repeat_interleave(group, 1)
    return F.scaled_dot_product_attention(query[:, :, None], keys, values)[:, :, 0]


def flex(compiled: Callable[..., Any]) -> Candidate:
    """PyTorch's flex_attention; slots that are not filled weigh nothing, but are read."""

    def run(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        def filled(score: torch.Tensor, batch: Any, head: Any, position: Any, slot: torch.Tensor) -> torch.Tensor:
            return torch.where(slot < seen[0], score, -float("inf"))

        return compiled(query[:, :, None], keys, values, score_mod=filled, enable_gqa=True)[:, :, 0]

    return run


def paged(cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """View a cache [B, Hkv, S, D] as pages [pages, Hkv, PAGE, D]; and the sequences' pages [B, S / PAGE].

    Consecutive pages are consecutive slots of one head, so that a sequence's numbers begin Hkv · S / PAGE later than
    those of the one before, and those between are never used.
    """
    batch, groups, slots, size = cache.shape
    own_pages, between = slots // PAGE, groups * slots // PAGE
    starts = torch.arange(batch, dtype=torch.int32, device=cache.device) * between
    numbers = starts[:, None] + torch.arange(own_pages, dtype=torch.int32, device=cache.device)
    shape = ((batch - 1) * between + own_pages, groups, PAGE, size)
    return cache.as_strided(shape, (PAGE * size, slots * size, size, 1)), numbers


class FlashInfer:
    """FlashInfer's, with tensor cores as it advises for groups; planned on the host for one length, all slots."""

    def __init__(self) -> None:
        self.planned: tuple[torch.Size, torch.Size] | None = None
        self.wrapper: Any = None

    def __call__(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, seen: torch.Tensor
    ) -> torch.Tensor:
        if self.planned != (query.shape, keys.shape):
            self._plan(query, keys)
        return self.wrapper.run(query, (paged(keys)[0], paged(values)[0]))

    def _plan(self, query: torch.Tensor, keys: torch.Tensor) -> None:
        import flashinfer

        workspace = torch.empty(2**28, dtype=torch.uint8, device=query.device)
        self.wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(workspace, "HND", use_tensor_cores=True)
        batch, groups, slots, size = keys.shape
        numbers = paged(keys)[1]
        self.wrapper.plan(
            torch.arange(batch + 1, dtype=torch.int32) * (slots // PAGE),
            numbers.flatten(),
            torch.full((batch,), PAGE, dtype=torch.int32),
            query.shape[1],
            groups,
            size,
            PAGE,
            q_data_type=query.dtype,
            kv_data_type=keys.dtype,
        )
        self.planned = (query.shape, keys.shape)


def candidates(compiled: Callable[..., Any]) -> dict[str, tuple[Candidate, bool]]:
    """Return every function that is installed, and whether it follows the number of filled slots.

    Args:
        compiled: flex_attention, compiled if asked for.
    """
    found: dict[str, tuple[Candidate, bool]] = {
        "decode_attention": (own, True),
        "scaled_dot_product_attention": (sdpa, False),
        "the same, heads as tokens": (sdpa_by_group, False),
        "the same, heads repeated": (sdpa_repeated, False),
        "flex_attention": (flex(compiled), True),
    }
    if torch.cuda.is_available() and importlib.util.find_spec("flashinfer") is not None:
        found["FlashInfer"] = (FlashInfer(), False)
    return found


def error(run: Candidate, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, seen: int) -> float:
    """‖difference‖ / ‖result‖ of the first sequence, from the definition in float64."""
    count = torch.tensor([seen], device=query.device)
    found = run(query, keys, values, count)[0].double()
    groups = query[0].unflatten(0, (keys.shape[1], -1)).double()
    scores = torch.einsum("gqd,gsd->gqs", groups, keys[0, :, :seen].double()) * query.shape[-1] ** -0.5
    exact = torch.einsum("gqs,gsd->gqd", scores.softmax(-1), values[0, :, :seen].double()).flatten(0, 1)
    return ((found - exact).norm() / exact.norm()).item()


def microseconds(run: Candidate, query: torch.Tensor, caches: list[torch.Tensor], seen: int) -> float:
    """Time of one call, from a graph that calls once for each copy of the cache."""
    count = torch.tensor([seen], device=query.device)
    run(query, *caches[0], count)  # nothing may be compiled while a graph is captured
    torch.cuda.empty_cache()  # nor freed, and a graph's memory is its own
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for keys, values in caches:
            run(query, keys, values, count)
    return milliseconds(graph.replay, repeats=8, warm_up=2) / len(caches) * 1e3


def compare(setting: str, bandwidth: float) -> list[dict[str, Any]]:
    """Every candidate in one setting."""
    heads, groups, batch = SETTINGS[setting]
    query = torch.randn(batch, heads, SIZE, device="cuda").bfloat16()
    moved = 2 * batch * groups * SLOTS * SIZE * 2
    shape = (2, batch, groups, SLOTS, SIZE)
    caches = [torch.randn(shape, device="cuda", dtype=torch.bfloat16) for _ in range(L2_BYTES // moved + 1)]
    torch._dynamo.reset()
    rows = []
    for name, (run, follows) in candidates(torch.compile(flex_attention, dynamic=False)).items():
        found: dict[str, Any] = {"setting": setting, "function": name}
        try:
            found["error"] = error(run, query, *caches[0], SLOTS)
            found["µs"] = microseconds(run, query, caches, SLOTS)
            found["share of bound"] = moved / bandwidth * 1e6 / found["µs"]
            found["µs, half filled"] = microseconds(run, query, caches, SLOTS // 2) if follows else None
        except Exception as failure:  # of a compiler or for want of memory: it is what there is to say of a candidate
            found["note"] = type(failure).__name__
            print(failure)
        print(found, flush=True)
        rows.append(found)
    return rows


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    bandwidth = ceilings()["bytes"]
    notes = f"Device copy {bandwidth / 1e12:.2f} TB/s, bytes read and written; the bound is the cache's bytes over it."
    title = f"Attention of a decode step, bf16, {SLOTS} slots"
    for setting in arguments.settings:
        rows = with_earlier(compare(setting, bandwidth), "decode_attention", ("setting", "function"), arguments.out)
        report("decode_attention", title, rows, notes, arguments.out, show=setting == arguments.settings[-1])


if __name__ == "__main__":
    main()
