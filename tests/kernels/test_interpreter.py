"""The Triton kernels on a machine without a GPU: the tests' Triton cases, in a process whose Triton interprets."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "test_decode_attention",
        "test_decode_step",
        "test_dynamic_conv",
        "test_gated_delta_rule",
        "test_gated_norm",
        "test_gates",
        "test_linear_attention",
        "test_token_losses",
        "test_narrow_linear",
        "test_rotate_and_store",
        "test_silu_mul",
        "test_window_attention",
    ],
)
def test_triton_cases_pass(name):
    pytest.importorskip("triton")
    file = Path(__file__).with_name(f"{name}.py")
    # No plug-ins of this process: a session that interprets Triton must not share its cache or its workers.
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-k",
        "triton",
        str(file),
    ]
    run = subprocess.run(
        command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, timeout=240
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-1000:]
