"""Ranges of config values: the same sentence from the command line, from YAML, and from Python."""

import math
from dataclasses import dataclass

import pytest

from jetlit.errors import UserError
from jetlit.pipeline.configs import load_config
from jetlit.pipeline.stage_config import StageConfig
from jetlit.values import (
    BlockSize,
    ChunkTokens,
    Count,
    Device,
    Dtype,
    Fraction,
    InnerFraction,
    Layers,
    Length,
    NonEmptyList,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    Seed,
)


@dataclass
class Values(StageConfig):
    """One field of each type.

    Args:
        count: and so on.
    """

    count: Count = 1
    maybe: Count | None = None
    natural: NonNegativeInt = 0
    seed: Seed = 0
    layers: Layers = 1
    block: BlockSize = 2
    chunk: ChunkTokens = 2
    length: Length = -1
    positive: PositiveFloat = 0.5
    weight: NonNegativeFloat = 0.0
    share: Fraction = 1.0
    inner: InnerFraction = 0.5
    device: Device = "auto"
    dtype: Dtype = "float32"
    sizes: NonEmptyList[Count] | None = None
    weights: dict[str, NonNegativeFloat] | None = None


GOOD = [
    {"count": 2**31 - 1, "maybe": 3, "natural": 0, "seed": 2**32 - 1, "layers": 1024, "block": 2, "length": 10**12},
    {"positive": 1e-30, "weight": 0, "share": 0.0, "inner": 1e-9, "device": "cuda:3", "dtype": "bfloat16"},
    {"sizes": [1, 2], "weights": {"a": 0.0}, "maybe": None},
]
BAD = [
    ("count", [0, -1, 2**31, 1.5, True, None, [1], "x", math.nan, math.inf]),
    ("maybe", [0, 1.5, True, "x"]),
    ("natural", [-1, 0.5, 2**70]),
    ("seed", [-1, 2**32, 2**70, 1.5, "x"]),
    ("layers", [0, 1025, 10**6]),
    ("block", [1, 0, -5]),
    ("chunk", [1, 10**14]),
    ("length", [0, -2]),
    ("positive", [0, -1, math.nan, math.inf, "high", True]),
    ("weight", [-0.1, math.nan, -math.inf, "high"]),
    ("share", [-0.1, 1.1, math.nan]),
    ("inner", [0, 1, 0.0, 1.0, math.nan]),
    ("device", ["mps", "xpu", "meta", "cuda:x", "CPU", "", "gpu", "tpu9"]),
    ("dtype", ["float8_e4m3fn", "int8", "half", "", "torch"]),
    ("sizes", [[], [0], [1.5], 5, "x", {}]),
    ("weights", [{"a": -1}, {"a": math.nan}, {"a": "x"}, [], 5]),
]


@pytest.mark.parametrize("values", GOOD)
def test_good_values_stay_as_they_are(values):
    assert load_config(Values, values) == Values(**values)
    texts = {key: str(value) for key, value in values.items() if isinstance(value, int | float | list)}
    assert load_config(Values, texts) == Values(**{key: values[key] for key in texts})
    for value in vars(load_config(Values, values)).values():
        assert type(value) in (int, float, str, list, dict, type(None))  # no subclass, which YAML could not write


@pytest.mark.parametrize(("name", "values"), BAD)
def test_bad_values_are_one_sentence_from_yaml_text_and_python(name, values):
    for value in values:
        for form in (value, str(value)):
            with pytest.raises(UserError) as refused:
                load_config(Values, {name: form})
            said = str(refused.value)
            assert "\n" not in said and said.endswith((".", "float16.")) and "pydantic" not in said, said
            assert name in said or "device" in said or "dtype" in said or "trains nothing" in said, said
        with pytest.raises(UserError):
            Values(**{name: value})
