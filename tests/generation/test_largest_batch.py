import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jetlit.generation import find_largest_batch
from jetlit.generation.engine import CacheDoesNotFit
from jetlit.generation.largest_batch import largest_that_runs
from tests.models.small import HYBRIDS, small_model


@given(capacity=st.integers(0, 5000), limit=st.integers(1, 4096))
@settings(max_examples=60, deadline=None)
def test_the_largest_size_is_found_in_few_attempts(capacity, limit):
    attempts = []

    def run(size: int) -> None:
        attempts.append(size)
        assert 1 <= size <= limit
        if size > capacity:
            raise torch.OutOfMemoryError("out of memory")

    assert largest_that_runs(run, limit) == min(capacity, limit)
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
