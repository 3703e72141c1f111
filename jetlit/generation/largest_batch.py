"""Find the largest batch that runs, by running it, and the smallest prefill chunk that is fast."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from jetlit.errors import UserError
from jetlit.generation.cache import computed_cache_bytes
from jetlit.generation.engine import CacheDoesNotFit, GenerationEngine, free_bytes, ran_out_of_memory
from jetlit.generation.throughput import median_seconds, peak_memory_bytes, reset_peak_memory
from jetlit.models import JetNemotronForCausalLM

_TOKENS_TIMED = 8192  # enough for a prefill's speed; a whole context in small chunks may take minutes


@dataclass(frozen=True)
class LargestBatch:
    """The largest batch that ran, and its measurements."""

    batch: int
    prefill_chunk: int  # tokens of each prompt run at once
    prefill_tokens_per_s: float  # of all sequences together
    peak_memory_bytes: int  # of the device
    chunk_speeds: dict[int, float] = field(default_factory=dict)  # one sequence's tokens per second by chunk


def find_largest_batch(
    model: JetNemotronForCausalLM,
    context: int,
    *,
    chunks: Sequence[int] = (128, 256, 512, 1024, 2048, 4096),
    limit: int = 4096,
    kept_speed: float = 0.95,
) -> LargestBatch:
    """Find the largest batch of sequences of `context` tokens that a model can generate on its device.

    First one sequence is prefilled in chunks of each size. The smallest chunk of nearly the best speed is taken, since
    activations take memory from the cache. The sequences of a batch share its tokens, but none gets less than the
    smallest chunk. Then batches are tried, on a GPU from half of the one whose cache alone would fill the free memory.
    Each runs in full: cache, captured step, two prefilled chunks, the last token. A batch that runs out of memory
    anywhere is too large.

    Args:
        model: model in evaluation mode, on its device.
        context: number of tokens of a sequence.
        chunks: prefill chunks to choose from.
        limit: largest batch to try.
        kept_speed: share of the best prefill speed that the chosen chunk must reach.

    Raises:
        UserError: not even one sequence fits.
    """
    speeds: dict[int, float] = {}
    measured: dict[int, LargestBatch] = {}
    smallest = min(chunks)

    def time_chunk(chunk: int) -> None:
        speeds[chunk] = _prefill_speed(model, context, chunk)

    def measure(batch: int) -> None:
        measured[batch] = _measure(model, batch, context, max(smallest, at_once // batch))

    for chunk in chunks:
        if chunk <= max(context, smallest):
            _fits(time_chunk, chunk)
    fast = [chunk for chunk, speed in speeds.items() if speed >= kept_speed * max(speeds.values())]
    at_once = min(fast, default=smallest)
    device = model.lm_head.weight.device
    free = free_bytes(device) if device.type == "cuda" else None  # a CPU's whole memory counts as free
    could_fit = 0 if free is None else free // computed_cache_bytes(model, 1, context)
    batch = largest_that_runs(measure, limit, first=max(1, could_fit // 2))
    if batch == 0:
        raise UserError(f"Not even one sequence of {context} tokens fits this device: shorten the context.")
    return replace(measured[batch], chunk_speeds=speeds)


def largest_that_runs(run: Callable[[int], object], limit: int, first: int = 1) -> int:
    """Return the largest size up to `limit` that `run` has memory for, or 0.

    The first size is doubled until one fails, then the gap is bisected.
    """
    works, fails = 0, limit + 1
    size = min(first, limit)
    while fails - works > 1:
        if _fits(run, size):
            works = size
        else:
            fails = size
        size = min(2 * works, limit) if fails > limit and works else (works + fails) // 2
    return works


def _fits(run: Callable[[int], object], size: int) -> bool:
    try:
        run(size)
    except Exception as error:
        if isinstance(error, CacheDoesNotFit) or ran_out_of_memory(error):
            return False
        raise
    finally:
        if torch.cuda.is_available():
            gc.collect()  # the traceback of an exception may hold tensors in a cycle
            torch.cuda.empty_cache()
    return True


def _measure(model: JetNemotronForCausalLM, batch: int, context: int, chunk: int) -> LargestBatch:
    """Prefill two chunks, once to warm up and once timed, and decode the last token."""
    device = model.lm_head.weight.device
    reset_peak_memory(device)
    engine = GenerationEngine(model, batch, context, chunk)
    tokens = torch.zeros(batch, min(2 * chunk, context - 1), dtype=torch.int64, device=device)
    seconds = median_seconds(lambda: engine.prefill(tokens), 1, device)
    engine.jump(batch, context - 1)
    engine.decode_step(tokens[:, 0])
    return LargestBatch(batch, chunk, tokens.numel() / seconds, peak_memory_bytes(device))


def _prefill_speed(model: JetNemotronForCausalLM, context: int, chunk: int) -> float:
    """Return one sequence's tokens per second over its first chunks."""
    engine = GenerationEngine(model, 1, context, chunk)
    length = min(context, max(4 * chunk, _TOKENS_TIMED))
    ids = torch.zeros(1, length, dtype=torch.int64, device=engine.device)
    return length / median_seconds(lambda: engine.prefill(ids), 3, engine.device)
