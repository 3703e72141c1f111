"""The Triton kernels on a machine without a GPU: the tests' Triton cases, in a process whose Triton interprets."""

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

NAMES = [
    "test_decode_attention",
    "test_decode_step",
    "test_dynamic_conv",
    "test_gated_delta_rule",
    "test_gated_norm",
    "test_gates",
    "test_linear_attention",
    "test_token_losses",
    "test_narrow_linear",
    "test_rotate",
    "test_rotate_and_store",
    "test_short_conv",
    "test_silu",
    "test_silu_mul",
    "test_window_attention",
]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[ElementTree.Element]:
    """Return what became of each case; one process for all files, since its imports take longer than most of them."""
    pytest.importorskip("triton")
    report = tmp_path_factory.mktemp("interpreter") / "report.xml"
    # No plug-ins of this process: a session that interprets Triton must not share its cache or its workers.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", "triton"]
    command += [f"--junitxml={report}", *(str(Path(__file__).with_name(f"{name}.py")) for name in NAMES)]
    run = subprocess.run(
        command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, timeout=800
    )
    assert report.exists(), run.stdout[-4000:] + run.stderr[-1000:]
    return list(ElementTree.parse(report).iter("testcase"))


@pytest.mark.slow
@pytest.mark.timeout(900)  # the first test waits for all files
@pytest.mark.parametrize("name", NAMES)
def test_triton_cases_pass(name: str, cases: list[ElementTree.Element]) -> None:
    mine = [case for case in cases if name in case.get("classname", "").split(".")]
    assert [case for case in mine if case.find("skipped") is None]
    wrong = [f"{case.get('name')}: {it.text}" for case in mine for it in case if it.tag in ("failure", "error")]
    assert not wrong, "\n".join(wrong)[-4000:]
