"""benchmarks/kernel_report.py: its errors are those of the output and of the worst gradient."""

import importlib
from pathlib import Path

import pytest
import torch


@pytest.fixture
def kernel_report(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("kernel_report")


def product(q, k, v, g):
    return q * k + v * g, None


def errors(kernel_report, operator):
    def draw(shape):
        return [torch.randn(shape, generator=generator).requires_grad_() for _ in range(4)]

    generator = torch.Generator().manual_seed(0)
    unused = dict.fromkeys(("name", "title", "shapes", "floors", "passes", "sweep"))
    recurrence = kernel_report.Recurrence(
        **unused, operator=operator, reference=product, small=(2, 7, 3, 5, 5), draw=draw
    )
    return kernel_report.errors(recurrence)


def test_rounding_alone_is_a_small_error(kernel_report):
    output, gradient = errors(kernel_report, product)
    assert 0 < output < 1e-6 and gradient < 1e-6


@pytest.mark.parametrize("wrong", range(4))
def test_the_worst_gradient_shows(kernel_report, wrong):
    def operator(*tensors):
        scaled = [t * 1.5 - (t * 0.5).detach() if place == wrong else t for place, t in enumerate(tensors)]
        return product(*scaled)

    output, gradient = errors(kernel_report, operator)
    assert output < 1e-6 and gradient == pytest.approx(0.5, rel=1e-4)


def test_a_wrong_output_shows(kernel_report):
    output, _ = errors(kernel_report, lambda *tensors: (1.25 * product(*tensors)[0], None))
    assert output == pytest.approx(0.25, rel=1e-4)
