"""The engine's captured decode step against transformers' generate and against itself without a graph."""

import gc
import warnings

import pytest
import torch

from jetlit.errors import UserError
from jetlit.generation import GenerationEngine, computed_cache_bytes, find_largest_batch, measure_generation
from tests.models.small import HYBRIDS, small_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SIZES = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "efficient_attention_config": {"swa": {"window_size": 37}},
    "initializer_range": 0.1,
}
NEW = 50
hybrids = pytest.mark.parametrize("layers", HYBRIDS.values(), ids=HYBRIDS)


def prompts(batch: int = 3, length: int = 70) -> torch.Tensor:
    return torch.randint(3, 61, (batch, length), generator=torch.Generator().manual_seed(1)).cuda()


def model(layers: list[str], dtype: torch.dtype = torch.float32):
    return small_model(layers, **SIZES).to("cuda", dtype)


@pytest.fixture(autouse=True)
def exact_products():
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = allowed


@hybrids
def test_a_captured_step_equals_transformers_token_by_token(layers):
    hybrid, ids = model(layers), prompts()
    expected = hybrid.generate(ids, max_new_tokens=NEW, do_sample=False, pad_token_id=0)
    engine = GenerationEngine(hybrid, 3, 70 + NEW, prefill_chunk=32, cuda_graph=True)
    assert torch.equal(engine.generate(ids, NEW), expected)
    assert torch.equal(engine.generate(ids, NEW), expected), "a second prompt meets a used cache"


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": 1536, "num_attention_heads": 12, "num_key_value_heads": 2},
        {"hidden_size": 2048, "num_attention_heads": 16, "num_key_value_heads": 8, "qk_norm": True}
        | {"attention_bias": False},
    ],
    ids=["Qwen2.5-1.5B", "Qwen3-1.7B"],
)
def test_attention_of_the_paper_s_teachers_token_by_token(changes):
    teacher = small_model(["attn"] * 3, **changes).to("cuda")
    ids = prompts()
    expected = teacher.generate(ids, max_new_tokens=NEW, do_sample=False, pad_token_id=0)
    engine = GenerationEngine(teacher, 3, 70 + NEW, prefill_chunk=32, cuda_graph=True)
    assert torch.equal(engine.generate(ids, NEW), expected)


def waits_of_a_prefill(layers: list[str], length: int) -> int:
    """How often the host waits for the device, of a prefill like one that was before."""
    engine = GenerationEngine(model(layers, torch.bfloat16), 3, 200, prefill_chunk=32)
    ids = prompts(length=length)
    engine.prefill(ids)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            engine.prefill(ids)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in caught)


def test_neither_layers_nor_chunks_of_a_prefill_wait_for_the_device():
    assert waits_of_a_prefill(["jet", "attn", "swa", "jet"], 130) == waits_of_a_prefill(["jet"], 30) <= 2


@hybrids
@torch.no_grad()
def test_a_captured_step_in_bfloat16_equals_the_same_step_run_plainly(layers):
    hybrid, ids = model(layers, torch.bfloat16), prompts()
    captured = GenerationEngine(hybrid, 3, 200, cuda_graph=True)
    plain = GenerationEngine(hybrid, 3, 200, cuda_graph=False)
    torch.testing.assert_close(captured.prefill(ids), plain.prefill(ids))
    for step in range(20):
        tokens = torch.full((3,), 3 + step, device="cuda")
        expected = plain.decode_step(tokens)
        error = (captured.decode_step(tokens) - expected).float().norm() / expected.float().norm()
        assert error < 0.02, step


def test_the_cache_never_moves_and_takes_the_computed_bytes():
    hybrid = model(HYBRIDS["hybrid"], torch.bfloat16)
    engine = GenerationEngine(hybrid, 3, 300)
    engine.generate(prompts(), NEW)
    assert engine.cache_bytes() == pytest.approx(computed_cache_bytes(hybrid, 3, 300), rel=0.02)


def test_sampling_draws_on_the_device():
    engine = GenerationEngine(model(["jet", "attn"]), 3, 200)

    def draw(seed: int) -> torch.Tensor:
        generator = torch.Generator("cuda").manual_seed(seed)
        return engine.generate(prompts(), NEW, temperature=1.0, top_p=0.9, generator=generator)

    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))


def test_a_cache_larger_than_the_device_is_refused_before_memory_is_taken():
    hybrid = model(["attn"] * 2, torch.bfloat16)
    before = torch.cuda.memory_allocated()
    with pytest.raises(UserError, match="GiB are free"):
        GenerationEngine(hybrid, 4096, 2**20)
    assert torch.cuda.memory_allocated() == before


def test_throughput_and_the_largest_batch_are_measured():
    hybrid = model(HYBRIDS["hybrid"], torch.bfloat16)
    found = measure_generation(hybrid, 2, 256, decode_tokens=16, repeats=2)
    assert found["decode_tokens_per_s"] > 0 and found["peak_memory_bytes"] < 2**31
    assert find_largest_batch(hybrid, 256, chunks=(64, 128), limit=4).batch == 4


def test_engines_that_are_gone_keep_no_memory():
    hybrid, left = model(HYBRIDS["hybrid"], torch.bfloat16), []
    for _ in range(4):
        GenerationEngine(hybrid, 3, 200, cuda_graph=True).generate(prompts(), 2)
        gc.collect()
        left.append(torch.cuda.memory_allocated())
    assert left[1:] == [left[1]] * 3, "the first may leave workspaces behind, which the others use"


@pytest.fixture
def two_gib():
    """Leaves the process 2 GiB beside what it holds; more raises torch's own error of memory."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**31) / total)
    yield 2**31
    torch.cuda.set_per_process_memory_fraction(1.0)


def test_the_largest_batch_survives_running_out_of_memory(two_gib):
    hybrid = model(["attn", "jet", "attn", "swa"], torch.bfloat16)
    found = find_largest_batch(hybrid, 8192, chunks=(64,))
    cache = computed_cache_bytes(hybrid, found.batch, 8192)
    assert two_gib // 2 < cache < two_gib, "most of the memory is cache"
    engine = GenerationEngine(hybrid, found.batch, 8192, found.prefill_chunk)
    engine.jump(found.batch, 8191)
    assert engine.decode_step(torch.zeros(found.batch, dtype=torch.int64, device="cuda")).isfinite().all()
