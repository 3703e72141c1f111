"""benchmarks/hardware_grid.py: the bytes of a decode step, counted here from table 2's shapes."""

import importlib
from pathlib import Path

import pytest

from jetlit.models.assembly import count_parameters
from jetlit.search.grid import GridRow

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("shape", [(256, 144, 8), (96, 256, 12)])
def test_the_bound_counts_weights_once_keys_and_values_and_states_twice(shape, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    grid = importlib.import_module("hardware_grid")
    key_dim, value_dim, heads = shape
    batch, context, bandwidth = 3, 5000, 1e12
    config = grid.row_config("jet", GridRow(*shape))
    keys_and_values = 2 * 2 * 128 * 2 * (2 * context + 2 * 1152)  # 2 heads of 128 in bf16; 2 full layers, 2 windows
    states = 24 * heads * value_dim * (key_dim * 4 + 4 * 2)  # float32, and the last inputs of a convolution of 4
    moved = 2 * count_parameters(config) + batch * (keys_and_values + 2 * states)
    assert grid.bandwidth_bound(config, batch, context, bandwidth) == pytest.approx(batch * bandwidth / moved)
