"""The backends a kernel's test runs on, with the type and the error each is held to.

Triton runs here in its interpreter, which multiplies no bfloat16; `test_interpreter.py` starts it.
"""

import os

import pytest
import torch

INTERPRETED = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1", reason="runs in Triton's interpreter, from test_interpreter.py"
)
BACKENDS = pytest.mark.parametrize(
    ("backend", "dtype", "tolerance"),
    [
        pytest.param("torch", torch.float64, 1e-12, id="torch"),
        pytest.param("triton", torch.float32, 1e-5, id="triton", marks=INTERPRETED),
    ],
)


def assert_near(actual, expected, tolerance):
    """‖actual − expected‖ ≤ tolerance · ‖expected‖, pair by pair; NaN never passes."""
    for number, (a, b) in enumerate(zip(actual, expected, strict=True)):
        assert a.shape == b.shape
        error = (a.double() - b.double()).norm()
        assert error <= tolerance * b.double().norm(), (
            f"tensor {number}: ‖error‖ {error:.1e}, ‖expected‖ {b.norm():.1e}"
        )
