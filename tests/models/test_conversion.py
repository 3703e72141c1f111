import pytest
import torch
from transformers import AutoModelForCausalLM

from jetlit.blocks import BLOCKS
from jetlit.errors import UserError
from jetlit.models import Architecture, freeze_all_but_mixers, hybridize
from tests.models.small import prompts, small_model

LINEAR = [name for name in BLOCKS if name not in ("attn", "swa")]


@torch.no_grad()
def test_attention_everywhere_is_the_teacher_itself():
    teacher = small_model(["attn"] * 3)
    copied = hybridize(teacher, Architecture(["attn"] * 3))
    assert torch.equal(copied(prompts()).logits, teacher(prompts()).logits)


@pytest.mark.parametrize("name", LINEAR)
def test_everything_but_the_mixers_is_copied_and_the_teacher_is_left_alone(name):
    teacher = small_model(["attn"] * 3)
    before = {key: tensor.clone() for key, tensor in teacher.state_dict().items()}
    hybrid = hybridize(teacher, Architecture([name, "attn", name]))
    state = hybrid.state_dict()
    kept = [key for key in before if ".self_attn." not in key or ".layers.1." in key]
    assert all(torch.equal(state[key], before[key]) for key in kept)
    with torch.no_grad():
        for parameter in hybrid.parameters():
            parameter.zero_()
    assert all(torch.equal(tensor, before[key]) for key, tensor in teacher.state_dict().items())


@pytest.mark.parametrize("name", LINEAR)
@torch.no_grad()
def test_the_saved_configuration_builds_the_same_model(name, tmp_path):
    hybrid = hybridize(small_model(["attn"] * 3, attention_bias=name != "jet"), Architecture(["attn", name, "attn"]))
    hybrid.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded(prompts()).logits, hybrid(prompts()).logits)


@torch.no_grad()
def test_sliding_windows_keep_the_attention_weights():
    teacher = small_model(["attn"] * 2)
    hybrid = hybridize(teacher, Architecture(["swa", "attn"], {"swa": {"window_size": 100}}))
    torch.testing.assert_close(hybrid(prompts()).logits, teacher(prompts()).logits)


def test_type_tying_and_mode_are_kept():
    teacher = small_model(["attn"] * 2).bfloat16()
    hybrid = hybridize(teacher, Architecture(["jet", "attn"]))
    assert {parameter.dtype for parameter in hybrid.parameters()} == {torch.bfloat16}
    assert hybrid.lm_head.weight is hybrid.model.embed_tokens.weight
    assert not hybrid.training


def test_settings_left_open_come_from_the_attention():
    hybrid = hybridize(small_model(["attn"] * 2), Architecture(["gla", "attn"], {"gla": {"head_dim": 4}}))
    assert hybrid.config.efficient_attention_config["gla"] == {"num_heads": 6, "head_dim": 4, "qkv_bias": True}


def test_a_layer_that_is_no_attention_cannot_be_converted_but_can_be_kept():
    hybrid = small_model(["jet", "attn"])
    kept = hybridize(hybrid, Architecture(["jet", "gla"], dict(hybrid.config.efficient_attention_config)))
    assert torch.equal(kept.state_dict()["model.layers.0.self_attn.A_log"], hybrid.model.layers[0].self_attn.A_log)
    with pytest.raises(UserError, match="Layer 0 of the teacher is JetBlock"):
        hybridize(hybrid, Architecture(["gla", "attn"]))


def test_freezing_leaves_the_token_mixers_alone_to_learn():
    model = small_model(["jet", "attn"]).train()
    freeze_all_but_mixers(model)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(prompts(), labels=prompts()).loss.backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        moved = not torch.equal(parameter, before[name])
        assert parameter.requires_grad == (".self_attn." in name), name
        assert not moved or ".self_attn." in name, name
    assert not torch.equal(
        model.model.layers[1].self_attn.q_proj.weight, before["model.layers.1.self_attn.q_proj.weight"]
    )


@torch.no_grad()
def test_a_students_trained_blocks_are_kept_where_they_are_wanted():
    teacher = small_model(["attn"] * 3)
    student = hybridize(teacher, Architecture(["gla"] * 3))
    for parameter in student.parameters():
        parameter.add_(torch.randn_like(parameter))
    mixed = hybridize(teacher, Architecture(["gla", "attn", "jet"]), student)
    sources = student, teacher, hybridize(teacher, Architecture(["jet"] * 3), inherit=True)
    for index, source in enumerate(sources[:2]):
        wanted = source.model.layers[index].self_attn.state_dict()
        assert all(torch.equal(t, wanted[k]) for k, t in mixed.model.layers[index].self_attn.state_dict().items())
    last, wanted = (model.model.layers[2].self_attn.o_proj.weight for model in (mixed, sources[2]))
    assert torch.equal(last, wanted)
    with pytest.raises(UserError, match="The student's gla has other settings"):
        hybridize(teacher, Architecture(["gla"] * 3, {"gla": {"num_heads": 2}}), student)


@pytest.mark.parametrize("name", LINEAR)
@torch.no_grad()
def test_without_inheriting_only_the_projections_are_others(name):
    teacher = small_model(["attn"] * 2)
    architecture = Architecture([name, "attn"])
    inherited, random = hybridize(teacher, architecture), hybridize(teacher, architecture, inherit=False)
    assert inherited.config.to_dict() == random.config.to_dict()
    assert all(torch.equal(a, b) for a, b in zip(*(m.model.layers[1].parameters() for m in (inherited, random))))
    first, second = (model.model.layers[0].self_attn for model in (inherited, random))
    assert not torch.equal(first.q_proj.weight, second.q_proj.weight)
    assert not torch.equal(first.o_proj.weight, second.o_proj.weight)
    assert random(prompts()).logits.isfinite().all()
