"""What the log says about who serves an operator, and that fla-core is never taken unasked."""

import logging
import subprocess
import sys

import pytest
import torch
from jetlit_kernels import dispatch, dplr_delta_rule, gated_delta_rule, linear_attention
from jetlit_kernels.dplr_delta_rule.fla import wants_fla


def run_each() -> None:
    x = torch.randn(1, 5, 2, 8)
    gate = torch.rand(1, 5, 2)
    gated_delta_rule(x, x, x, -gate, gate)
    linear_attention(x, x, x, -gate)
    dplr_delta_rule(x, -x.abs(), x, x, x, x)


def test_the_log_says_once_what_serves_each_operator(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "_announced", set())  # other tests of this process have run them already
    with caplog.at_level(logging.INFO, "jetlit_kernels"):
        run_each()
        run_each()
    operators = ("gated_delta_rule", "linear_attention", "dplr_delta_rule")
    assert caplog.messages == [f"{operator}: plain PyTorch on cpu" for operator in operators]


class _OnCuda:
    """As much of a CUDA tensor as the choice looks at."""

    is_cuda = True

    def __init__(self, tokens: int) -> None:
        self.shape = (1, tokens, 2, 8)


@pytest.mark.parametrize(
    ("asked", "installed", "tokens", "expected"),
    [(None, True, 64, False), ("1", False, 64, False), ("1", True, 1, False), ("1", True, 64, True)],
)
def test_fla_core_runs_only_when_asked_for_and_installed(
    asked: str | None, installed: bool, tokens: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JETLIT_FLA", raising=False)
    if asked is not None:
        monkeypatch.setenv("JETLIT_FLA", asked)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if installed else None)
    assert wants_fla(_OnCuda(tokens)) is expected
    assert not wants_fla(torch.empty(1, 64, 2, 8)), "on a CPU there is nothing for it to run on"


def test_the_package_imports_without_triton_or_jetlit() -> None:
    code = "import sys, jetlit_kernels; print({name.split('.')[0] for name in sys.modules} & {'triton', 'jetlit'})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
