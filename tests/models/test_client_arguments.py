"""What trainers, data collators and adapters pass to a model beside its tokens."""

import pytest
import torch
import torch.nn.functional as F
from transformers import DataCollatorWithFlattening, Qwen2Config, Qwen2ForCausalLM

from jetlit.errors import UserError
from jetlit.models import load_model
from tests.models.small import HYBRIDS, prompts, small_model

MIXED = ["jet", "attn", "swa", "gla", "rwkv7", "retnet"]
every_kind = pytest.mark.parametrize("layers", [HYBRIDS["full"], MIXED], ids=["attention", "mixed"])


def assert_close(a, b):
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def documents(lengths, seed=3):
    return [prompts(1, length, seed + n) for n, length in enumerate(lengths)]


def apart(model, texts):
    return torch.cat([model(text).logits for text in texts], 1)


WAYS = {
    "position_ids": {},
    "cu_seq_lens": {"return_position_ids": False, "return_flash_attn_kwargs": True},
    "seq_idx": {"return_position_ids": False, "return_seq_idx": True},
    "all": {"return_flash_attn_kwargs": True, "return_seq_idx": True},
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@every_kind
@torch.no_grad()
def test_flattened_documents_do_not_see_each_other(layers, way):
    model, texts = small_model(layers), documents((9, 1, 7))
    features = [{"input_ids": text[0].tolist(), "labels": text[0].tolist()} for text in texts]
    batch = DataCollatorWithFlattening(return_tensors="pt", **way)(features)
    output = model(**batch, use_cache=True)
    assert_close(output.logits, apart(model, texts))
    targets = batch["labels"][0, 1:]
    assert_close(output.loss, F.cross_entropy(output.logits[0, :-1], targets))
    unmarked = {key: value for key, value in batch.items() if key != "labels"} | {"labels": batch["input_ids"]}
    assert_close(model(**unmarked).loss, output.loss)
    del batch["labels"]
    assert_close(model.model(**batch).last_hidden_state[:, 9:10], model.model(texts[1]).last_hidden_state)


@every_kind
@torch.no_grad()
def test_every_row_of_a_batch_may_hold_several_documents(layers):
    model = small_model(layers)
    first, second = documents((9, 8)), documents((3, 14), seed=9)
    ids = torch.cat([torch.cat(first, 1), torch.cat(second, 1)])
    positions = torch.tensor([[*range(9), *range(8)], [*range(3), *range(14)]])
    expected = torch.cat([apart(model, first), apart(model, second)])
    for mask in (None, torch.ones_like(ids)):
        output = model(ids, position_ids=positions, attention_mask=mask, labels=ids, output_hidden_states=True)
        assert_close(output.logits, expected)
        assert all(state.shape == (2, 17, 36) for state in output.hidden_states)
    targets = ids.clone()
    targets[0, [0, 9]] = targets[1, [0, 3]] = -100
    assert_close(output.loss, F.cross_entropy(output.logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten()))


@torch.no_grad()
def test_packed_attention_equals_that_of_transformers():
    sizes = {"vocab_size": 61, "hidden_size": 36, "intermediate_size": 50, "num_hidden_layers": 2}
    torch.manual_seed(0)
    qwen = Qwen2ForCausalLM(Qwen2Config(**sizes, num_attention_heads=6, num_key_value_heads=2)).eval()
    ours, ids = load_model(qwen), prompts(2, 17)
    for positions in (
        torch.tensor([[*range(9), *range(8)], [*range(3), *range(14)]]),
        torch.tensor([[*range(5), 7, 8, *range(10)]]),
        torch.arange(100, 117)[None],
    ):
        # With a cache, which it makes by default, transformers does not look at the positions.
        expected = qwen(ids, position_ids=positions, use_cache=False).logits
        assert_close(ours(ids, position_ids=positions).logits, expected)


@every_kind
@torch.no_grad()
def test_shifted_positions_of_a_padded_batch_begin_no_document(layers):
    model, ids = small_model(layers), prompts()
    mask = torch.ones_like(ids)
    mask[0, :6] = mask[1, -4:] = 0
    positions = (mask.cumsum(1) - 1).masked_fill(mask == 0, 1)
    padded = model(ids, attention_mask=mask, position_ids=positions).logits
    assert_close(padded[0, 6:], model(ids[:1, 6:]).logits[0])
    assert_close(padded[1, :-4], model(ids[1:, :-4]).logits[0])


def test_what_would_mix_documents_is_refused():
    model, ids = small_model(MIXED), prompts()
    packed, padding = torch.tensor([[*range(9), *range(8)]]), torch.ones_like(ids)
    padding[0, 0] = 0
    with pytest.raises(UserError, match="with padding"):
        model(ids, position_ids=packed, attention_mask=padding)
    with pytest.raises(UserError, match="not both"):
        model(ids, position_ids=packed, past_key_values=model.new_cache())
    with pytest.raises(UserError, match=r"\[sequences, tokens\]"):
        model(ids, attention_mask=torch.ones(2, 1, 17, 17))
    with pytest.raises(UserError, match="rise from 0 to 17"):
        model(ids[:1], cu_seqlens=torch.tensor([0, 9, 16]))
    with pytest.raises(UserError, match="differ"):
        model(ids[:1], cu_seq_lens_q=torch.tensor([0, 17]), cu_seq_lens_k=torch.tensor([0, 9, 17]))
    for argument in ("document_ids", "cu_seqlen", "token_type_ids"):
        with pytest.raises(TypeError, match=argument):
            model(ids, labels=ids, **{argument: packed})
    for argument in ({"output_attentions": True}, {"is_causal": False}, {"output_router_logits": True}):
        with pytest.raises(UserError, match=next(iter(argument))):
            model(ids, **argument)


@pytest.mark.parametrize("bounds", [[0, 9, 17, 17], [0, 0, 9, 9, 17], [0, 17, 17, 17]])
@every_kind
def test_empty_sequences_change_nothing(layers, bounds):
    model, ids = small_model(layers), prompts(1, 17)
    filled = torch.tensor(sorted(set(bounds)))
    found, expected = (model(ids, labels=ids, cu_seqlens=b) for b in (torch.tensor(bounds), filled))
    assert_close(found.logits, expected.logits)
    assert_close(found.loss, expected.loss)


@every_kind
def test_a_batch_without_a_target_has_loss_zero(layers):
    model, ids = small_model(layers), prompts(1, 5)
    single = {"position_ids": torch.zeros(1, 5, dtype=torch.int64)}
    for batch in ({"labels": ids, "cu_seqlens": torch.arange(6)}, single | {"labels": ids}, {"labels": ids * 0 - 100}):
        model.zero_grad()
        loss = model(ids, **batch).loss
        loss.backward()
        assert loss == 0
        assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_the_loss_is_divided_by_the_items_of_the_whole_step():
    model, ids = small_model(MIXED), prompts()
    output = model(ids, labels=ids, num_items_in_batch=torch.tensor(100))
    total = F.cross_entropy(output.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
    assert_close(output.loss, total / 100)
    shifted = F.pad(ids[:, 1:], (0, 1), value=-100)
    assert_close(model(ids, shift_labels=shifted, num_items_in_batch=100).loss, total / 100)
    assert_close(model(ids, labels=torch.zeros_like(ids), shift_labels=shifted).loss, total / 32)


def test_outputs_are_as_asked_and_as_configured():
    model, ids = small_model(MIXED), prompts()
    loss, logits, states = model(ids, labels=ids, return_dict=False, output_hidden_states=True)
    assert_close(model(ids, labels=ids).loss, loss)
    assert logits.shape == (2, 17, 61) and len(states) == 7
    assert isinstance(model.model(ids, return_dict=False), tuple)
    assert model(ids).hidden_states is None
    output = model(ids, labels=ids, output_hidden_states=True)
    output.hidden_states[0].retain_grad()
    output.loss.backward()
    assert output.hidden_states[0].grad.any(), "they are the tensors that the layers read"
    model.config.output_hidden_states = True
    assert len(model(ids).hidden_states) == len(model.model(ids).hidden_states) == 7
    assert model(ids, output_hidden_states=False).hidden_states is None
    model.config.return_dict = False
    assert isinstance(model(ids), tuple)


def test_the_trainer_smooths_labels_as_it_does_for_models_of_its_own():
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    from transformers.trainer_pt_utils import LabelSmoother

    model, ids = small_model(MIXED), prompts()
    assert type(model).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()  # what the trainer asks
    output = model(ids)
    logits, targets = output.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
    expected = F.cross_entropy(logits, targets, label_smoothing=0.1)
    assert_close(LabelSmoother(epsilon=0.1)(output, ids, shift_labels=True), expected)


def test_gradient_checkpointing_keeps_no_cache():
    model, ids = small_model(MIXED).train(), prompts()
    model(ids, labels=ids).loss.backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.gradient_checkpointing_enable()
    for cache in ({"use_cache": True}, {"past_key_values": model.new_cache()}):
        model.zero_grad()
        output = model(ids, labels=ids, **cache)
        output.loss.backward()
        assert output.past_key_values is None
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.grad, expected[name], msg=name)
    filled = model.new_cache()
    with torch.no_grad():
        model.eval()(ids, past_key_values=filled)
    with pytest.raises(UserError, match="cannot continue from a cache"):
        model.train()(ids, past_key_values=filled)


def test_the_token_that_pads_and_ends_texts_learns():
    model, ids = small_model(["attn"], pad_token_id=2, eos_token_id=2, tie_word_embeddings=False), prompts()
    ids[:, 5] = 2
    model(ids, labels=ids).loss.backward()
    assert model.model.embed_tokens.weight.grad[2].norm() > 0


@torch.no_grad()
def test_a_layer_brings_its_inputs_to_its_own_device():
    """The meta device refuses tensors of another one, as a second GPU does."""
    model, ids = small_model([*MIXED, "mamba2"]), prompts(1)
    mask = torch.ones_like(ids)
    mask[0, 0] = 0
    for options in ({}, {"cu_seqlens": torch.tensor([0, 9, 17])}):
        hidden = model.model.embed(ids)
        inputs = model.model.layer_inputs(hidden, **options)
        for layer in model.model.layers[1:3]:
            assert layer.to("meta")(hidden.to("meta"), inputs).device.type == "meta"
