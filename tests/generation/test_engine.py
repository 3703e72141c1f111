import pytest
import torch

from jetlit.errors import UserError
from jetlit.generation import GenerationEngine, computed_cache_bytes
from jetlit.models import SuperNetwork
from tests.models.small import HYBRIDS, WINDOW, prompts, small_model

hybrids = pytest.mark.parametrize("layers", HYBRIDS.values(), ids=HYBRIDS)
NEW = 15


def greedy(model, ids: torch.Tensor, new: int = NEW) -> torch.Tensor:
    return model.generate(ids, max_new_tokens=new, do_sample=False, pad_token_id=0)


@hybrids
@pytest.mark.parametrize("chunk", [1, 4, WINDOW, 7, 64])
def test_equals_transformers_token_by_token(layers, chunk):
    model, ids = small_model(layers), prompts()
    engine = GenerationEngine(model, 2, 17 + NEW, prefill_chunk=chunk)
    assert torch.equal(engine.generate(ids, NEW), greedy(model, ids))


@pytest.mark.parametrize(
    "changes",
    [
        {"attention_bias": False, "qk_norm": True, "head_dim": 8},
        {"tie_word_embeddings": False, "output_bias": True, "mlp_bias": True},
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}},
        {"num_key_value_heads": 1},
        {"hidden_size": 1536, "num_attention_heads": 12, "num_key_value_heads": 2},
        {
            "hidden_size": 2048,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "attention_bias": False,
            "qk_norm": True,
        },
    ],
    ids=[
        "qwen3",
        "llama with biases",
        "scaled positions",
        "one key head",
        "attention of Qwen2.5-1.5B",
        "attention of Qwen3-1.7B",
    ],
)
def test_full_attention_teachers_of_every_kind(changes):
    model, ids = small_model(["attn"] * 3, **changes), prompts(3, 11)
    engine = GenerationEngine(model, 4, 64, prefill_chunk=5)
    assert torch.equal(engine.generate(ids, NEW), greedy(model, ids))


def test_one_engine_serves_prompt_after_prompt_of_any_batch_and_length():
    model = small_model(HYBRIDS["hybrid"])
    engine = GenerationEngine(model, 3, 40, prefill_chunk=6)
    for batch, length in ((2, 17), (2, 3), (3, 9), (1, 1), (2, 25)):
        ids = prompts(batch, length, seed=length)
        assert torch.equal(engine.generate(ids, NEW), greedy(model, ids))


def test_a_window_longer_than_the_context():
    model = small_model(["swa", "attn"], efficient_attention_config={"swa": {"window_size": 500}})
    ids = prompts()
    assert torch.equal(GenerationEngine(model, 2, 40, prefill_chunk=8).generate(ids, NEW), greedy(model, ids))


def test_steps_can_be_taken_one_by_one():
    model, ids = small_model(HYBRIDS["hybrid"]), prompts()
    engine = GenerationEngine(model, 2, 24)
    logits = engine.prefill(ids)
    for token in range(5):
        with torch.no_grad():
            expected = model(ids).logits[:, -1]
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
        ids = torch.cat((ids, torch.tensor([[token + 3], [token + 9]])), 1)
        logits = engine.decode_step(ids[:, -1])


def test_a_super_network_runs_its_active_path():
    supernet = SuperNetwork(small_model(["attn"] * 3), ("gla",))
    engine = GenerationEngine(supernet, 2, 40)
    for path in (["gla", "attn", "gla"], ["attn", "attn", "gla"]):
        supernet.set_active_subnet(path)
        assert torch.equal(engine.generate(prompts(), NEW), greedy(supernet.extract(path), prompts()))


def test_stop_tokens_end_a_sequence_and_then_the_batch():
    model, ids = small_model(HYBRIDS["hybrid"]), prompts()
    whole = greedy(model, ids)[:, 17:]
    engine = GenerationEngine(model, 2, 40)
    stop = whole[0, 4].item()
    assert stop not in whole[0, :4]
    out = engine.generate(ids, NEW, stop_tokens=[stop])[:, 17:]
    assert out[0, :5].tolist() == whole[0, :5].tolist() and set(out[0, 5:].tolist()) <= {stop}
    both = {stop, whole[1, 2].item()}
    shorter = engine.generate(ids, NEW, stop_tokens=both)
    assert shorter.shape[1] <= 17 + 5


def test_tokens_are_streamed_as_they_come():
    seen: list[list[int]] = []
    engine = GenerationEngine(small_model(["jet"]), 2, 40)
    out = engine.generate(prompts(), NEW, stream=lambda tokens: seen.append(tokens.tolist()))
    assert torch.equal(torch.tensor(seen).T, out[:, 17:])


def test_sampling_is_repeatable_with_a_generator():
    engine = GenerationEngine(small_model(["jet", "attn"]), 2, 40)

    def draw(seed: int) -> torch.Tensor:
        return engine.generate(
            prompts(), NEW, temperature=1.0, top_p=0.9, generator=torch.Generator().manual_seed(seed)
        )

    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))


@hybrids
@pytest.mark.parametrize(("batch", "context", "dtype"), [(1, 300, torch.float32), (3, 37, torch.bfloat16)])
def test_the_cache_takes_the_computed_bytes_and_never_moves(layers, batch, context, dtype):
    model = small_model(layers).to(dtype)
    engine = GenerationEngine(model, batch, context)
    ids = prompts(batch, 20)
    engine.generate(ids, 3)
    places = [t.data_ptr() for t in cache_tensors(engine)]
    measured = sum(t.nbytes for t in cache_tensors(engine))
    computed = computed_cache_bytes(model, batch, context)
    assert engine.cache_bytes() == measured
    assert abs(measured - computed) <= 0.02 * computed
    engine.generate(ids, 10)
    assert places == [t.data_ptr() for t in cache_tensors(engine)]


def cache_tensors(engine: GenerationEngine) -> list[torch.Tensor]:
    tensors = []
    for layer in engine._cache.layers:
        tensors += list(layer.states.values()) if hasattr(layer, "states") else [layer.keys, layer.values]
    return tensors


def test_a_request_that_does_not_fit_is_refused_before_memory_is_taken():
    engine = GenerationEngine(small_model(HYBRIDS["hybrid"]), 2, 20)
    with pytest.raises(UserError, match=r"prompt of 17 tokens and 4 new ones do not fit the engine's cache of 20"):
        engine.generate(prompts(), 4)
    with pytest.raises(UserError, match="takes 2 sequences, not 3"):
        engine.generate(prompts(3), 1)
    for bad in (prompts()[:, :0], prompts()[:0], prompts()[0], prompts().float()):
        with pytest.raises(UserError, match=r"integers \[sequences, tokens\], at least one of each"):
            engine.prefill(bad)
    for token in (61, -1):
        with pytest.raises(UserError, match=f"holds token {token}, but the model knows 61"):
            engine.generate(torch.tensor([[3, token, 4]]), 1)
    with pytest.raises(UserError, match="call prefill first"):
        engine.decode_step(torch.zeros(2, dtype=torch.int64))
    assert engine.cache_bytes() == 0


def test_a_batch_that_cannot_fit_is_refused_before_memory_is_taken():
    with pytest.raises(UserError, match=r"cache of 4194304 sequences of 1048576 tokens needs .* GiB, but .* are free"):
        GenerationEngine(small_model(["attn", "jet"]), 2**22, 2**20)


def test_decoding_past_the_end_is_refused():
    engine = GenerationEngine(small_model(["attn"]), 2, 18)
    engine.prefill(prompts())
    engine.decode_step(torch.tensor([3, 4]))
    with pytest.raises(UserError, match="full at 18 tokens"):
        engine.decode_step(torch.tensor([3, 4]))


def test_a_graph_without_a_gpu_and_sizes_of_nothing_are_refused():
    model = small_model(["attn"])
    with pytest.raises(UserError, match="CUDA device"):
        GenerationEngine(model, 1, 8, cuda_graph=True)
    with pytest.raises(UserError, match="at least 1"):
        GenerationEngine(model, 0, 8)


class Replay:
    """Stands in for a captured graph where there is no GPU: runs the step blind to what the host knows."""

    def __init__(self, run, rewind) -> None:
        self.run = run
        for _ in range(3):
            rewind()
            run()

    def __call__(self) -> torch.Tensor:
        clock = self.run.__self__._cache.clock
        clock.capturing, seen, clock.seen = True, clock.seen, -(10**6)
        logits = self.run()
        clock.capturing, clock.seen = False, seen
        return logits


@hybrids
def test_a_decode_step_needs_nothing_from_the_host(layers, monkeypatch):
    model, ids = small_model(layers), prompts()
    engine = GenerationEngine(model, 2, 40, prefill_chunk=6)
    monkeypatch.setattr("jetlit.generation.engine.CapturedStep", Replay)
    engine.uses_graphs = True
    for _ in range(2):
        assert torch.equal(engine.generate(ids, NEW), greedy(model, ids))


def test_a_step_that_cannot_be_captured_runs_plainly_and_says_so(monkeypatch, caplog):
    def refuse(run, rewind):
        run()
        raise RuntimeError("operation not permitted when stream is capturing")

    model, ids = small_model(HYBRIDS["hybrid"]), prompts()
    engine = GenerationEngine(model, 2, 40)
    monkeypatch.setattr("jetlit.generation.engine.CapturedStep", refuse)
    engine.uses_graphs = True
    assert torch.equal(engine.generate(ids, NEW), greedy(model, ids))
    assert "without a CUDA graph" in caplog.text


@pytest.mark.parametrize("words", ["CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "the capture is broken"])
def test_running_out_of_memory_in_a_capture_is_no_reason_to_run_plainly(words, monkeypatch):
    def run_out(run, rewind):
        try:
            raise torch.OutOfMemoryError if words.startswith("the capture") else RuntimeError(words)
        finally:
            if words.startswith("the capture"):
                raise RuntimeError(words)  # ending a capture may fail in its turn

    engine = GenerationEngine(small_model(["attn"]), 2, 40)
    monkeypatch.setattr("jetlit.generation.engine.CapturedStep", run_out)
    engine.uses_graphs = True
    with pytest.raises(RuntimeError, match=words):
        engine.prefill(prompts())
    assert engine.uses_graphs and engine.cache_bytes() == 0


@pytest.mark.parametrize("name", ["lm_head", "model.embed_tokens", "model.layers.1.self_attn.o_proj"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_weights_that_are_no_numbers_are_said(name, temperature):
    model = small_model(HYBRIDS["hybrid"], tie_word_embeddings=False)
    model.get_submodule(name).weight.data[3:] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        GenerationEngine(model, 2, 40).generate(prompts(), 3, temperature=temperature)


def test_counts_below_zero_and_positions_beyond_the_models_are_refused():
    model, ids = small_model(HYBRIDS["hybrid"], max_position_embeddings=20), prompts()
    engine = GenerationEngine(model, 2, 40)
    with pytest.raises(UserError, match="0 or more"):
        engine.generate(ids, -1)
    with pytest.raises(UserError, match="knows 20 positions"):
        engine.generate(ids, 4)
    assert engine.generate(ids, 3).shape == (2, 20)
    linear = small_model(HYBRIDS["linear first"], max_position_embeddings=20)
    assert GenerationEngine(linear, 2, 40).generate(ids, 20).shape == (2, 37)
