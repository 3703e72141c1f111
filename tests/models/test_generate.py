"""transformers' own generate on the hybrid."""

import pytest
import torch

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
