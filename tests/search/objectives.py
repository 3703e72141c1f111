"""Objectives with known answers, and slow searches to compare with."""

import itertools
import random
from collections.abc import Callable

Choices = tuple[str, ...]


def additive(gains: list[float]) -> Callable[[list[Choices]], list[float]]:
    """Each full-attention layer adds its own gain."""

    def objective(candidates: list[Choices]) -> list[float]:
        return [
            sum(gain for gain, name in zip(gains, choices, strict=True) if name == "attn") for choices in candidates
        ]

    return objective


def interacting(layers: int, seed: int) -> Callable[[list[Choices]], list[float]]:
    """Return a random value for every subset of layers: no structure a search could lean on."""

    def objective(candidates: list[Choices]) -> list[float]:
        return [random.Random(f"{seed}{choices}").random() for choices in candidates]

    return objective


def exhaustive(objective: Callable[[list[Choices]], list[float]], layers: int, size: int) -> tuple[int, ...]:
    """Return the best set of exactly `size` layers, the lexicographically first one of equals."""
    sets = list(itertools.combinations(range(layers), size))
    values = objective([tuple("attn" if i in chosen else "gla" for i in range(layers)) for chosen in sets])
    return max(zip(values, sets, strict=True), key=lambda pair: (pair[0], tuple(-i for i in pair[1])))[1]
