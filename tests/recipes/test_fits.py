"""Every recipe as a real fit: the loss falls, frozen tensors stay, a resumed fit equals an undisturbed one."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from jetlit.cli.fit import open_fit, run_fit
from jetlit.errors import UserError
from jetlit.models import SuperNetwork, load_model
from jetlit.results import read_result
from jetlit.training import last_checkpoint
from tests.data.tokenizers import tokenizer_of
from tests.recipes import tiny


def values(run_dir, stage):
    return {name: entry["value"] for name, entry in read_result(run_dir / stage)["metrics"].items()}


def state(cli):
    return {name: tensor.clone() for name, tensor in cli.model.model.state_dict().items()}


def assert_same(left, right):
    assert left.keys() == right.keys()
    differing = [name for name in left if not torch.equal(left[name], right[name])]
    assert not differing


@pytest.mark.parametrize("stage", ["teacher", "supernet", "stage1", "stage2", "stage2_taught"])
def test_the_held_out_objective_falls(run_dir, stage):
    name = {"supernet": "val/feature", "stage1": "val/kl"}.get(stage, "val/loss")
    inherited = ["--model.init_args.fit_tokens", "0"] if stage in ("supernet", "stage1") else []
    options = ["--ckpt_path", "none", *inherited]
    start = run_fit(tiny.command(run_dir, stage, *options, subcommand="validate"))
    after = tiny.fit(run_dir, stage, "--trainer.max_steps", "30", *options)
    assert after.trainer.callback_metrics[name] < 0.97 * start.trainer.callback_metrics[name]


@pytest.mark.parametrize("stage", ["supernet", "stage1"])
def test_new_blocks_start_closer_to_the_teacher_when_their_outputs_are_fitted(run_dir, stage):
    def start(tokens):
        options = ["--ckpt_path", "none", "--model.init_args.fit_tokens", str(tokens)]
        return run_fit(tiny.command(run_dir, stage, *options, subcommand="validate")).trainer.callback_metrics[
            "val/feature"
        ]

    assert start(2000) < 0.8 * start(0)


@pytest.mark.parametrize("stage", ["supernet", "stage1"])
def test_frozen_tensors_do_not_move_by_a_bit_and_mixers_do(run_dir, stage):
    teacher = load_model(str(run_dir / "teacher/model")).state_dict()
    cli = tiny.fit(run_dir, stage, "--ckpt_path", "none")
    trained = cli.model.model.state_dict()
    mixers = [name for name in trained if ".self_attn." in name]
    frozen = {name.removeprefix("causal_lm."): trained[name] for name in trained if name not in mixers}
    assert_same(frozen, {name: teacher[name] for name in frozen})
    trainable = {name for name, p in cli.model.model.named_parameters() if p.requires_grad}
    assert trainable == set(mixers) & {name for name, _ in cli.model.model.named_parameters()}
    start = type(cli.model).build(cli.model).state_dict()
    moved = [name for name in mixers if not torch.equal(start[name], trained[name])]
    assert {"gla"} <= {part for name in moved for part in ("gla", "attn") if part in name or stage == "stage1"}
    assert len(moved) > len(mixers) // 2


@pytest.mark.parametrize("stage", ["supernet", "stage1", "stage2", "stage2_taught"])
def test_data_in_other_tokens_than_the_model_s_are_refused_before_anything_is_loaded(run_dir, stage):
    tokenizer_of("byte_level").save_pretrained(run_dir / ("stage1" if stage == "stage2" else "teacher") / "model")
    with pytest.raises(UserError, match=r"in the tokens of another tokenizer \(bytes\) than that of .*model: prepare"):
        tiny.fit(run_dir, stage, "--ckpt_path", "none")


@pytest.mark.parametrize("stage", ["stage2", "stage2_taught"])
def test_stage_2_trains_every_parameter(run_dir, stage):
    before = load_model(str(run_dir / "stage1/model")).state_dict()
    after = tiny.fit(run_dir, stage).model.model.state_dict()
    assert not [name for name in before if torch.equal(before[name], after[name])]


@pytest.mark.parametrize("stage", ["teacher", "supernet", "stage1", "stage2", "stage2_taught"])
def test_a_resumed_fit_equals_an_undisturbed_one(run_dir, stage, tmp_path):
    undisturbed = tiny.fit(run_dir, stage, "--trainer.max_steps", "8", "--ckpt_path", "none")
    expected, expected_metrics = state(undisturbed), values(run_dir, stage)
    shutil.rmtree(run_dir / stage)
    if stage == "teacher":
        shutil.rmtree(run_dir / "stage1")
    with pytest.raises(tiny.Killed):
        tiny.interrupted_cli(open_fit(tiny.command(run_dir, stage, "--trainer.max_steps", "8")[1:])).fit()
    assert read_result(run_dir / stage) is None
    assert last_checkpoint(run_dir / stage / "checkpoints").name == "step=00000003.ckpt"
    resumed = tiny.fit(run_dir, stage, "--trainer.max_steps", "8", "--ckpt_path", "last")
    assert_same(state(resumed), expected)
    metrics = values(run_dir, stage)
    same = [name for name in expected_metrics if name.startswith("val/") or name in ("tokens_seen", "steps")]
    assert {name: metrics[name] for name in same} == {name: expected_metrics[name] for name in same}
    assert metrics["train/objective"] == expected_metrics["train/objective"]


def test_resuming_a_finished_fit_writes_the_same_result_again(run_dir):
    before = values(run_dir, "stage1")
    (run_dir / "stage1/result.json").unlink()
    shutil.rmtree(run_dir / "stage1/model")
    tiny.fit(run_dir, "stage1", "--ckpt_path", "last")
    after = values(run_dir, "stage1")
    assert {n: v for n, v in after.items() if n.startswith("val/")} == {
        n: v for n, v in before.items() if n.startswith("val/")
    }
    assert (run_dir / "stage1/model/model.safetensors").exists()


def test_the_same_fit_twice_in_one_process_gives_the_same_weights(run_dir):
    torch.rand(7)  # whatever was drawn before must not matter
    first = state(tiny.fit(run_dir, "stage1", "--ckpt_path", "none"))
    torch.rand(3)
    assert_same(state(tiny.fit(run_dir, "stage1", "--ckpt_path", "none")), first)


def test_the_path_of_a_step_depends_on_seed_and_step_alone(run_dir):
    cli = run_fit(tiny.command(run_dir, "supernet", "--ckpt_path", "none", subcommand="validate"))
    sample = cli.model.model.sample_active_subnet
    paths = [sample(cli.model.generator("path", step)) for step in range(40)]
    assert paths == [sample(cli.model.generator("path", step)) for step in range(40)]
    assert len({tuple(path) for path in paths}) == 4  # two layers of two choices: all four paths


def test_the_teacher_is_in_no_checkpoint(run_dir):
    checkpoint = torch.load(last_checkpoint(run_dir / "stage1/checkpoints"), weights_only=False)
    assert not [name for name in checkpoint["state_dict"] if "teacher" in name]
    assert all(name.startswith("model.") for name in checkpoint["state_dict"])


def test_the_exported_model_is_the_trained_one(run_dir):
    cli = tiny.fit(run_dir, "stage1", "--ckpt_path", "none")
    loaded = AutoModelForCausalLM.from_pretrained(run_dir / "stage1/model")
    assert_same(loaded.state_dict(), state(cli))
    tokenizer = AutoTokenizer.from_pretrained(run_dir / "stage1/model")
    assert tokenizer.decode(tokenizer("héllo").input_ids) == "héllo"


def test_the_super_network_is_saved_as_one(run_dir):
    cli = tiny.fit(run_dir, "supernet")
    assert_same(SuperNetwork.from_pretrained(run_dir / "supernet/model").state_dict(), state(cli))


def test_activation_checkpointing_changes_no_weight(run_dir):
    plain = state(tiny.fit(run_dir, "stage1", "--ckpt_path", "none"))
    kept = tiny.fit(run_dir, "stage1", "--ckpt_path", "none", "--model.activation_checkpointing", "true")
    assert_same(state(kept), plain)


def test_gradient_accumulation_equals_the_larger_batch(run_dir):
    # Feature error and KL are means over tokens and all batches have equally many.
    options = ["--ckpt_path", "none", "--trainer.max_steps", "2", "--model.optimizer.lr", "1e-3"]
    large = state(tiny.fit(run_dir, "stage1", *options, "--data.batch_size", "4"))
    small = state(
        tiny.fit(run_dir, "stage1", *options, "--data.batch_size", "2", "--trainer.accumulate_grad_batches", "2")
    )
    for name, tensor in large.items():
        torch.testing.assert_close(small[name], tensor, rtol=1e-3, atol=1e-5)


def test_what_result_json_says(run_dir):
    result = json.loads((run_dir / "stage1/result.json").read_text())
    assert result["stage"] == "stage1" and result["seed"] == 3
    assert result["metrics"]["val/kl"]["unit"] == "nats/token"
    assert result["metrics"]["training_tokens_per_s"]["unit"] == "tokens/s"
    assert result["metrics"]["tokens_seen"]["value"] == 6 * 3 * 24
    assert result["config"]["model"]["init_args"]["teacher"].endswith("/teacher/model")
