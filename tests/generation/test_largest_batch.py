from collections.abc import Callable
from weakref import WeakSet

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jetlit.errors import UserError
from jetlit.generation import GenerationEngine, find_largest_batch
from jetlit.generation.engine import CacheDoesNotFit
from jetlit.generation.largest_batch import largest_that_runs
from tests.models.small import HYBRIDS, small_model


@given(capacity=st.integers(0, 5000), limit=st.integers(1, 4096), first=st.integers(1, 6000))
@settings(max_examples=60)
def test_the_largest_size_is_found_in_few_attempts(capacity, limit, first):
    attempts = []

    def run(size: int) -> None:
        attempts.append(size)
        assert 1 <= size <= limit
        if size > capacity:
            raise torch.OutOfMemoryError("out of memory")

    assert largest_that_runs(run, limit, first) == min(capacity, limit)
    assert len(attempts) == len(set(attempts)) <= 2 * limit.bit_length() + 2


def test_a_cache_that_is_known_not_to_fit_counts_as_out_of_memory_and_other_errors_do_not():
    def run(size: int) -> None:
        if size > 3:
            raise CacheDoesNotFit("too large")

    assert largest_that_runs(run, 10) == 3
    with pytest.raises(ZeroDivisionError):
        largest_that_runs(lambda size: 1 / 0, 10)


def test_a_real_model_is_run_up_to_the_limit():
    found = find_largest_batch(small_model(HYBRIDS["hybrid"]), 24, chunks=(4, 16), limit=3)
    assert found.batch == 3 and found.prefill_chunk in (4, 5)  # 4 or 16 tokens shared by 3 sequences
    assert found.prefill_tokens_per_s > 0 and found.peak_memory_bytes > 0


@pytest.mark.parametrize(
    ("speeds", "sequences", "chunk"),
    [
        ({4: 94.9, 8: 96.0, 16: 100.0}, 1, 8),  # the fewest tokens that keep 95%
        ({4: 95.0, 8: 100.0, 16: 99.0}, 1, 4),
        ({16: 100.0, 8: 94.0, 4: 90.0}, 1, 16),
        ({4: 50.0, 8: 100.0, 16: 70.0}, 1, 8),  # of the fastest, which is not the longest
        ({4: 50.0, 8: 60.0, 16: 100.0, 32: 400.0}, 1, 16),  # longer than the context: not timed
        ({4: 50.0, 8: 60.0, 16: 100.0}, 2, 8),  # sequences share the tokens
        ({4: 50.0, 8: 60.0, 16: 100.0}, 3, 5),
        ({4: 50.0, 8: 60.0, 16: 100.0}, 5, 4),  # none gets less than the smallest chunk
    ],
)
def test_the_chunk_is_the_shortest_that_keeps_95_per_cent_of_the_speed(monkeypatch, speeds, sequences, chunk):
    monkeypatch.setattr("jetlit.generation.largest_batch._prefill_speed", lambda model, context, size: speeds[size])
    found = find_largest_batch(small_model(["attn"]), 24, chunks=tuple(speeds), limit=sequences)
    assert (found.batch, found.prefill_chunk) == (sequences, chunk)
    assert found.chunk_speeds == {size: speed for size, speed in speeds.items() if size <= 24}


def test_the_share_of_speed_to_keep_can_be_chosen(monkeypatch):
    monkeypatch.setattr("jetlit.generation.largest_batch._prefill_speed", lambda model, context, size: float(size))
    model = small_model(["attn"])
    chunks = [find_largest_batch(model, 24, chunks=(4, 8, 16), limit=1, kept_speed=share) for share in (0.2, 0.4, 0.6)]
    assert [found.prefill_chunk for found in chunks] == [4, 8, 16]


FULL = [
    torch.OutOfMemoryError("Tried to allocate 32.00 MiB."),
    MemoryError(),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 32 bytes."),
]
# What an engine is asked for, and how often it was asked before.
MOMENTS = {
    "making it": ("__init__", 0),
    "prefill": ("prefill", 0),
    "a second prefill": ("prefill", 1),
    "moving to the end": ("jump", 0),
    "decoding": ("decode_step", 0),
}


@pytest.fixture
def engine_fails(monkeypatch) -> Callable[..., None]:
    """Lets a method of every engine fail where `wrong(engine, earlier calls of this engine)` holds after it."""

    def install(method: str, error: Exception, wrong: Callable[[GenerationEngine, int], bool]) -> None:
        real = getattr(GenerationEngine, method)

        def run(self, *args):
            result = real(self, *args)
            earlier = self.__dict__.setdefault(f"calls of {method}", 0)
            self.__dict__[f"calls of {method}"] += 1
            if wrong(self, earlier):
                raise type(error)(*error.args)  # a new one, since its traceback holds what the attempt held
            return result

        monkeypatch.setattr(GenerationEngine, method, run)

    return install


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS)
@pytest.mark.parametrize("error", FULL, ids=lambda error: type(error).__name__)
def test_running_out_of_memory_at_any_moment_is_a_batch_too_large(engine_fails, moment, error):
    method, before = moment
    engine_fails(method, error, lambda engine, earlier: engine.max_batch > 3 and earlier == before)
    found = find_largest_batch(small_model(["attn"]), 24, chunks=(4, 16), limit=20)
    assert found.batch == 3 and found.prefill_tokens_per_s > 0


def test_memory_that_dwindles_during_the_search_takes_nothing_back(engine_fails):
    """Whatever every attempt leaves behind, the batch that is named has run with the figures that are named."""
    engines = WeakSet()
    made = 0

    def full(engine: GenerationEngine, earlier: int) -> bool:
        nonlocal made
        made += engine not in engines
        engines.add(engine)
        return engine.max_batch + made / 2 > 7.5

    engine_fails("prefill", torch.OutOfMemoryError(), full)
    assert find_largest_batch(small_model(["attn"]), 24, chunks=(4,), limit=20).batch == 4


def test_what_an_attempt_held_is_given_back_before_the_next(engine_fails, monkeypatch):
    alive, left = WeakSet(), []
    engine_fails("__init__", MemoryError(), lambda engine, earlier: alive.add(engine))
    engine_fails("decode_step", torch.OutOfMemoryError(), lambda engine, earlier: engine.max_batch > 3)
    model = small_model(["attn"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: left.append(len(alive)))
    find_largest_batch(model, 24, chunks=(4, 16), limit=5)
    assert left == [0] * 6, "two chunks, and batches of 1, 2, 4 and 3"


def test_chunks_whose_activations_do_not_fit_are_not_chosen(engine_fails):
    engine_fails("prefill", FULL[2], lambda engine, earlier: engine.prefill_chunk > 4)
    assert find_largest_batch(small_model(["attn"]), 24, chunks=(4, 16), limit=1).prefill_chunk == 4


def test_not_even_one_sequence_is_one_sentence(engine_fails):
    engine_fails("prefill", FULL[0], lambda engine, earlier: True)
    with pytest.raises(UserError, match="Not even one sequence of 24 tokens"):
        find_largest_batch(small_model(["attn"]), 24, chunks=(4, 16))


def test_any_other_error_of_the_engine_is_no_want_of_memory(engine_fails):
    engine_fails("prefill", RuntimeError("an illegal memory access"), lambda engine, earlier: engine.max_batch > 3)
    with pytest.raises(RuntimeError, match="illegal"):
        find_largest_batch(small_model(["attn"]), 24, chunks=(4, 16))
