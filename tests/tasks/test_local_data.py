"""Suites on local copies of the hub's data, through the real harness."""

import json
from importlib.util import find_spec

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jetlit_data import load_tokenizer

from jetlit.errors import UserError
from jetlit.tasks.local_data import leaves, write_task_files
from jetlit.tasks.suites import Suite, SuiteTask, _manager, run_suite, task_manager
from tests.tasks.models import random_model

pytestmark = pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-evaluation-harness is not installed")
TOKENIZER = load_tokenizer("bytes")
WINOGRANDE = [
    {"sentence": "The cup fell from the shelf and the _ broke.", "option1": "cup", "option2": "shelf", "answer": "1"},
    {"sentence": "Ann thanked Eve because _ had helped.", "option1": "Ann", "option2": "Eve", "answer": "2"},
]
MMLU = [{"question": "1 + 1?", "choices": ["1", "2", "3", "4"], "answer": 1, "subject": "anatomy"}] * 5
GSM8K = [{"question": "How much is 2 + 3?", "answer": "2 + 3 = 5\n#### 5"}]


def write_lines(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Copy parts of a few data sets."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = tmp_path / "data"
    write_lines(folder / "winogrande" / "validation.jsonl", WINOGRANDE)
    write_lines(folder / "mmlu" / "test" / "anatomy.jsonl", MMLU)
    write_lines(folder / "mmlu" / "dev" / "anatomy.jsonl", MMLU)
    (folder / "openai" / "gsm8k" / "main").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(GSM8K), folder / "openai" / "gsm8k" / "main" / "test.parquet")
    return folder


@pytest.mark.attack
def test_tasks_are_scored_on_copies_of_their_data(data):
    suite = Suite("mine", [SuiteTask("winogrande"), SuiteTask("mmlu_anatomy", num_fewshot=2)])
    report = run_suite(random_model(), TOKENIZER, suite, local_data=str(data))
    assert report["winogrande"]["questions"] == 2 and report["mmlu_anatomy"]["questions"] == 5
    assert report["winogrande"]["value"] in (0.0, 0.5, 1.0) and report["mmlu_anatomy"]["value"] in (0.0, 1.0)


def test_task_files_include_the_harness_own_and_only_name_the_data(data, tmp_path):
    (tmp_path / "out").mkdir()
    index = task_manager().task_index
    written = write_task_files(data, tmp_path / "out", index, ["winogrande", "mmlu", "gsm8k", "piqa", "no_such_task"])
    assert written == {"winogrande": None, "mmlu_anatomy": None, "gsm8k": "train"}
    content = json.loads((tmp_path / "out" / "winogrande.yaml").read_text())
    assert content["include"] == str(index["winogrande"].yaml_path) and content["task"] == "winogrande"
    files = content["dataset_kwargs"]["data_files"]
    assert files == {"validation": str(data / "winogrande" / "validation.jsonl")} and content["dataset_path"] == "json"
    assert json.loads((tmp_path / "out" / "gsm8k.yaml").read_text())["dataset_path"] == "parquet"


def test_worked_examples_come_from_their_own_split_or_not_at_all(data):
    with pytest.raises(UserError, match="gsm8k takes its 4 worked examples from the split train, which is not in"):
        run_suite(random_model(), TOKENIZER, Suite("x", [SuiteTask("gsm8k", 4)]), local_data=str(data))


def test_local_tasks_add_to_tags_and_never_take_a_group_s_place(data, tmp_path, caplog):
    own = task_manager().task_index
    for name, tag in (("mine", "mmlu_stem_tasks"), ("other", "mmlu")):
        content = {"task": name, "tag": tag, "dataset_path": "json", "output_type": "multiple_choice"}
        (data / f"{name}.yaml").write_text(json.dumps(content))
    (tmp_path / "out").mkdir()
    caplog.clear()
    manager, _ = _manager(str(data), tmp_path / "out", ["mmlu", "winogrande"])
    index = manager.task_index
    assert leaves(index, "mmlu") == leaves(own, "mmlu") | {"mine"} and len(leaves(own, "mmlu")) == 57
    assert index["mmlu_anatomy"].yaml_path.parent == tmp_path / "out"
    assert "overrides" not in caplog.text
    assert own is task_manager().task_index and "mine" not in own


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (None, None, r"holds neither task files nor data of winogrande: see docs/tasks.md"),
        ("a.yaml", "task: [\n", "The task file .*a.yaml cannot be read"),
        ("a.yaml", "task: winogrande\ninclude: nowhere.yaml\n", "The task file .*a.yaml cannot be read .*nowhere.yaml"),
    ],
)
def test_a_folder_of_no_use_is_refused(tmp_path, name, content, message):
    (tmp_path / "tasks").mkdir()
    if name:
        (tmp_path / "tasks" / name).write_text(content)
    with pytest.raises(UserError, match=message):
        run_suite(random_model(), TOKENIZER, Suite("x", [SuiteTask("winogrande")]), local_data=str(tmp_path / "tasks"))


def test_a_hub_out_of_reach_is_one_sentence_that_names_local_data(data):
    with pytest.raises(UserError, match=r"^Task piqa cannot be loaded .*connection to the hub, .* --local_data\.$"):
        run_suite(random_model(), TOKENIZER, Suite("x", [SuiteTask("piqa")]))
