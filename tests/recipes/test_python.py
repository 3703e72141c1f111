"""Recipes in plain Python: objects in place of paths, any loader and logger, and back from a checkpoint."""

import inspect
import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import lightning
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import FSDPStrategy
from torch.utils.data import DataLoader

from jetlit.callbacks import (
    ExportModel,
    NanGuard,
    RunManifest,
    StageCheckpoint,
    StepProgressBar,
    TaskScores,
    Throughput,
)
from jetlit.errors import UserError
from jetlit.models import Architecture, load_model
from jetlit.recipes import DecoderShape, Distillation, FullTraining, Pretraining, Recipe, SuperNetworkTraining
from jetlit.results import read_result
from jetlit.training import WarmupCosine, last_checkpoint
from tests.models.small import prompts, small_model
from tests.recipes import tiny

ARCHITECTURE = Architecture(["gla", "attn", "gla"])
SHAPE = {"vocab_size": 61, "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 2}


def loader():
    return DataLoader([{"input_ids": row} for row in prompts(batch=8)], batch_size=2)


def trainer(folder, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return lightning.Trainer(**({"accelerator": "cpu", "max_steps": 2, "default_root_dir": folder} | quiet | options))


def same_losses(left, right):
    ids = prompts(batch=2, seed=5)
    return all(
        torch.equal(value, right.held_out_losses(ids, 0)[name]) for name, value in left.held_out_losses(ids, 0).items()
    )


@pytest.fixture
def teacher():
    return small_model(["attn"] * 3, seed=5)


@pytest.fixture
def paths(teacher, tmp_path):
    teacher.save_pretrained(tmp_path / "teacher")
    ARCHITECTURE.save(tmp_path / "architecture.json")
    return str(tmp_path / "teacher"), tmp_path / "architecture.json"


RECIPES = {
    "pretraining": lambda teacher, _: Pretraining(DecoderShape(**SHAPE, num_attention_heads=2, num_key_value_heads=1)),
    "supernet": lambda teacher, _: SuperNetworkTraining(teacher, ["gla"], kl_weight=0.5),
    "distillation": lambda teacher, architecture: Distillation(teacher, architecture, feature_weight=0.5, chunk=7),
    "full": lambda teacher, _: FullTraining(teacher),
    "full with a teacher": lambda teacher, _: FullTraining(student=teacher, teacher=teacher, kl_weight=0.5),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_checkpoint_gives_a_recipe_back(name, paths, tmp_path):
    recipe, fit = RECIPES[name](*paths), trainer(tmp_path)
    fit.fit(recipe, loader(), loader())
    fit.save_checkpoint(tmp_path / "last.ckpt")
    loaded = type(recipe).load_from_checkpoint(tmp_path / "last.ckpt")
    assert loaded.chunk == recipe.chunk and same_losses(recipe, loaded)
    assert same_losses(recipe, type(recipe).load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True))


def test_objects_take_the_place_of_paths_and_are_given_again(teacher, paths, tmp_path):
    models = {"teacher": teacher, "architecture": ARCHITECTURE}
    recipe, by_paths = Distillation(**models, seed=3), Distillation(*paths, seed=3)
    for each in (recipe, by_paths):
        each.configure_model()
    assert same_losses(recipe, by_paths)
    fit = trainer(tmp_path)
    fit.fit(recipe, loader())
    fit.save_checkpoint(tmp_path / "last.ckpt")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=False)
    assert "teacher" not in saved["hyper_parameters"] and saved["hyper_parameters"]["seed"] == 3
    assert all(name.startswith("model.") for name in saved["state_dict"])
    loaded = Distillation.load_from_checkpoint(tmp_path / "last.ckpt", teacher=teacher)
    assert same_losses(recipe, loaded)


class OwnRecipe(Distillation):
    def __init__(self, temperature: float, **kwargs) -> None:
        super().__init__(**kwargs)
        self.temperature = temperature


def test_a_custom_recipe_comes_back_too(paths, tmp_path):
    recipe, fit = OwnRecipe(2.0, teacher=paths[0], architecture=paths[1]), trainer(tmp_path)
    fit.fit(recipe, loader())
    fit.save_checkpoint(tmp_path / "last.ckpt")
    loaded = OwnRecipe.load_from_checkpoint(tmp_path / "last.ckpt")
    assert loaded.temperature == 2.0 and same_losses(recipe, loaded)


def test_a_checkpoint_of_jetlit_fit_gives_a_recipe_back(run_dir):
    mapping = {"layer_types": ["gla", "attn"], "block_configs": {"gla": {}}}
    (run_dir / "mapping.yaml").write_text(json.dumps({"model": {"init_args": {"architecture": mapping}}}))
    cli = tiny.fit(run_dir, "stage1", "--ckpt_path", "none", "--config", str(run_dir / "mapping.yaml"))
    assert cli.model.architecture == Architecture(**mapping)
    assert read_result(run_dir / "stage1")["config"]["model"]["init_args"]["architecture"] == mapping
    loaded = Distillation.load_from_checkpoint(last_checkpoint(run_dir / "stage1/checkpoints"), weights_only=False)
    ids = torch.randint(200, (2, 24))
    for recipe in (cli.model, loaded):
        recipe.model.eval()
    expected, found = (recipe.held_out_losses(ids, 0) for recipe in (cli.model, loaded))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    exported = load_model(str(run_dir / "stage1/model")).state_dict()
    assert all(torch.equal(tensor, exported[name]) for name, tensor in loaded.model.state_dict().items())


@pytest.mark.parametrize(
    "options", [{"fast_dev_run": True}, {"max_steps": 3}, {"logger": "csv"}], ids=["fast_dev_run", "plain", "loggers"]
)
def test_callbacks_work_in_a_plain_trainer(options, paths, tmp_path):
    loggers = [CSVLogger(tmp_path, name="a"), CSVLogger(tmp_path, name="b")]
    options = options | {"logger": loggers if options.get("logger") else False, "enable_progress_bar": True}
    manifest = RunManifest(str(tmp_path), stage="mine")
    (tmp_path / "result.json").write_text("{}")
    specs = [{"kind": "recall", "name": "easy", "documents": 2, "pairs": 2, "queries": 1}]
    callbacks = [NanGuard(str(tmp_path)), Throughput(), StageCheckpoint(str(tmp_path / "checkpoints")), manifest]
    callbacks += [ExportModel(str(tmp_path / "model")), StepProgressBar(), TaskScores(specs, tokenizer="bytes")]
    teacher = small_model(["attn"] * 2, vocab_size=259)
    recipe = FullTraining(teacher, scheduler=lambda optimizer: WarmupCosine(optimizer, warmup_steps=2))
    fit = trainer(
        tmp_path,
        callbacks=callbacks,
        log_every_n_steps=1,
        val_check_interval=1,
        **(options | {"enable_progress_bar": True}),
    )
    fit.fit(recipe, loader(), loader())
    assert "task/easy/accuracy" in fit.callback_metrics and fit.callback_metrics["train/grad_norm"] > 0
    tried = bool(options.get("fast_dev_run"))
    assert (tmp_path / "model/model.safetensors").exists() != tried
    assert (tmp_path / "result.json").exists() == tried
    manifest.gather(fit)
    result = manifest.result({"a": 1}, 0, None)
    assert result.stage == "mine" and result.metrics["steps"] == fit.global_step and result.seconds > 0


def test_tasks_without_a_tokenizer_are_refused(teacher, tmp_path):
    with pytest.raises(UserError, match="give TaskScores a tokenizer"):
        trainer(tmp_path, callbacks=[TaskScores([{"kind": "recall"}])]).fit(FullTraining(teacher), loader())


def test_the_older_fsdp_is_refused(teacher):
    recipe = FullTraining(teacher)
    recipe._trainer = SimpleNamespace(strategy=FSDPStrategy(), precision="32-true")
    with pytest.raises(UserError, match=r"configs/strategy/fsdp2\.yaml"):
        recipe.configure_model()


def test_a_warm_up_longer_than_a_fit_is_refused_only_in_a_real_fit(teacher, tmp_path):
    def recipe():
        return FullTraining(teacher, scheduler=lambda optimizer: WarmupCosine(optimizer, warmup_steps=100))

    trainer(tmp_path, fast_dev_run=True).fit(recipe(), loader())
    with pytest.raises(UserError, match="warm-up of 100 steps does not fit"):
        trainer(tmp_path).fit(recipe(), loader())


def test_every_argument_is_written_out():
    common = inspect.signature(Recipe.__init__).parameters
    for kind in (Pretraining, SuperNetworkTraining, Distillation, FullTraining):
        parameters = inspect.signature(kind.__init__).parameters
        assert parameters.keys() > common.keys()
        assert all(f"    {name}: " in kind.__doc__ for name in parameters if name != "self")
        assert not [p for p in parameters.values() if p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]


def test_the_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = runpy.run_path(str(Path(__file__).parents[2] / "examples/own_recipe.py"), run_name="__main__")
    assert made["trainer"].global_step == 30 and made["trainer"].callback_metrics["val/kl"] > 0
