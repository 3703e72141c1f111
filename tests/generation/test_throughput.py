import time

import pytest
import torch

from jetlit.errors import UserError
from jetlit.generation import computed_cache_bytes, measure_generation, measure_training
from jetlit.generation.throughput import median_seconds
from tests.models.small import HYBRIDS, small_model

CPU = torch.device("cpu")


def test_generation_is_measured_at_batch_and_context():
    model = small_model(HYBRIDS["hybrid"])
    found = measure_generation(model, 3, 40, decode_tokens=4, prefill_chunk=16, repeats=2)
    assert set(found) == {"prefill_tokens_per_s", "decode_tokens_per_s", "cache_bytes", "peak_memory_bytes"}
    assert all(value > 0 for value in found.values())
    assert found["cache_bytes"] == pytest.approx(computed_cache_bytes(model, 3, 40), rel=0.02)


def test_the_prefill_can_be_left_out():
    found = measure_generation(small_model(["jet"]), 2, 40, decode_tokens=4, prefill_batch=0, repeats=1)
    assert "prefill_tokens_per_s" not in found and found["decode_tokens_per_s"] > 0


def test_a_context_too_short_to_time_is_refused():
    with pytest.raises(UserError, match="too short"):
        measure_generation(small_model(["jet"]), 1, 32, decode_tokens=32)


def test_the_median_ignores_warm_up_and_an_outlier():
    naps = iter([0.2, 0.01, 0.01, 0.2])
    seconds = median_seconds(lambda: time.sleep(next(naps)), 3, CPU)
    assert 0.01 <= seconds < 0.1


def test_training_is_measured_in_tokens_per_second():
    steps = []

    def step() -> None:
        steps.append(1)
        time.sleep(0.01)

    found = measure_training(step, 100, device=CPU, repeats=3, warm_up=2)
    assert len(steps) == 5
    assert 1000 < found["training_tokens_per_s"] <= 10_000
    assert found["peak_memory_bytes"] > 2**20
