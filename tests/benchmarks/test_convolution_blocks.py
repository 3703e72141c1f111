"""benchmarks/convolution_blocks.py: every choice of convolutions keeps the blocks' contract; two are known blocks."""

import importlib
import json
from functools import partial
from pathlib import Path

import pytest
import torch

from jetlit.blocks import BLOCKS
from jetlit.blocks.attention import Attention
from jetlit.generation import GenerationEngine
from jetlit.models import Architecture, hybridize, load_model
from tests.blocks import test_contract as contract
from tests.blocks.cases import HIDDEN, DictCache, assert_agree, inputs, make
from tests.models.small import WINDOW, prompts, small_model

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CHOICES = [("", False), ("v", False), ("qk", False), ("qkv", False), ("", True), ("qk", True)]
every_choice = pytest.mark.parametrize(("static", "dynamic_v"), CHOICES)


@pytest.fixture
def varied(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("convolution_blocks").VariedConvolutions


@pytest.mark.parametrize(
    "check",
    [
        contract.test_chunks_agree_with_token_by_token,
        contract.test_no_output_sees_a_later_token,
        contract.test_packed_sequences_are_separate,
        contract.test_packed_sequences_continue_from_carried_state,
        contract.test_padding_touches_neither_state_nor_output,
        contract.test_gradients_of_packed_and_padded_batches,
        contract.test_every_parameter_has_a_gradient,
        partial(contract.test_state_bytes_are_what_the_cache_holds, dtype=torch.bfloat16),
        contract.test_bfloat16_and_autocast_stay_near_float32,
        contract.test_meta_device_allocates_nothing,
    ],
    ids=lambda check: getattr(check, "func", check).__name__,
)
@every_choice
def test_every_choice_keeps_the_contract(varied, monkeypatch, check, static, dynamic_v):
    monkeypatch.setitem(BLOCKS, "varied", partial(varied, static=static, dynamic_v=dynamic_v))
    check(name="varied")


@every_choice
def test_only_the_chosen_convolutions_exist(varied, static, dynamic_v):
    block = varied(HIDDEN, num_heads=3, head_dim=8, expand_v=1.5, static=static, dynamic_v=dynamic_v)
    states = {f"conv_{name}": (36 if name == "v" else 24, 4) for name in static} | {"recurrent": (3, 8, 12)}
    states |= {"conv": (36, 4)} if dynamic_v else {}
    assert {name: spec.shape for name, spec in block.state_specs().items()} == states
    names = [name for name, _ in block.named_parameters() if "conv" in name]
    generator = [f"dynamic_conv1d.kernel_generator.{name}" for name in ("w1.weight", "w2.weight", "w2.bias")]
    assert names == [f"static_conv1d.{name}.weight" for name in static] + generator * dynamic_v


@pytest.mark.parametrize(
    ("twin", "static", "dynamic_v", "names"),
    [
        ("jet", "", True, {}),
        ("gated_delta_net", "qkv", False, {f"{name}_conv1d": f"static_conv1d.{name}" for name in "qkv"}),
    ],
)
def test_the_two_known_blocks_are_among_the_choices(varied, twin, static, dynamic_v, names):
    known, x = make(twin), inputs(2, 23)
    block = varied(HIDDEN, num_heads=3, head_dim=6, expand_v=1.5, static=static, dynamic_v=dynamic_v)

    def renamed(name):
        part, _, rest = name.partition(".")
        return f"{names.get(part, part)}.{rest}".rstrip(".")

    block.load_state_dict({renamed(name): tensor for name, tensor in known.state_dict().items()})
    caches = DictCache(), DictCache()
    with torch.no_grad():
        for a, b in ((0, 17), (17, 18), (18, 23)):
            assert_agree(block(x[:, a:b], cache=caches[0]), known(x[:, a:b], cache=caches[1]))
    assert {name: spec.shape for name, spec in block.state_specs().items()} == {
        name: spec.shape for name, spec in known.state_specs().items()
    }


@every_choice
@torch.no_grad()
def test_inherited_convolutions_pass_through(varied, static, dynamic_v):
    """At the start all choices are one function, but for the random taps of the dynamic kernels."""
    attention, x = small_model(["attn"]).model.layers[0].self_attn, torch.randn(2, 19, 36)
    torch.manual_seed(5)
    bare = varied.from_attention(attention)
    block = varied.from_attention(attention, static=static, dynamic_v=dynamic_v)
    if dynamic_v:
        bias = block.dynamic_conv1d.kernel_generator.w2.bias.view(-1, 4)
        assert (bias - torch.tensor([0.0, 0, 0, 1])).abs().max() < 0.1
        bias.copy_(bias.round())
    assert not block.load_state_dict(bare.state_dict(), strict=False).unexpected_keys
    assert_agree(block(x), bare(x))


@every_choice
@torch.no_grad()
def test_saved_loaded_and_served(varied, monkeypatch, tmp_path, static, dynamic_v):
    monkeypatch.setitem(BLOCKS, "varied", varied)
    config = {"varied": {"static": static, "dynamic_v": dynamic_v}}
    hybrid = hybridize(small_model(["attn"] * 3), Architecture(["varied", "attn", "varied"], config))
    hybrid.save_pretrained(tmp_path)
    loaded, ids = load_model(tmp_path, "cpu"), prompts(length=21)
    expected = hybrid(ids).logits
    assert torch.equal(loaded(ids).logits, expected)
    engine = GenerationEngine(loaded, 2, 32, prefill_chunk=8)
    assert_agree(engine.prefill(ids[:, :19]), expected[:, 18])
    assert_agree(engine.decode_step(ids[:, 19]), expected[:, 19])
    assert_agree(engine.decode_step(ids[:, 20]), expected[:, 20])


def test_the_study_puts_each_variant_into_every_layer_without_full_attention(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARKS)
    smollm2 = importlib.import_module("smollm2")
    monkeypatch.setitem(BLOCKS, smollm2.VARIED, None)  # the study's entry takes its place and goes with it
    lab, fitted = smollm2.Lab.__new__(smollm2.Lab), []
    lab.run, lab.out, lab.seeds = tmp_path, tmp_path / "out", [0, 1]
    monkeypatch.setattr(lab, "passing_fit", lambda name, stage, **options: fitted.append((name, options)) or {})
    windows = Architecture(["swa", "attn", "gla", "swa"], {"swa": {"window_size": WINDOW}, "gla": {"head_dim": 5}})
    windows.save(tmp_path / "placement" / "placement.json")
    smollm2.convolution(lab)

    rows = json.loads((lab.out / "smollm2_convolution.json").read_text())["rows"]
    assert [row["seed"] for row in rows] == [options["seed_everything"] for _, options in fitted] == [0] * 6 + [1] * 6
    teacher, seen = small_model(["attn"] * 4), []
    for row, (_, options) in zip(rows, fitted, strict=True):
        hybrid = hybridize(teacher, Architecture.load(options["model.init_args.architecture"]))
        first, full, *others = [layer.self_attn for layer in hybrid.model.layers]
        assert isinstance(full, Attention) and {type(other) for other in others} == {type(first)}
        assert all(other.state_specs() == first.state_specs() for other in others)
        sizes = first.num_heads, first.head_dim, first.value_head_dim
        convolved = {name for name in first.state_specs() if name != "recurrent"}
        seen.append((row["variant"], sizes, convolved))
    on_qk = {"conv_q", "conv_k"}
    expected = [{"conv"}, {"conv_v"}, {"conv", *on_qk}, on_qk, {"conv_v", *on_qk}, set()]
    assert [convolved for *_, convolved in seen] == 2 * expected
    assert {sizes for _, sizes, _ in seen} == {(6, 6, 12)}
    assert len({name for name, _ in fitted}) == len(fitted)
