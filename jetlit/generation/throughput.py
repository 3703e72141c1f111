"""Measure training and generation on this machine: warm-up, then the median of repeats."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable

import torch

from jetlit.errors import UserError
from jetlit.generation.engine import GenerationEngine
from jetlit.models import JetNemotronForCausalLM, SuperNetwork


def measure_generation(
    model: JetNemotronForCausalLM | SuperNetwork,
    batch: int,
    context: int,
    *,
    decode_tokens: int = 32,
    prefill_chunk: int = 2048,
    prefill_batch: int | None = None,
    repeats: int = 3,
) -> dict[str, float]:
    """Measure a model's prefill and decode throughput at a batch and a context.

    Prompts are random tokens. Decoding is timed over the last `decode_tokens` tokens of the context; its time does not
    depend on the cache's content.

    Args:
        model: model in evaluation mode, with its final device and dtype.
        batch: number of sequences of the decode steps.
        context: number of tokens of a sequence.
        decode_tokens: number of steps of one timing.
        prefill_chunk: number of prompt tokens run at once.
        prefill_batch: number of sequences of the prefill; None means `batch`, 0 skips the prefill.
        repeats: number of timings, after a warm-up (of the prefill, two chunks).

    Returns:
        prefill_tokens_per_s (unless skipped), decode_tokens_per_s, cache_bytes, and peak_memory_bytes (of the device,
        or of the process on a CPU).

    Raises:
        UserError: the context is too short for the steps, or the cache does not fit.
    """
    if context <= decode_tokens:
        raise UserError(
            f"A context of {context} tokens is too short for {decode_tokens} decode steps: lengthen it, or time fewer."
        )
    device = model.lm_head.weight.device
    reset_peak_memory(device)
    prompts = batch if prefill_batch is None else prefill_batch
    engine = GenerationEngine(model, max(batch, prompts), context, prefill_chunk)
    measured: dict[str, float] = {}
    if prompts:
        ids = torch.randint(model.config.vocab_size, (prompts, context - decode_tokens), device=device)
        # Two chunks warm up all kernels; a long prompt takes minutes on a full-attention model.
        engine.prefill(ids[:, : 2 * prefill_chunk])
        seconds = median_seconds(lambda: engine.prefill(ids), repeats, device, warm_up=0)
        measured["prefill_tokens_per_s"] = ids.numel() / seconds
    tokens = torch.zeros(batch, dtype=torch.int64, device=device)

    def decode() -> None:
        for _ in range(decode_tokens):
            engine.decode_step(tokens)

    seconds = median_seconds(decode, repeats, device, before=lambda: engine.jump(batch, context - decode_tokens))
    return measured | {
        "decode_tokens_per_s": batch * decode_tokens / seconds,
        "cache_bytes": engine.cache_bytes(),
        "peak_memory_bytes": peak_memory_bytes(device),
    }


def prefill_pieces(batch: int) -> int:
    """Return the prefill chunk of `batch` prompts: enough tokens together for full speed, without much memory."""
    return max(128, 16384 // batch)


def measure_training(
    step: Callable[[], object], tokens: int, *, device: torch.device, repeats: int = 5, warm_up: int = 2
) -> dict[str, float]:
    """Return training_tokens_per_s and peak_memory_bytes of a `step` that trains on `tokens` tokens."""
    reset_peak_memory(device)
    seconds = median_seconds(step, repeats, device, warm_up=warm_up)
    return {"training_tokens_per_s": tokens / seconds, "peak_memory_bytes": peak_memory_bytes(device)}


def median_seconds(
    run: Callable[[], object],
    repeats: int,
    device: torch.device,
    *,
    warm_up: int = 1,
    before: Callable[[], object] = lambda: None,
) -> float:
    """Return the median time of `run` after `warm_up` untimed calls; `before` runs untimed before each call."""
    times = []
    for index in range(warm_up + repeats):
        before()
        _wait(device)
        start = time.perf_counter()
        run()
        _wait(device)
        if index >= warm_up:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def reset_peak_memory(device: torch.device) -> None:
    """Reset the peak on CUDA; that of a process cannot be reset."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_bytes(device: torch.device) -> int:
    """Return the peak memory: allocated on a CUDA device, otherwise resident in the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
