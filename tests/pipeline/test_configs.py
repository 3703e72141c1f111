"""YAML files: merged key by key, checked, and made into dataclasses."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from jetlit.errors import UserError
from jetlit.pipeline.config_errors import one_sentence
from jetlit.pipeline.configs import load_config, merge_configs, read_config


@dataclass
class SearchConfig:
    """A search.

    Args:
        budget: of layers.
        tasks: to score on.
        run_dir: folder of the run.
        out_dir: folder of the search.
        fit_configs: files of its fits.
        corpora: by path and weight.
    """

    budget: int
    tasks: list[dict[str, Any]] = field(default_factory=list)
    run_dir: str = "runs/a"
    out_dir: str = "${run_dir}/search"
    fit_configs: list[str] = field(default_factory=list)
    corpora: str | list[dict[str, Any]] = "x"


@pytest.fixture
def merged(tmp_path):
    """Return a function that merges texts, each a file of its own, and overrides."""

    def merge(*texts, overrides=None):
        files = [tmp_path / f"{number}.yaml" for number, _ in enumerate(texts)]
        for file, text in zip(files, texts, strict=True):
            file.write_text(text)
        return merge_configs(files, overrides)

    return merge


def test_later_files_win_key_by_key_lists_are_replaced_and_plus_appends(merged):
    first = "a: {x: 1, y: 2}\nb: [1, 2]\nc: [1]\n"
    assert merged(first, "a: {y: 3}\nb: [4]\nc+: [2]\nd+: 5") == {
        "a": {"x": 1, "y": 3},
        "b": [4],
        "c": [1, 2],
        "d+": [5],  # the parser appends to its own default
    }


def test_a_file_that_names_another_class_drops_the_settings_of_the_earlier_one(merged):
    first = "model: {init_args: {optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 1, weight_decay: 2}}}}"
    same = merged(first, "model: {class_path: A, init_args: {optimizer: {class_path: AdamW, init_args: {lr: 3}}}}")
    assert same["model"]["init_args"]["optimizer"]["init_args"] == {"lr": 3, "weight_decay": 2}
    other = merged(first, "model: {init_args: {optimizer: {class_path: SGD, init_args: {lr: 3}}}}")
    assert other["model"]["init_args"]["optimizer"] == {"class_path": "SGD", "init_args": {"lr": 3}}


def test_overrides_are_dotted_and_may_leave_init_args_out(merged):
    text = "model: {class_path: A, init_args: {optimizer: {class_path: B, init_args: {lr: 1}}}}\ntrainer: {steps: 1}"
    overrides = {
        "model.optimizer.lr": 2,
        "model.init_args.chunk": 3,
        "trainer.steps": 4,
        "trainer.callbacks+": "Timer",
        "trainer.callbacks.duration": "1",
    }
    assert merged(text, overrides=overrides) == {
        "model": {
            "class_path": "A",
            "init_args": {"optimizer": {"class_path": "B", "init_args": {"lr": 2}}, "chunk": 3},
        },
        "trainer": {"steps": 4, "callbacks+": [{"class_path": "Timer", "init_args": {"duration": "1"}}]},
    }
    assert merged(text, overrides={"model": "C"})["model"] == "C"
    assert merged("model: {init_args: {chunk: 3}}", overrides={"model": "C"})["model"] == {
        "class_path": "C",
        "init_args": {"chunk": 3},
    }


@pytest.mark.parametrize("present", ["{class_path: A, init_args: {lr: 1, x: 2}}", "A", "null"])
def test_a_class_that_is_written_out_in_a_text_is_a_mapping(merged, present):
    text = "{class_path: torch.optim.SGD, init_args: {lr: 1.0}}"
    found = merged(f"model: {{optimizer: {present}}}", overrides={"model.optimizer": text})
    assert found["model"]["optimizer"] == {"class_path": "torch.optim.SGD", "init_args": {"lr": 1.0}}
    found = merged("a: {class_path: A, init_args: {lr: 1, x: 2}}", overrides={"a": "{init_args: {lr: 3}}"})
    assert found["a"] == {"class_path": "A", "init_args": {"lr": 3, "x": 2}}


def test_an_anchor_that_is_used_twice_is_two_values(merged):
    assert merged("a: &x {k: 1}\nb: *x", "a: {k: 2}") == {"a": {"k": 2}, "b": {"k": 1}}


def test_files_count_from_the_folder_of_the_file_that_names_them(tmp_path, merged):
    text = "fit_configs: [common.yaml, /else/a.yaml]\nstages: {data: [data.yaml]}\nreport_config: report.yaml"
    assert merged(text) == {
        "fit_configs": [str(tmp_path / "common.yaml"), "/else/a.yaml"],
        "stages": {"data": [str(tmp_path / "data.yaml")]},
        "report_config": str(tmp_path / "report.yaml"),
    }
    assert merged(text, overrides={"fit_configs": "[here.yaml]"})["fit_configs"] == "[here.yaml]"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"a: 1\nb: 2\na: 3\n", "has the key 'a' twice"),
        (b"x:\n  - {k: 1, k: 2}\n", "has the key 'k' twice"),
        ("name: caf\u00e9".encode("latin-1"), "is not UTF-8"),
        (b"- 1\n- 2\n", "is no mapping"),
        (b"just text\n", "is no mapping"),
        (b"a: [1\n", "is not valid YAML"),
        (b"a: &a [*a]\n", "aliases that expand"),
        (b"a: " + b"[" * 100_000, "nests over 100 lists"),
        (b"a: '" + b"[" * 20_000 + b"'\n", "nests over 100 lists"),
        (b'a: ["b\\0c"]\n', "has a NUL character"),
        (b"a: {1: 2}\n", "has the key 1, which is no text"),
        (b"yes: 2\n", "has the key True, which is no text"),
        (
            b"a: &a [1,1,1,1,1,1,1,1,1]\n"
            + b"".join(b"%c: &%c [%s]\n" % (n, n, b",".join([b"*%c" % (n - 1)] * 9)) for n in range(98, 106)),
            "aliases that expand to over 100,000 values",
        ),
    ],
)
def test_what_is_no_config_is_one_sentence(tmp_path, content, sentence):
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(UserError, match=sentence) as raised:
        merge_configs([tmp_path / "a.yaml"])
    assert "\n" not in str(raised.value)


def test_an_empty_file_sets_nothing_and_a_missing_one_is_named(tmp_path):
    (tmp_path / "a.yaml").write_text("# nothing yet\n")
    assert merge_configs([tmp_path / "a.yaml"]) == {}
    with pytest.raises(UserError, match="nowhere.yaml cannot be read"):
        merge_configs([tmp_path / "nowhere.yaml"])


def test_a_dataclass_is_made_of_a_mapping_with_references_and_text(tmp_path):
    config = {"budget": "2", "run_dir": "runs/b", "tasks": '[{"kind": "recall", "x": 1e-3}]'}
    corpora = [{"path": "${run_dir}/data", "weight": 0.5}]
    found = load_config(SearchConfig, config | {"corpora": corpora}, "search")
    assert (found.budget, found.out_dir, found.tasks) == (2, "runs/b/search", [{"kind": "recall", "x": 1e-3}])
    assert found.corpora == [{"path": "runs/b/data", "weight": 0.5}]


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"budget": 1, "budgte": 2}, "There is no option 'budgte'"),
        ({}, "set budget"),
        ({"budget": "two"}, "budget takes int, not 'two'"),
        ({"budget": 1, "out_dir": "${nowhere}/x"}, "refers to nothing"),
        ({"budget": 1, "corpora": {"a": 0.5}}, "corpora is now a list of {path, weight}"),
    ],
)
def test_a_wrong_value_is_one_sentence(config, sentence):
    with pytest.raises(UserError, match=sentence):
        load_config(SearchConfig, config, "search")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("TaughtFullTraining", "FullTraining with `teacher`"),
        ("jetlit.callbacks.BackgroundCheckpointIO", "jetlit.training.BackgroundCheckpointIO"),
        ("jetlit.recipes.flat_sharding.FlatShardingStrategy", "configs/strategy/fsdp2.yaml"),
        ("jetlit.recipes.WarmupCosine", "jetlit.training.WarmupCosine"),
    ],
)
def test_a_class_that_moved_is_named_by_its_new_name(old, new):
    module, _, name = old.rpartition(".")
    messages = [f"Parser key \"model\": Errors: - Expected a <class 'str'> - Expected a dot import path string: {old}"]
    if module:
        gone = f"module '{module}' has no attribute '{name}'"
        messages[0] = f"Parser key \"x\": - Problem with given class_path '{old}':\n  {gone}"
        messages.append(f"Parser key \"x\": expects a class: {gone}. Got value: Namespace(class_path='{old}')")
    for message in messages:
        assert new in one_sentence(message) and old in one_sentence(message)


def test_all_of_a_files_path_may_be_pathlib_s(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("budget: 3")
    assert load_config(SearchConfig, merge_configs([tmp_path / "a.yaml"])).budget == 3


def test_a_shipped_config_is_read_by_its_name_wherever_the_package_lies():
    config = read_config("jetlit://quickstart/postnas.yaml")
    assert config["run_dir"] == "runs/quickstart"
    assert all(Path(file).is_file() for files in config["stages"].values() for file in files)


def test_a_shipped_config_that_is_not_there_is_one_sentence():
    with pytest.raises(UserError, match=r"The config .*quickstart/postnass.yaml cannot be read"):
        read_config("jetlit://quickstart/postnass.yaml")
