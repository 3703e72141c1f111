"""peft, accelerate, bitsandbytes and torchao on a hybrid of all blocks, against weights merged or unpacked by hand."""

import copy

import pytest
import torch
from torch import nn

for library in ("peft", "accelerate", "bitsandbytes", "torchao"):
    pytest.importorskip(library, reason="make test-clients installs it")

import accelerate  # noqa: E402
import bitsandbytes as bnb  # noqa: E402
import peft  # noqa: E402
from torchao import quantization  # noqa: E402

from jetlit.errors import UserError  # noqa: E402
from jetlit.generation import GenerationEngine  # noqa: E402
from jetlit.models import JetNemotronForCausalLM  # noqa: E402
from tests.blocks.cases import LINEAR, lively  # noqa: E402
from tests.models.small import prompts, small_model  # noqa: E402

ALL = [*LINEAR, "attn", "swa"]
GREEDY = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}


def hybrid(layers=ALL, **changes):
    return lively(small_model(layers, tie_word_embeddings=False, **changes))


def relative_error(a, b):
    return ((a - b).norm() / b.norm()).item()


def decoder_linears(model):
    """Return all linear layers by name, without the head."""
    return {name: layer for name, layer in model.model.named_modules(prefix="model") if type(layer) is nn.Linear}


METHODS = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora"},
}


@pytest.mark.parametrize("task", ["CAUSAL_LM", None])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_adapters_start_learn_and_merge(method, task):
    model, ids = hybrid(), prompts()
    with torch.no_grad():
        untouched = model(ids).logits
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules="all-linear", r=3, task_type=task, **method))
    adapted.eval()
    with torch.no_grad():
        assert relative_error(adapted(input_ids=ids).logits, untouched) < 1e-4
        torch.manual_seed(0)
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    output = adapted(input_ids=ids, labels=ids)
    output.loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in adapted.parameters() if p.requires_grad)
    written = adapted.generate(input_ids=ids, **GREEDY)
    with pytest.raises(UserError, match="merge adapters"):
        GenerationEngine(model, 2, 40).prefill(ids)
    merged = adapted.merge_and_unload().eval()
    with torch.no_grad():
        assert relative_error(merged(ids).logits, untouched) > 1e-2
        assert relative_error(output.logits, merged(ids).logits) < 1e-4
    assert torch.equal(written, merged.generate(ids, **GREEDY))
    assert torch.equal(written, GenerationEngine(merged, 2, 40).generate(ids, 6))


def test_prompts_learned_in_front_are_tokens_like_others():
    model, ids = hybrid(), prompts()
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    tuned = peft.get_peft_model(model, config).eval()
    virtual = tuned.get_prompt(batch_size=2)
    embedded = torch.cat([virtual, model.model.embed_tokens(ids)], 1)
    torch.testing.assert_close(tuned(input_ids=ids).logits, model(inputs_embeds=embedded).logits)


@pytest.mark.parametrize("where", ["cpu", "disk"])
@torch.no_grad()
def test_offloaded_weights_are_there_when_they_are_needed(where, tmp_path):
    model, ids = hybrid(), prompts()
    expected, written = model(ids).logits, model.generate(ids, **GREEDY)
    cpu = torch.device("cpu")
    if where == "cpu":
        accelerate.cpu_offload(model, execution_device=cpu)
    else:
        accelerate.disk_offload(model, tmp_path, execution_device=cpu)
    assert model.model.layers[0].mlp.up_proj.weight.is_meta
    assert relative_error(model(ids).logits, expected) < 1e-5
    assert relative_error(model(ids[:1], position_ids=torch.arange(17)[None]).logits, expected[:1]) < 1e-5
    assert torch.equal(model.generate(ids, **GREEDY), written)
    with pytest.raises(UserError, match="offloaded"):
        GenerationEngine(model, 2, 40).prefill(ids)


@torch.no_grad()
def test_a_device_map_with_a_disk_loads_the_same_model(tmp_path):
    model, ids = hybrid(), prompts()
    model.save_pretrained(tmp_path / "model")
    places = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary": "cpu", "lm_head": "disk"}
    places |= {f"model.layers.{n}": "disk" if n % 2 else "cpu" for n in range(len(ALL))}
    loaded = JetNemotronForCausalLM.from_pretrained(
        tmp_path / "model", device_map=places, offload_folder=tmp_path / "away"
    )
    assert relative_error(loaded(ids).logits, model(ids).logits) < 1e-5


def test_a_model_can_be_made_without_memory():
    with accelerate.init_empty_weights():
        model = small_model(ALL)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def eight_bits(layer):
    new = bnb.nn.Linear8bitLt(layer.in_features, layer.out_features, layer.bias is not None, has_fp16_weights=False)
    new.weight = bnb.nn.Int8Params(layer.weight.data, requires_grad=False, has_fp16_weights=False)
    new.bias = layer.bias
    return new.to("cpu"), None


def four_bits(layer):
    new = bnb.nn.Linear4bit(layer.in_features, layer.out_features, layer.bias is not None, torch.float32)
    new.weight = bnb.nn.Params4bit(layer.weight.data, requires_grad=False)
    new.bias = layer.bias
    new = new.to("cpu")
    return new, bnb.functional.dequantize_4bit(new.weight.data, new.weight.quant_state).float()


def torchao_int8(layer):
    new = copy.deepcopy(layer)
    quantization.quantize_(new, quantization.Int8WeightOnlyConfig())
    return new, new.weight.dequantize()


def dynamic_int8(layer):
    new = torch.ao.nn.quantized.dynamic.Linear(layer.in_features, layer.out_features, layer.bias is not None)
    weight = torch.quantize_per_tensor(layer.weight.detach(), layer.weight.abs().max().item() / 127, 0, torch.qint8)
    new.set_weight_bias(weight, None if layer.bias is None else layer.bias.detach())
    return new, weight.dequantize()


@pytest.mark.parametrize(
    ("quantize", "tolerance"), [(eight_bits, 0.1), (four_bits, 1e-4), (torchao_int8, 1e-2), (dynamic_int8, 0.2)]
)
@pytest.mark.parametrize("block", ALL)
@torch.no_grad()
def test_quantized_layers_compute_with_the_weights_they_stand_for(block, quantize, tolerance):
    """Where activations are quantized too, the tolerance is theirs."""
    model, ids = hybrid([block], **SMALL), prompts(length=13)
    unpacked = copy.deepcopy(model)
    for name, layer in decoder_linears(model).items():
        if layer.in_features % 64 == 0:  # the blocks of four-bit weights
            new, weight = quantize(layer)
            model.set_submodule(name, new)
            if weight is not None:
                unpacked.get_submodule(name).weight.copy_(weight)
    expected = unpacked(ids).logits
    assert relative_error(model(ids).logits, expected) < tolerance
    cache = model.new_cache()
    pieces = [model(piece, past_key_values=cache).logits for piece in ids.split([7, 1, 5], 1)]
    assert relative_error(torch.cat(pieces, 1), expected) < tolerance
    with pytest.raises(UserError, match="quantized"):
        GenerationEngine(model, 2, 40).prefill(ids)
