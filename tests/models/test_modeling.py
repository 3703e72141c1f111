import pytest
import torch

from jetlit.errors import UserError
from jetlit.models import HybridCache
from tests.models.small import HYBRIDS, prompts, small_config, small_model

hybrids = pytest.mark.parametrize("layers", HYBRIDS.values(), ids=HYBRIDS)


@hybrids
@torch.no_grad()
def test_any_split_with_a_cache_equals_one_pass(layers):
    model, ids = small_model(layers), prompts(length=23)
    full = model(ids, use_cache=False).logits
    cache = model.new_cache()
    pieces = [model(piece, past_key_values=cache).logits for piece in ids.split([7, 1, 8, 1, 6], 1)]
    torch.testing.assert_close(torch.cat(pieces, 1), full, atol=1e-4, rtol=1e-4)
    assert cache.get_seq_length() == 23


@hybrids
@torch.no_grad()
def test_left_padding_changes_nothing_for_the_real_tokens(layers):
    model, ids = small_model(layers), prompts()
    mask = torch.ones_like(ids)
    mask[0, :6] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    padded = model(ids, attention_mask=mask, position_ids=positions).logits
    alone = model(ids[:1, 6:]).logits
    torch.testing.assert_close(padded[:1, 6:], alone, atol=1e-4, rtol=1e-4)


@hybrids
@torch.no_grad()
def test_packed_sequences_equal_each_alone(layers):
    model, ids = small_model(layers), prompts(1, 19)
    bounds = torch.tensor([0, 9, 10, 19])
    packed = model(ids, cu_seqlens=bounds).logits
    alone = torch.cat([model(ids[:, a:b]).logits for a, b in ((0, 9), (9, 10), (10, 19))], 1)
    torch.testing.assert_close(packed, alone, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_hidden_states_are_the_embedding_and_every_layers_output_before_the_norm():
    model, ids = small_model(HYBRIDS["hybrid"]), prompts()
    output = model(ids, output_hidden_states=True)
    assert len(output.hidden_states) == 5
    assert torch.equal(output.hidden_states[0], model.model.embed_tokens(ids))
    logits = model.lm_head(model.model.norm(output.hidden_states[-1]))
    assert torch.equal(logits, output.logits)


@torch.no_grad()
def test_layers_can_be_walked_one_by_one():
    model, ids = small_model(HYBRIDS["hybrid"]), prompts()
    hidden = model.model.embed_tokens(ids)
    inputs = model.model.layer_inputs(hidden)
    for layer in model.model.layers:
        hidden = layer(hidden, inputs)
    assert torch.equal(model.lm_head(model.model.norm(hidden)), model(ids).logits)


def test_loss_is_the_shifted_cross_entropy_and_skips_sequence_starts():
    model, ids = small_model(HYBRIDS["full"]), prompts()
    output = model(ids, labels=ids)
    expected = torch.nn.functional.cross_entropy(output.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    torch.testing.assert_close(output.loss, expected)
    bounds = torch.tensor([0, 8, 17])
    packed = model(ids[:1], labels=ids[:1], cu_seqlens=bounds)
    kept = [t for t in range(16) if t + 1 != 8]
    expected = torch.nn.functional.cross_entropy(packed.logits[0, kept], ids[0, 1:][kept])
    torch.testing.assert_close(packed.loss, expected)


@hybrids
def test_every_parameter_learns_and_activation_checkpointing_changes_no_gradient(layers):
    model, ids = small_model(layers).train(), prompts()
    model(ids, labels=ids).loss.backward()
    plain = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    model.gradient_checkpointing_enable()
    model(ids, labels=ids).loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, plain[name], msg=name)


def test_training_keeps_no_cache_and_evaluation_does():
    model, ids = small_model(HYBRIDS["hybrid"]), prompts()
    assert model.train()(ids).past_key_values is None
    with torch.no_grad():
        assert isinstance(model.eval()(ids).past_key_values, HybridCache)


@torch.no_grad()
def test_logits_to_keep_computes_only_those():
    model, ids = small_model(HYBRIDS["full"]), prompts()
    full = model(ids).logits
    torch.testing.assert_close(model(ids, logits_to_keep=3).logits, full[:, -3:])
    torch.testing.assert_close(model(ids, logits_to_keep=torch.tensor([0, 5])).logits, full[:, [0, 5]])


def test_a_misspelt_argument_is_an_error():
    with pytest.raises(TypeError, match="atention_mask"):
        small_model(["attn"])(prompts(), atention_mask=None)


@torch.no_grad()
def test_a_full_cache_a_foreign_cache_and_packing_with_a_cache_are_refused():
    from transformers import DynamicCache

    model, ids = small_model(HYBRIDS["hybrid"]), prompts()
    with pytest.raises(UserError, match="holds 16 tokens and 17 are needed"):
        model(ids, past_key_values=model.new_cache(16))
    with pytest.raises(UserError, match="HybridCache"):
        model(ids, past_key_values=DynamicCache())
    with pytest.raises(UserError, match="not both"):
        model(ids[:1], past_key_values=model.new_cache(), cu_seqlens=torch.tensor([0, 17]))


def test_an_untied_head_has_its_own_weights():
    tied = small_model(["attn"])
    untied = small_model(["attn"], tie_word_embeddings=False)
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    assert untied.lm_head.weight is not untied.model.embed_tokens.weight


def test_norms_multiply_before_the_cast():
    from jetlit.blocks.rms_norm import RMSNorm

    torch.manual_seed(0)
    norm, x = RMSNorm(24, "1e-5").bfloat16(), torch.randn(50, 24).bfloat16()
    torch.nn.init.uniform_(norm.weight)
    exact = x.float() / torch.sqrt(x.float().square().mean(-1, keepdim=True) + 1e-5)
    assert torch.equal(norm(x), (norm.weight.float() * exact).bfloat16())


def test_initial_weights_follow_the_configured_range():
    model = small_model(["attn"] * 2, hidden_size=96, initializer_range=0.1)
    assert model.model.layers[0].mlp.up_proj.weight.std().item() == pytest.approx(0.1, rel=0.05)
    assert (model.model.norm.weight == 1).all()
    assert small_config(["attn"]).head_dim == 6


def test_rotary_frequencies_stay_exact_in_half_precision():
    exact, half = small_model(["attn"]), small_model(["attn"]).bfloat16()
    positions = torch.tensor([[100_003]])
    for found, expected in zip(
        half.model.rotary(torch.zeros(1), positions), exact.model.rotary(torch.zeros(1), positions)
    ):
        assert torch.equal(found, expected)
