"""transformers' own generate on the hybrid."""

import pytest
import torch
import transformers
from packaging.version import Version

from jetlit.errors import UserError
from tests.models.small import HYBRIDS, prompts, small_model

hybrids = pytest.mark.parametrize("layers", HYBRIDS.values(), ids=HYBRIDS)
GREEDY = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}


@hybrids
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize(
    "how",
    [{}, {"cache_implementation": "static"}, {"prefill_chunk_size": 4}],
    ids=["growing cache", "static cache", "chunked prefill"],
)
def test_greedy_with_a_cache_equals_greedy_without(layers, implementation, how):
    model, ids = small_model(layers), prompts()
    model.set_attn_implementation(implementation)
    expected = model.generate(ids, use_cache=False, **GREEDY)
    assert torch.equal(model.generate(ids, **GREEDY, **how), expected)
    assert len(set(expected[:, 17:].flatten().tolist())) > 3, "a model that repeats one token tests nothing"


@hybrids
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("how", [{}, {"cache_implementation": "static"}, {"prefill_chunk_size": 4}])
def test_left_padded_batch_equals_each_prompt_alone(layers, implementation, how):
    model, ids = small_model(layers), prompts()
    model.set_attn_implementation(implementation)
    mask = torch.ones_like(ids)
    mask[0, :9] = 0
    together = model.generate(ids, attention_mask=mask, **GREEDY, **how)[:, 17:]
    alone = [model.generate(row[None, kept.bool()], **GREEDY) for row, kept in zip(ids, mask)]
    for row, expected in zip(together, alone):
        assert row.tolist() == expected[0, -12:].tolist()


@hybrids
def test_sampling_with_a_cache_draws_what_it_draws_without(layers):
    model, ids = small_model(layers), prompts()

    def draw(seed, **how):
        torch.manual_seed(seed)
        return model.generate(ids, max_new_tokens=10, do_sample=True, top_p=0.9, pad_token_id=0, **how)

    assert torch.equal(draw(3), draw(3)) and not torch.equal(draw(3), draw(4))
    assert torch.equal(draw(3), draw(3, use_cache=False))


@hybrids
def test_beams_reorder_every_layer(layers):
    model, ids = small_model(layers), prompts()
    beams = {"num_beams": 3, **GREEDY}
    assert torch.equal(model.generate(ids, **beams), model.generate(ids, use_cache=False, **beams))


def test_generation_can_continue_from_a_cache():
    model, ids = small_model(HYBRIDS["hybrid"]), prompts(1)
    whole = model.generate(ids, **GREEDY)
    first = model.generate(
        ids, max_new_tokens=5, do_sample=False, pad_token_id=0, return_dict_in_generate=True, use_cache=True
    )
    rest = model.generate(
        first.sequences, past_key_values=first.past_key_values, max_new_tokens=7, do_sample=False, pad_token_id=0
    )
    assert torch.equal(rest, whole)


def test_a_cache_that_does_not_exist_for_hybrids_is_refused():
    with pytest.raises(UserError, match="static"):
        small_model(["attn"]).generate(prompts(), cache_implementation="quantized", **GREEDY)


ASSISTED = {"num_assistant_tokens": 3, **GREEDY}


# Older windows return more keys than the mask that they announce.
sees_windows = pytest.mark.skipif(Version(transformers.__version__) < Version("5.23"), reason="fails in transformers")
KINDS = {"full": ["attn"] * 2, "window": ["attn", "swa"]}


@pytest.mark.parametrize(
    "layers", [pytest.param(layers, marks=sees_windows if "swa" in layers else (), id=k) for k, layers in KINDS.items()]
)
def test_a_hybrid_of_attention_alone_can_assist_and_be_assisted(layers):
    model, assistant, ids = small_model(HYBRIDS["full"]), small_model(layers, seed=4), prompts(1)
    expected = model.generate(ids, **GREEDY)
    assert torch.equal(model.generate(ids, assistant_model=assistant, **ASSISTED), expected)
    expected = assistant.generate(ids, **GREEDY)
    assert torch.equal(assistant.generate(ids, assistant_model=model, **ASSISTED), expected)
    assert torch.equal(assistant.generate(ids, prompt_lookup_num_tokens=2, **GREEDY), expected)


def test_linear_layers_refuse_roll_back_before_anything_is_generated():
    model, linear, ids = small_model(HYBRIDS["full"]), small_model(HYBRIDS["hybrid"]), prompts(1)
    with pytest.raises(ValueError, match="stateful"):
        linear.generate(ids, assistant_model=model, **ASSISTED)
    with pytest.raises(ValueError, match="stateful"):
        linear.generate(ids, prompt_lookup_num_tokens=2, **GREEDY)
    with pytest.raises(UserError, match="cannot be an assistant"):
        model.generate(ids, assistant_model=linear, **ASSISTED)


@pytest.mark.parametrize("layers", [["attn", "jet"], ["attn", "swa"], ["attn"]], ids=["state", "window", "attention"])
@torch.no_grad()
def test_a_cache_is_cropped_as_a_whole_or_not_at_all(layers):
    model, ids = small_model(layers), prompts(1)
    cache, expected = model.new_cache(), model(ids).logits[:, -1:]
    model(ids[:, :16], past_key_values=cache)
    for count in (-3, 5, -40):
        if count != -3 or layers != ["attn"]:
            with pytest.raises(UserError, match="rolled back"):
                cache.crop(count)
    torch.testing.assert_close(model(ids[:, 16:], past_key_values=cache).logits, expected, atol=1e-4, rtol=1e-4)
    if layers == ["attn"]:
        cache.crop(-3)
        again = model(ids[:, 14:], past_key_values=cache).logits[:, -1:]
        torch.testing.assert_close(again, expected, atol=1e-4, rtol=1e-4)
    fixed = model.new_cache(20)
    model(ids, past_key_values=fixed)
    with pytest.raises(UserError, match="rolled back"):
        fixed.crop(-1)


def test_sequences_of_a_cache_can_be_repeated_and_selected():
    model, ids = small_model(HYBRIDS["hybrid"]), prompts()
    cache = model.new_cache()
    with torch.no_grad():
        model(ids[:, :9], past_key_values=cache)
        cache.batch_repeat_interleave(2)
        cache.batch_select_indices(torch.tensor([3, 0]))
        found = model(ids[:, 9:].flip(0), past_key_values=cache).logits
        torch.testing.assert_close(found.flip(0), model(ids).logits[:, 9:], atol=1e-4, rtol=1e-4)


def test_strings_stop_and_heal():
    from jetlit_data.tokenizer import ByteTokenizer

    tokenizer, model = ByteTokenizer(), small_model(HYBRIDS["hybrid"], vocab_size=259, bos_token_id=257)
    ids = tokenizer("a few words", return_tensors="pt", add_special_tokens=False).input_ids
    how = {"max_new_tokens": 20, "do_sample": False, "pad_token_id": 0, "tokenizer": tokenizer}
    whole = model.generate(ids, **how)
    written = whole[0, ids.shape[1] :].tolist()
    place = next(n for n, token in enumerate(written) if n > 1 and token < 128)
    stopped = model.generate(ids, stop_strings=[chr(written[place])], **how)
    assert torch.equal(stopped, whole[:, : ids.shape[1] + written.index(written[place]) + 1])
    assert model.generate(ids, token_healing=True, **how).shape[1] >= ids.shape[1]
