"""The command line of fits: configs composed, `${...}` across them, and mistakes answered in one sentence."""

import json
import multiprocessing
import os
import sys

import pytest

from jetlit.cli import main
from jetlit.cli.fit import open_fit, run_fit
from jetlit.errors import UserError
from jetlit.pipeline.consolidate import ConsolidateConfig, consolidate
from jetlit.results import config_hash, read_result
from jetlit.training import last_checkpoint
from tests.recipes import tiny


def resolved_config(argv):
    return open_fit(argv[1:], build=False).resolved()


def init_args(config, group="model"):
    return config[group]["init_args"]


def test_interpolation_across_files_and_the_command_line(run_dir):
    config = resolved_config(tiny.command(run_dir, "stage1"))
    assert init_args(config)["teacher"] == f"{run_dir}/teacher/model"
    assert init_args(config, "data")["corpora"] == f"{run_dir}/data/recall"
    assert config["export"]["folder"] == f"{run_dir}/stage1/model"
    extra = run_dir / "extra.yaml"
    extra.write_text(json.dumps({"run_dir": "elsewhere", "model": {"init_args": {"kl_weight": 0.25}}}))
    argv = ["fit", "--config", f"{run_dir}/common.yaml", "--config", f"{run_dir}/stage1.yaml", "--config", str(extra)]
    config = resolved_config([*argv, "--model.chunk", "7", "--trainer.max_steps=9"])
    assert init_args(config)["teacher"] == "elsewhere/teacher/model"
    assert (init_args(config)["kl_weight"], init_args(config)["feature_weight"]) == (0.25, 0.5)
    assert init_args(config)["chunk"] == 7 and config["trainer"]["max_steps"] == 9
    assert init_args(config)["optimizer"]["init_args"]["lr"] == 0.01  # the shared file's, kept under a named class
    assert init_args(config)["scheduler"]["init_args"]["warmup_steps"] == 2


def test_interpolation_in_the_paths_of_weighted_corpora(run_dir):
    corpora = [{"path": f"${{run_dir}}/data/{name}", "weight": 0.5} for name in "ab"]
    mixture = {"data": {"init_args": {"corpora": corpora}}}
    (run_dir / "mixture.yaml").write_text(json.dumps(mixture))
    config = resolved_config(tiny.command(run_dir, "teacher", "--config", f"{run_dir}/mixture.yaml"))
    assert init_args(config, "data")["corpora"] == [{"path": f"{run_dir}/data/{name}", "weight": 0.5} for name in "ab"]


def test_a_file_may_refer_to_keys_before_a_later_one_names_the_class(run_dir):
    scheduler = {"class_path": "WarmupCosine", "init_args": {"total_steps": "${trainer.max_steps}"}}
    early = run_dir / "early.yaml"
    early.write_text(json.dumps({"model": {"init_args": {"scheduler": scheduler}}}))
    config = resolved_config(["fit", "--config", str(early), *tiny.command(run_dir, "stage1")[1:]])
    assert init_args(config)["scheduler"]["init_args"]["total_steps"] == 6
    late = resolved_config(tiny.command(run_dir, "stage1", "--config", str(early), "--trainer.max_steps", "9"))
    assert init_args(late)["scheduler"]["init_args"]["total_steps"] == 9


def test_the_hash_tells_configs_apart_and_ignores_where_a_run_lies_and_how_it_resumes(run_dir, tmp_path):
    plain = config_hash(resolved_config(tiny.command(run_dir, "stage1")))
    moved = tiny.command(tmp_path / "moved", "stage1", "--ckpt_path", "last", "--manifest.hash", "x", source=run_dir)
    assert config_hash(resolved_config(moved)) == plain
    changed = tiny.command(run_dir, "stage1", "--model.kl_weight", "2")
    assert config_hash(resolved_config(changed)) != plain


def test_the_folder_of_a_fit_and_the_callers_hash(run_dir):
    cli = run_fit(tiny.command(run_dir, "teacher", "--stage", "blocks/candidates/a", "--manifest.hash", "abc"))
    folder = run_dir / "blocks/candidates/a"
    assert cli.folder == folder
    assert {path.name for path in folder.iterdir()} == {
        *("checkpoints", "tensorboard", "model", "config.yaml", "result.json"),
        *(".jetlit.json", ".lock"),
    }
    assert read_result(folder)["hash"] == "abc"
    again = run_fit(["fit", "--config", str(folder / "config.yaml"), "--ckpt_path", "none"])
    assert again.trainer.callback_metrics["val/loss"] == cli.trainer.callback_metrics["val/loss"]


def test_validate_evaluates_the_last_checkpoint(run_dir):
    fitted = read_result(run_dir / "teacher")["metrics"]["val/loss"]["value"]
    for subcommand in ("validate", "test"):
        cli = run_fit(tiny.command(run_dir, "teacher", subcommand=subcommand))
        if subcommand == "validate":
            assert cli.trainer.callback_metrics["val/loss"].item() == fitted
    assert read_result(run_dir / "teacher") is not None  # evaluating takes nothing back


@pytest.mark.parametrize(
    ("subcommand", "elsewhere"),
    [
        ("fit", "http://127.0.0.1:9/a.ckpt"),
        ("validate", "https://127.0.0.1:9/a.ckpt"),
        ("test", "HTTP://127.0.0.1:9/a.ckpt"),
        ("validate", "ftp://127.0.0.1:9/a.ckpt"),
        ("validate", "hf://someone/model/a.ckpt"),
        ("validate", "github://someone:repository@main/a.ckpt"),
        ("fit", "simplecache::http://127.0.0.1:9/a.ckpt"),
    ],
)
def test_a_checkpoint_from_the_web_is_not_unpickled(run_dir, subcommand, elsewhere):
    with pytest.raises(UserError, match="a pickle.* one of your own"):
        run_fit(tiny.command(run_dir, "teacher", "--ckpt_path", elsewhere, subcommand=subcommand))


def test_a_checkpoint_from_the_web_is_not_consolidated(run_dir, tmp_path):
    with pytest.raises(UserError, match="no checkpoint"):
        consolidate(ConsolidateConfig(str(run_dir / "teacher"), str(tmp_path / "model"), "http://127.0.0.1:9/a.ckpt"))


def test_a_checkpoint_of_ones_own_is_taken_by_its_address(run_dir):
    own = f"file://{last_checkpoint(run_dir / 'teacher/checkpoints')}"
    validated = run_fit(tiny.command(run_dir, "teacher", "--ckpt_path", own, subcommand="validate")).trainer
    fitted = read_result(run_dir / "teacher")["metrics"]["val/loss"]["value"]
    assert validated.callback_metrics["val/loss"].item() == fitted


WRONG = {
    "misspelt key": (["--model.kl_wieght", "2"], "no option .*kl_wieght"),
    "misspelt group": (["--trainr.max_steps", "2"], "no option .*trainr"),
    "unknown recipe": (["--model", "Nothing"], "There is no class 'Nothing' for model"),
    "unknown optimizer": (["--model.optimizer", "Nothing"], "There is no class 'Nothing' for model.optimizer"),
    "wrong type": (["--trainer.max_steps", "many"], "trainer.max_steps takes int, not 'many'"),
    "wrong type inside": (["--model.optimizer.lr", "high"], "model.optimizer.lr takes float, not 'high'"),
    "nothing to train on": (["--model", "FullTraining"], "set student"),
    "missing config": (["--config", "nowhere.yaml"], "nowhere.yaml"),
    "missing teacher": (["--model.teacher", "runs/no/teacher/model"], "no teacher to load at runs/no/teacher/model"),
    "missing architecture": (["--model.architecture", "nowhere.json"], "nowhere.json does not exist"),
    "missing corpus": (["--data.corpora", "nowhere"], "nowhere"),
    "a mapping of corpora": (["--data.corpora", '{"a": 0.5}'], "Corpora are a list"),
    "missing checkpoint": (["--ckpt_path", "nowhere.ckpt"], "nowhere.ckpt does not exist"),
    "objective of nothing": (["--model.kl_weight", "0", "--model.feature_weight", "0"], "one of them must be above"),
    "no student at all": (["--model.architecture", "null"], "needs an architecture, a student or both"),
    "no block fits": (["--data.block_size", "100000"], "longer than the largest"),
    "warm-up too long": (["--model.scheduler.warmup_steps", "100"], "warm-up of 100 steps does not fit"),
    "undefined interpolation": (["--model.teacher", "${nowhere}/x"], "model.init_args.teacher refers to nothing"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_answered_in_one_sentence(run_dir, case):
    options, message = WRONG[case]
    with pytest.raises(UserError, match=message) as raised:
        run_fit(tiny.command(run_dir, "stage1", "--stage", "wrong", *options))
    assert "\n" not in str(raised.value)
    assert read_result(run_dir / "wrong") is None and not (run_dir / "wrong/model").exists()


def test_an_earlier_fits_checkpoints_are_not_overwritten_unasked(run_dir):
    with pytest.raises(UserError, match="--ckpt_path last.*--ckpt_path none"):
        tiny.fit(run_dir, "teacher")
    assert read_result(run_dir / "teacher") is not None


def test_data_of_another_vocabulary_is_refused(run_dir):
    with pytest.raises(UserError, match="259 tokens .* room for 100"):
        tiny.fit(run_dir, "teacher", "--stage", "small", "--model.decoder.vocab_size", "100")


def test_nothing_to_evaluate_is_said(run_dir):
    with pytest.raises(UserError, match="no checkpoint in"):
        run_fit(tiny.command(run_dir, "teacher", "--stage", "new", subcommand="validate"))


def test_the_subcommand_comes_first():
    with pytest.raises(UserError, match="fit, validate, test"):
        run_fit(["--config", "x.yaml"])


def command_line(arguments, errors):
    """Run the command in a process of its own, with its errors in a file."""
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), 2)
    sys.stderr, sys.argv = os.fdopen(2, "w", buffering=1), ["jetlit", *arguments]
    sys.exit(main())


def test_exit_status_and_message_of_the_command(run_dir):
    arguments, errors = tiny.command(run_dir, "stage1", "--model.kl_wieght", "2"), run_dir / "errors.txt"
    process = multiprocessing.get_context("fork").Process(target=command_line, args=(arguments, errors))
    process.start()
    process.join(60)
    assert process.exitcode == 2
    assert errors.read_text().strip().splitlines()[-1].startswith("jetlit: There is no option")
    assert "Traceback" not in errors.read_text()
