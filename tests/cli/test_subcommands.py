"""The subcommands on small models, and their answers to mistakes: one sentence, exit status 2."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from jetlit_data import load_tokenizer
from safetensors import safe_open
from transformers import LlamaConfig, LlamaForCausalLM

from jetlit.cli import FITS, SUBCOMMANDS, main, subcommands
from jetlit.models import Architecture, SuperNetwork
from jetlit.pipeline.configs import load_config
from jetlit.pipeline.placement import PlacementConfig
from tests.models.small import byte_teacher, small_model
from tests.models.test_released_shapes import expected_shapes

LAYERS = 3
TASKS = '--tasks=[{"kind": "recall", "documents": 3, "pairs": 3, "queries": 4}]'
CONFIGS = Path(__file__).parents[2] / "configs"
QUICKSTART, RELEASED = CONFIGS / "quickstart", CONFIGS / "jet_nemotron_2b"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run folder with a teacher, its super network and a placement, none of them trained."""
    folder = tmp_path_factory.mktemp("models")
    teacher = byte_teacher(LAYERS)
    for name, model in (("teacher", teacher), ("supernet", SuperNetwork(teacher, ("gla",)))):
        model.save_pretrained(folder / name / "model")
        load_tokenizer("bytes").save_pretrained(folder / name / "model")
    Architecture(["gla", "attn", "gla"]).save(folder / "placement" / "placement.json")
    return folder


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run the command, which must succeed, and return what it printed."""
    capsys.readouterr()
    status = main(list(arguments))
    captured = capsys.readouterr()
    assert status == 0, captured.err
    return captured.out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run the command, which must fail, and return its one sentence."""
    capsys.readouterr()
    assert main(list(arguments)) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("jetlit: ")]
    assert len(lines) == 1 and "Traceback" not in captured.err
    return lines[0].removeprefix("jetlit: ")


def test_help_names_every_command_without_importing_one(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "--help")
    assert all(f"jetlit {' '.join(words)} " in text for words in SUBCOMMANDS)


@pytest.mark.parametrize("words", [words for words in SUBCOMMANDS if words[0] not in FITS])
def test_every_subcommand_explains_itself(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([*words, "--help"])
    assert left.value.code == 0
    assert f"usage: jetlit {' '.join(words)}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["trian"], "There is no subcommand 'trian'"),
        (["search"], "needs a second word: search placement or search ranking or search blocks or search hardware"),
        (["search", "layers"], "needs a second word"),
        (["data", "--corpra", "{}"], "There is no option 'corpra'"),
        (["data", "--corpora", '{"a": {"source": "/does/not/exist"}}'], "/does/not/exist"),
        (["data"], "corpora"),
        (["search", "placement", TASKS, "--budget", "two"], "budget takes int, not 'two'"),
        (["search", "placement", TASKS, "--budget", "1", "--supernet", "/none"], "/none"),
        (["generate", "--prompt", "a", "--model", "/none"], "/none"),
        (["export", "--model", "/none", "--out_dir", "/none/out"], "/none"),
        (["convert", "--teacher", "/none", "--architecture", "/none.json", "--out_dir", "/x"], "/none"),
        (["eval", "--model", "/none", TASKS], "/none"),
        (["eval"], "either tasks or a suite"),
        (["report", "--run_dir", "/none"], "/none"),
        (["postnas", "--config", "/none.yaml"], "/none.yaml"),
        (["postnas", "--stages", "{}"], "No stage has a configuration"),
    ],
)
def test_mistakes_are_answered_in_one_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sentence in refused(capsys, *arguments)


def test_a_misspelt_key_of_a_yaml_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "placement.yaml"
    config.write_text("budgte: 2\ntasks: [{kind: recall}]\n")
    assert "budgte" in refused(capsys, "search", "placement", "--config", str(config))


def test_a_stage_nobody_knows_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text("{}")
    config = tmp_path / "postnas.yaml"
    config.write_text("stages: {data: [a.yaml], distil: [a.yaml]}\n")
    assert "There is no stage 'distil'" in refused(capsys, "postnas", "--config", str(config))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--budget", "4"], "set it between 0 and 3"),
        (["--budget", "1", "--curve_budgets", "[9]"], "budget of 9"),
        (["--budget", "1", "--linear", "jet"], "no linear path 'jet': it offers gla"),
        (["--budget", "1", "--weights", '{"mmlu": 1}'], "no task 'mmlu'"),
        (["--budget", "1", "--width", "0"], "width is 0, but should be greater than or equal to 1"),
        (["--budget", "1", "--sliding_window_budget", "1"], "offers no sliding window"),
        (["--budget", "1", "--device", "tpu9"], "no device 'tpu9'"),
    ],
)
def test_placements_mistakes(models: Path, arguments: list[str], sentence: str, capsys, tmp_path: Path) -> None:
    arguments = ["--run_dir", str(models), "--out_dir", str(tmp_path / "out"), TASKS, *arguments]
    assert sentence in refused(capsys, "search", "placement", *arguments)
    assert not (tmp_path / "out").exists()


def test_sliding_windows_are_placed_and_counted_by_themselves(models: Path, tmp_path: Path, capsys) -> None:
    teacher = byte_teacher(LAYERS)
    network = SuperNetwork(teacher, ("gla", "swa"), {"swa": {"window_size": 5}})
    network.save_pretrained(tmp_path / "supernet")
    load_tokenizer("bytes").save_pretrained(tmp_path / "supernet")
    choice = '{"kind": "multiple_choice", "path": "general_knowledge"}'
    tasks = TASKS.replace("}]", "}, " + choice + "]")
    arguments = [tasks, "--run_dir", str(models), "--supernet", str(tmp_path / "supernet"), "--budget", "1"]
    said(capsys, "search", "placement", *arguments, "--sliding_window_budget=2", f"--out_dir={tmp_path / 'with'}")
    said(capsys, "search", "placement", *arguments, f"--out_dir={tmp_path / 'without'}")
    found, without = (json.loads((tmp_path / n / "placement.json").read_text()) for n in ("with", "without"))
    assert found["full_attention"] == without["full_attention"] and without["sliding_window"] == []
    # An untrained window keeps the teacher's weights, an untrained GLA knows nothing.
    assert len(found["sliding_window"]) > 0 and found["block_configs"]["swa"]["window_size"] == 5
    assert [i for i, name in enumerate(found["layer_types"]) if name == "swa"] == list(found["sliding_window"])
    counts, others = (json.loads((tmp_path / n / "result.json").read_text())["metrics"] for n in ("with", "without"))
    name = "layer_evaluations/naive"
    assert counts[name]["value"] == others[name]["value"] and counts["sliding_windows/done"]["value"] > 0
    assert "sliding_windows/done" not in others


def search_arguments(models: Path, out: Path, *arguments: str) -> list[str]:
    configs = [str(QUICKSTART / name) for name in ("common.yaml", "candidate.yaml")]
    given = ["--run_dir", str(models), "--out_dir", str(out), "--fit_configs", json.dumps(configs), TASKS]
    return [*given, *arguments]


def test_an_unknown_block_is_refused_before_training(models: Path, capsys) -> None:
    arguments = search_arguments(models, models / "blocks_a", "--blocks", '{"lstm": {}}')
    assert "There is no block 'lstm'" in refused(capsys, "search", "blocks", *arguments)
    assert not (models / "blocks_a" / "candidates").exists()


def test_a_wrong_option_of_the_candidates_fit_is_refused_before_training(models: Path, capsys) -> None:
    arguments = search_arguments(
        models, models / "blocks_b", "--blocks", '{"gla": {}}', "--fit_overrides", '{"trainer.max_stpes": 3}'
    )
    assert "max_stpes" in refused(capsys, "search", "blocks", *arguments)


def test_a_state_size_no_row_meets_is_refused(models: Path, capsys) -> None:
    grid = ["--state_size", "100", "--key_dims", "[4]", "--value_dims", "[8]", "--heads", "[2]"]
    arguments = search_arguments(models, models / "hardware_a", "--architecture", str(models), *grid)
    assert "the nearest is 64" in refused(capsys, "search", "hardware", *arguments)


def test_placement_of_an_untrained_super_network(models: Path, capsys, tmp_path: Path) -> None:
    out = tmp_path / "placement"
    said(capsys, "search", "placement", "--run_dir", str(models), "--out_dir", str(out), TASKS, "--budget", "1")
    found = json.loads((out / "placement.json").read_text())
    assert Architecture.load(out / "placement.json").layer_types == found["layer_types"]
    assert (out / "heatmap.png").exists() and (out / "result.json").exists()


def test_params_prints_table_2_and_the_2b(capsys) -> None:
    text = said(capsys, "bench", "params")
    assert "1,964,806,208" in text
    for billions in ("1.62", "1.64", "1.70", "1.74", "1.78", "1.84", "1.98"):
        assert billions in text


def test_convert_generate_eval_export_and_bench(models: Path, capsys, tmp_path: Path) -> None:
    hybrid = str(tmp_path / "hybrid")
    architecture = str(models / "placement" / "placement.json")
    said(
        capsys,
        "convert",
        "--teacher",
        str(models / "teacher/model"),
        "--architecture",
        architecture,
        "--out_dir",
        hybrid,
    )
    assert json.loads((tmp_path / "hybrid/config.json").read_text())["layer_types"] == ["gla", "attn", "gla"]
    generate = ["generate", "--model", hybrid, "--prompt", "def f(", "--max_new_tokens", "6", "--temperature", "1"]
    text, again, other = (said(capsys, *generate, "--seed", seed).rpartition("\n\n")[0] for seed in "556")
    assert text.startswith("def f(") and text == again != other
    assert re.search(r"6 tokens; prefill [\d,]+ tokens/s, decode [\d,]+ tokens/s", said(capsys, *generate))
    text = said(capsys, "eval", "--model", hybrid, TASKS, "--run_dir", str(tmp_path))
    found = json.loads((tmp_path / "eval/result.json").read_text())
    assert "recall/accuracy" in text and 0 <= found["metrics"]["recall/accuracy"]["value"] <= 1
    said(capsys, "export", "--run_dir", str(tmp_path), "--model", hybrid, "--out_dir", str(tmp_path / "exported"))
    assert (tmp_path / "exported" / "model.safetensors").exists()
    sizes = ["--batch", "2", "--device", "cpu"]
    measured = [
        said(
            capsys, "bench", "generation", "--model", folder, "--context", "40", "--cache", str(tmp_path / "c"), *sizes
        )
        for folder in (hybrid, str(tmp_path / "exported"))
    ]
    assert "decode_tokens_per_s" in measured[0] and measured[0] == measured[1], "a model of the same shapes"
    assert "training_tokens_per_s" in said(capsys, "bench", "training", "--model", hybrid, "--length", "20", *sizes)


def test_export_writes_the_released_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jet = {"num_heads": 3, "head_dim": 4, "expand_v": 2.0, "conv_size": 4, "dconv_generator_reduction": 8}
    blocks = {"jet": json.loads((RELEASED / "config.json").read_text())["efficient_attention_config"]["jet"] | jet}
    blocks["swa"] = {"window_size": 5}
    layers = ["jet", "attn", "swa"]
    model = small_model(layers, vocab_size=259, tie_word_embeddings=True, efficient_attention_config=blocks)
    model.save_pretrained(tmp_path / "hybrid")
    load_tokenizer("bytes").save_pretrained(tmp_path / "hybrid")
    paths = ["--run_dir", str(tmp_path), "--model", str(tmp_path / "hybrid")]
    said(capsys, "export", *paths, "--format", "jet_nemotron")
    values = json.loads((tmp_path / "export/config.json").read_text())
    with safe_open(tmp_path / "export/model.safetensors", "pt") as tensors:
        shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    assert shapes == expected_shapes(values)
    assert values.keys() - {"transformers_version"} == json.loads((RELEASED / "config.json").read_text()).keys()
    assert "no export format 'onnx'" in refused(capsys, "export", *paths, "--format", "onnx")


def test_a_config_in_python_and_on_the_command_line_have_the_same_defaults() -> None:
    given = {"tasks": [{"kind": "continuation", "corpus": "${run_dir}/data/text"}], "budget": 1, "run_dir": "elsewhere"}
    config = PlacementConfig(**given)
    assert config.supernet == "elsewhere/supernet/model" and config.tasks[0]["corpus"] == "elsewhere/data/text"
    assert load_config(PlacementConfig, given) == config


def test_help_imports_no_training_stack() -> None:
    code = "import sys; from jetlit.cli import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "jetlit postnas" in done.stdout
    loaded = set(done.stderr.split())
    assert "jetlit.cli" in loaded and not {"lightning", "optuna", "matplotlib", "jsonargparse"} & loaded


def test_teacher_prepares_a_folder_once(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    shape = {"vocab_size": 259, "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 1}
    LlamaForCausalLM(LlamaConfig(**shape, num_attention_heads=3)).save_pretrained(tmp_path / "llama")
    load_tokenizer("bytes").save_pretrained(tmp_path / "llama")
    command = ["teacher", str(tmp_path / "llama"), "--run_dir", str(tmp_path / "run"), "--dtype", "float32"]
    assert "Wrote" in said(capsys, *command)
    written = (tmp_path / "run/teacher/model/model.safetensors").stat().st_mtime_ns
    assert "was prepared before" in said(capsys, *command)
    assert (tmp_path / "run/teacher/model/model.safetensors").stat().st_mtime_ns == written
    assert json.loads((tmp_path / "run/teacher/result.json").read_text())["metrics"]["parameters"]["value"] > 259 * 12
    nothing = str(tmp_path / "nothing")
    assert f"There is no teacher {nothing!r}" in refused(capsys, "teacher", nothing, "--run_dir", str(tmp_path))
    assert "name" in refused(capsys, "teacher")


def test_tables_are_never_cut(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    task = "bbh_cot_zeroshot_tracking_shuffled_objects_seven_objects"
    subcommands._print_table(["task", "value"], [[task, "0.5"]])
    assert task in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--suite", "seed", "--local_data", "/no/such"], "There is no folder /no/such: set local_data"),
        ([TASKS, "--local_data", "/no/such"], "There is no folder /no/such: set local_data"),
        (["--suite", "seed", "--limit", "-1"], "limit is -1, but should be greater"),
        (["--suite", "seed", "--max_length", "0"], "max_length is 0, but should be greater"),
        (["--suite", "seeds"], "There is no suite seeds: give a YAML file, or one of commonsense, general, "),
        (['--tasks=[{"kind": "recall", "documents": -1}]'], "documents is -1, but should be greater"),
        (['--tasks=[{"kind": "recall", "documents": 1.5}]'], "documents takes int, not 1.5"),
    ],
)
def test_eval_names_what_is_wrong(
    models: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    out = ["--run_dir", str(tmp_path)]
    assert sentence in refused(capsys, "eval", "--model", str(models / "teacher" / "model"), *out, *arguments)


def test_python_m_jetlit_is_the_command(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "jetlit", "--version"], capture_output=True, text=True, timeout=120)
    assert re.fullmatch(r"jetlit \d+\.\d+.*\n", done.stdout) and not done.returncode
