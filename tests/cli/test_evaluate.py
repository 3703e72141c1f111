"""`jetlit eval` on a suite: through the real harness on a local file, into result.json and the run's report."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from jetlit_data import load_tokenizer

from jetlit.cli import main
from jetlit.pipeline.report.report import write_report
from jetlit.results import Result, write_result
from tests.models.small import small_model
from tests.tasks.test_suites import local_tasks  # noqa: F401 (a fixture)

pytestmark = pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-evaluation-harness is not installed")


@pytest.fixture
def teacher(tmp_path: Path) -> str:
    torch.manual_seed(0)
    small_model(["attn", "attn"], vocab_size=259).save_pretrained(tmp_path / "teacher")
    load_tokenizer("bytes").save_pretrained(tmp_path / "teacher")
    return str(tmp_path / "teacher")


@pytest.mark.slow
def test_a_suite_s_results_stand_beside_the_paper_s_with_standard_errors(
    teacher: str,
    local_tasks: str,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    # The harness' piqa, read from a local file.
    task = (Path(local_tasks) / "local_knowledge.yaml").read_text().replace("task: local_knowledge", "task: piqa")
    (Path(local_tasks) / "piqa.yaml").write_text(task)
    suite = tmp_path / "suite.yaml"
    suite.write_text("name: mine\ntasks:\n  - {task: piqa, metric: 'acc_norm,none'}\n  - {task: local_knowledge}\n")
    run = tmp_path / "run"
    arguments = ["--suite", str(suite), "--local_data", local_tasks, "--run_dir", str(run)]
    out = ["--out_dir", str(run / "eval" / "mine")]
    assert main(["eval", "--model", teacher, "--limit", "24", *arguments, *out]) == 0
    assert "piqa" in capsys.readouterr().out
    found = json.loads((run / "eval/mine/result.json").read_text())
    values = {name: entry["value"] for name, entry in found["metrics"].items()}
    assert values["piqa/questions"] == 24 and 0 < values["piqa/stderr"] < 0.2
    assert values["piqa/paper/Jet-Nemotron-2B"] == 0.754 and values["piqa/paper/Qwen2.5-1.5B"] == 0.758
    assert "local_knowledge/paper/Jet-Nemotron-2B" not in values
    assert values["mean/value"] == pytest.approx((values["piqa/value"] + values["local_knowledge/value"]) / 2)
    write_result(run / "export", Result("export", {}, {}, {}, seed=0, seconds=1.0))
    write_report(run)
    text = (run / "report.md").read_text()
    assert "Jet-Nemotron-2B (paper)" in text and "on suite mine, 24 questions of a task at most (eval/mine" in text
    (row,) = (line for line in text.splitlines() if line.startswith("| piqa |"))
    assert " 0.754 |" in row and f"{values['piqa/stderr']:.4g}" in row
    assert json.loads((run / "report.json").read_text())["evaluations"]["eval/mine"]["config"]["model"] == teacher
