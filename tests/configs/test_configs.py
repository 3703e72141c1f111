"""Every shipped YAML file is read by the command it is for, and what it describes can be built."""

import json
import re
from pathlib import Path

import pytest
import torch
from jetlit_data.sources import open_source
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy

from jetlit.cli.fit import open_fit
from jetlit.models import Architecture, JetNemotronConfig
from jetlit.models.assembly import empty_model
from jetlit.models.conversion import hybrid_config
from jetlit.pipeline.candidates import linear_block
from jetlit.pipeline.configs import load_config, merge_configs
from jetlit.pipeline.data import DataConfig
from jetlit.pipeline.hardware import HardwareConfig
from jetlit.pipeline.postnas import PostnasConfig
from jetlit.pipeline.ranking import RankingConfig
from jetlit.pipeline.report.report import ReportConfig
from jetlit.pipeline.stages import STAGES, plan
from jetlit.pipeline.teacher import TeacherConfig
from jetlit.recipes import Distillation, FullTraining, Pretraining, SuperNetworkTraining
from jetlit.search.grid import PAPER_GRID, state_size_rows
from jetlit.tasks.suites import Suite

CONFIGS = Path(__file__).parents[2] / "configs"
FITS = {
    "quickstart": ["teacher", "supernet", "candidate", "stage1", "stage2"],
    "smollm2_135m": ["supernet", "candidate", "stage1", "stage2", "stage2_taught"],
    "jet_nemotron_2b": ["supernet", "candidate", "stage1", "stage2"],
    "jet_nemotron_4b": ["supernet", "stage1", "stage2"],
}
FIT_CASES = [(scale, stage) for scale, stages in FITS.items() for stage in stages]
CLASSES = {stage.name: stage.config for stage in STAGES} | {
    "teacher": TeacherConfig,
    "ranking": RankingConfig,
    "report": ReportConfig,
    "postnas": PostnasConfig,
}
SMOLLM2 = ["teacher", "data", "placement", "ranking", "blocks", "hardware", "export", "report", "postnas"]
SUBCOMMANDS = {
    "quickstart": ["data", "placement", "blocks", "hardware", "export", "report", "postnas"],
    "smollm2_135m": SMOLLM2,
    "jet_nemotron_2b": ["hardware"],
}
# The file of tasks that follows a subcommand's own.
TASKS = {"smollm2_135m": {"placement": "placement_tasks", "blocks": "tasks", "hardware": "tasks"}}
CASES = [(scale, name) for scale, names in SUBCOMMANDS.items() for name in names]
STRATEGIES = {"ddp": DDPStrategy, "fsdp2": ModelParallelStrategy}
HERE = ["--trainer.accelerator", "cpu", "--trainer.precision", "32-true"]
QWEN = {"vocab_size": 151936, "num_key_value_heads": 2, "tie_word_embeddings": True}
TEACHERS = {
    "jet_nemotron_2b": QWEN
    | {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12},
    "jet_nemotron_4b": QWEN
    | {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16},
}


def arguments(scale, stage, *options):
    files = [CONFIGS / scale / "common.yaml", CONFIGS / scale / f"{stage}.yaml"]
    return [part for path in files for part in ("--config", str(path))] + list(options)


def test_no_config_is_left_untested():
    tested = {f"{scale}/{name}" for scale, stages in FITS.items() for name in [*stages, "common"]}
    tested |= {f"{scale}/{name}" for scale, name in CASES} | {
        f"{scale}/{name}" for scale in TASKS for name in TASKS[scale].values()
    }
    tested |= {f"strategy/{name}" for name in STRATEGIES}
    tested |= {f"eval/{path.stem}" for path in (CONFIGS / "eval").glob("*.yaml")}
    shipped = {str(path.relative_to(CONFIGS).with_suffix("")) for path in CONFIGS.rglob("*.yaml")}
    assert shipped == tested


@pytest.mark.parametrize(("scale", "stage"), FIT_CASES)
def test_a_fit_is_instantiated(scale, stage, tmp_path):
    cli = open_fit(arguments(scale, stage, "--run_dir", str(tmp_path), *HERE))
    kinds = {"teacher": Pretraining, "supernet": SuperNetworkTraining, "stage2": FullTraining}
    kinds["stage2_taught"] = FullTraining
    assert type(cli.model) is kinds.get(stage, Distillation)
    assert cli.config.stage == stage and cli.trainer.max_steps > 0
    assert all(str(tmp_path) in corpus.path for corpus in cli.datamodule.corpora)
    optimizer = cli.model.optimizer([torch.nn.Parameter(torch.zeros(2, 2))])
    betas = (0.9, 0.98) if (scale, stage) == ("quickstart", "teacher") else (0.9, 0.95)
    assert optimizer.defaults["betas"] == betas and optimizer.defaults["lr"] <= 0.01
    assert cli.model.scheduler(optimizer).warmup_steps > 0


@pytest.mark.parametrize("scale", list(TEACHERS))
def test_the_large_students_are_built_as_shapes(scale, tmp_path, monkeypatch):
    monkeypatch.chdir(CONFIGS.parent)
    released = JetNemotronConfig.from_json_file(CONFIGS / scale / "config.json")
    teacher = JetNemotronConfig(**TEACHERS[scale], rope_parameters=dict(released.rope_parameters))
    recipes = {
        stage: open_fit(arguments(scale, stage, "--run_dir", str(tmp_path), *HERE)).model for stage in FITS[scale]
    }
    for block in recipes["supernet"].alternatives:
        Architecture([block] * teacher.num_hidden_layers).validate(teacher)
    architecture = Architecture.load(recipes["stage1"].architecture)
    architecture.validate(teacher)
    student = empty_model(hybrid_config(teacher, architecture))
    shapes = {name: parameter.shape for name, parameter in student.named_parameters()}
    assert shapes == {name: parameter.shape for name, parameter in empty_model(released).named_parameters()}
    if scale == "jet_nemotron_2b":
        assert sum(shape.numel() for shape in shapes.values()) == 1_964_806_208
    # Stage 2 starts from that student: here from its shapes, in place of the weights of an earlier stage.
    monkeypatch.setattr("jetlit.recipes.full_training.load_model", lambda *_: student)
    recipes["stage2"].configure_model()
    assert {(p.device.type, p.requires_grad) for p in recipes["stage2"].model.parameters()} == {("meta", True)}


def test_the_final_hybrid_of_smollm2_has_the_parameters_of_its_report():
    report = json.loads((CONFIGS.parent / "benchmarks/studies/smollm2/report_windows/report.json").read_text())
    architecture = Architecture.load(CONFIGS / "smollm2_135m/hybrid.json")
    teacher = JetNemotronConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        attention_bias=False,
        tie_word_embeddings=True,
    )
    architecture.validate(teacher)
    student = empty_model(hybrid_config(teacher, architecture))
    reported = report["stages"]["stage2"]["metrics"]["parameters"]["value"]
    assert sum(parameter.numel() for parameter in student.parameters()) == reported


@pytest.mark.parametrize(("scale", "name"), CASES)
def test_a_subcommand_reads_its_config(scale, name, monkeypatch):
    monkeypatch.chdir(CONFIGS.parent)
    files = [file for file in (name, TASKS.get(scale, {}).get(name)) if file]
    found = load_config(CLASSES[name], merge_configs([CONFIGS / scale / f"{file}.yaml" for file in files]), name)
    if name == "postnas":
        assert [planned.stage.name for planned in plan(found.stages, found.pretrained)] == [*found.stages]
        assert all(Path(path).exists() for paths in found.stages.values() for path in paths)


def test_the_2b_s_hardware_search_has_the_paper_s_nine_rows(monkeypatch):
    monkeypatch.chdir(CONFIGS.parent)
    found = load_config(HardwareConfig, merge_configs(["configs/jet_nemotron_2b/hardware.yaml"]))
    rows = state_size_rows(found.state_size, found.key_dims, found.value_dims, found.heads)
    paper = [(row.key_dim, row.value_dim, row.heads) for row in PAPER_GRID]
    more = [(96, 384, 8), (64, 576, 8)]
    shapes = [(row.key_dim, row.value_dim, row.heads) for row in rows]
    assert [shape for shape in shapes if shape not in more] == paper and set(more) < set(shapes)
    base = Architecture.load(found.architecture)
    teacher = JetNemotronConfig(**TEACHERS["jet_nemotron_2b"])
    for row in rows:
        block = base.block_configs[linear_block(base)] | row.block_config()
        student = empty_model(hybrid_config(teacher, base.with_block(linear_block(base), block)))
        state = student.model.layers[0].self_attn.state_specs()["recurrent"]
        assert state.shape == (row.heads, row.key_dim, row.value_dim)


def test_the_corpora_that_the_guide_makes_are_those_that_the_large_fits_read(tmp_path):
    guide = (CONFIGS.parent / "docs/scale.md").read_text()
    (tmp_path / "data.yaml").write_text(re.search(r"```yaml\n(.*?)```", guide, re.DOTALL)[1])
    found = load_config(DataConfig, merge_configs([tmp_path / "data.yaml"], {"run_dir": str(tmp_path)}))
    hub = found.corpora["nemotron_cc"]
    open_source(hub.source, hub.options)
    read = set()
    for stage in ("stage1", "stage2"):
        options = arguments("jet_nemotron_2b", stage, "--run_dir", str(tmp_path), *HERE)
        config = open_fit(options, build=False).resolved()
        read |= {corpus["path"] for corpus in config["data"]["init_args"]["corpora"]}
    assert {f"{found.out_dir}/{name}" for name in found.corpora} == read


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_is_instantiated(name, tmp_path):
    options = ["--config", str(CONFIGS / "strategy" / f"{name}.yaml"), "--run_dir", str(tmp_path), *HERE]
    cli = open_fit(arguments("quickstart", "stage1", *options), build=False)
    strategy = cli.parser.instantiate_classes(cli.config).trainer.strategy
    assert type(strategy) is STRATEGIES[name]


@pytest.mark.parametrize("path", sorted((CONFIGS / "eval").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_suite_is_read(path):
    assert Suite.load(path).tasks
