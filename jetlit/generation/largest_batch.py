"""Finds the largest batch that runs, by running it, and the prefill chunk that keeps prefill fast."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from jetlit.errors import UserError
from jetlit.generation.engine import CacheDoesNotFit, GenerationEngine
from jetlit.generation.throughput import median_seconds, peak_memory_bytes, reset_peak_memory
from jetlit.models import JetNemotronForCausalLM

TOKENS_TIMED = 8192  # enough for a prefill's speed; a long context in small chunks would take minutes


@dataclass(frozen=True)
class LargestBatch:
    """What was found.

    Attributes:
        batch: the largest that ran.
        prefill_chunk: tokens of each prompt at once, for this batch.
        prefill_tokens_per_s: of all sequences together, with this batch and chunk.
        peak_memory_bytes: of the device, while that batch ran.
    """

    batch: int
    prefill_chunk: int
    prefill_tokens_per_s: float
    peak_memory_bytes: int


def find_largest_batch(
    model: JetNemotronForCausalLM,
    context: int,
    *,
    chunks: Sequence[int] = (128, 256, 512, 1024, 2048, 4096),
    limit: int = 4096,
    kept_speed: float = 0.95,
) -> LargestBatch:
    """Finds the largest batch of sequences of `context` tokens that a model can generate with on its device.

    First the number of tokens to prefill at once is chosen on one sequence, the fewest that are nearly as fast as the
    best, because their activations take room from the cache; a batch shares them, though no sequence gets less than
    the smallest chunk. Then batches are tried: the cache is allocated, a chunk is prefilled and a token decoded, with
    running out of memory caught.

    Args:
        model: in evaluation mode, on the device.
        context: tokens of a sequence.
        chunks: numbers of tokens to choose from.
        limit: no larger batch is tried.
        kept_speed: share of the best prefill speed that the chosen number must keep.

    Raises:
        UserError: not even one sequence fits.
    """
    device = model.lm_head.weight.device
    speeds = {chunk: _prefill_speed(model, context, chunk) for chunk in chunks if chunk <= max(context, min(chunks))}
    at_once = min(size for size, speed in speeds.items() if speed >= kept_speed * max(speeds.values()))

    def chunk_of(batch: int) -> int:
        return max(min(chunks), at_once // batch)

    batch = largest_that_runs(lambda size: _generate_once(model, size, context, chunk_of(size)), limit)
    if batch == 0:
        raise UserError(f"Not even one sequence of {context} tokens fits this device: shorten the context.")
    reset_peak_memory(device)
    speed = _generate_once(model, batch, context, chunk_of(batch), warm_up=1)
    return LargestBatch(batch, chunk_of(batch), speed, peak_memory_bytes(device))


def largest_that_runs(run: Callable[[int], object], limit: int) -> int:
    """Returns the largest size up to `limit` with which `run` does not run out of memory, 0 when none does.

    Sizes are doubled until one fails, then the gap is halved.
    """
    works, fails = 0, limit + 1
    size = 1
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
    except (torch.OutOfMemoryError, MemoryError, CacheDoesNotFit):
        return False
    finally:
        _let_go()
    return True


def _let_go() -> None:
    """Frees the device memory that an attempt held, before the next one."""
    if torch.cuda.is_available():
        # An exception's traceback may still hold tensors in a cycle.
        gc.collect()
        torch.cuda.empty_cache()


def _generate_once(model: JetNemotronForCausalLM, batch: int, context: int, chunk: int, *, warm_up: int = 0) -> float:
    """Prefills two chunks, first `warm_up` times untimed, and decodes the last token; returns prefill tokens/s."""
    engine = GenerationEngine(model, batch, context, chunk)
    tokens = torch.zeros(batch, min(2 * chunk, context - 1), dtype=torch.int64, device=engine.device)
    seconds = median_seconds(lambda: engine.prefill(tokens), 1, engine.device, warm_up=warm_up)
    engine.jump(batch, context - 1)
    engine.decode_step(tokens[:, 0])
    return tokens.numel() / seconds


def _prefill_speed(model: JetNemotronForCausalLM, context: int, chunk: int) -> float:
    """Returns one sequence's tokens per second over its first chunks, 0 when their activations do not fit."""
    try:
        engine = GenerationEngine(model, 1, context, chunk)
        length = min(context, max(4 * chunk, TOKENS_TIMED))
        ids = torch.zeros(1, length, dtype=torch.int64, device=engine.device)
        return length / median_seconds(lambda: engine.prefill(ids), 3, engine.device)
    except (torch.OutOfMemoryError, MemoryError, CacheDoesNotFit):
        return 0.0
    finally:
        _let_go()
