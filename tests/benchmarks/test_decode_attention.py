"""benchmarks/decode_attention.py: every function it compares computes the same attention."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark():
    name = "decode_attention_benchmark"
    spec = importlib.util.spec_from_file_location(name, FOLDER / "decode_attention.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # where flex_attention looks for its score_mod
    sys.path.insert(0, str(FOLDER))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(FOLDER))
    return module


@pytest.mark.parametrize(("heads", "groups"), [(6, 2), (4, 4), (3, 1)])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@torch.no_grad()
def test_every_candidate_is_right(benchmark, heads, groups):
    torch.manual_seed(heads)
    query, cache = torch.randn(3, heads, 16), torch.randn(2, 3, groups, 37, 16)
    for name, (run, follows) in benchmark.candidates(flex_attention).items():
        assert benchmark.error(run, query, *cache, 37) < 1e-6, name
        assert (benchmark.error(run, query, *cache, 11) < 1e-6) == follows, name


def test_pages_lie_where_the_cache_lies(benchmark):
    cache = torch.randn(3, 2, 5 * benchmark.PAGE, 4)
    pages, numbers = benchmark.paged(cache)
    assert pages.data_ptr() == cache.data_ptr()
    gathered = pages[numbers.long()]  # [B, pages, Hkv, PAGE, D]
    assert torch.equal(gathered.transpose(1, 2).flatten(2, 3), cache)
