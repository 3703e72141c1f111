"""Choose the next token from logits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from jetlit.errors import UserError

COLDEST = 1e-6
"""The lowest temperature that is not 0."""


def seeded(seed: int, device: torch.device) -> torch.Generator:
    """Return a generator on a device; raise UserError if it cannot take the seed."""
    if not 0 <= seed < 2**63:
        raise UserError(f"A seed must be a whole number from 0 to 2^63 - 1, not {seed}: choose another.")
    return torch.Generator(device).manual_seed(seed)


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen."""

    temperature: float = 0.0  # divides the logits; 0 takes the most likely token
    top_p: float = 1.0  # probability that the smallest set of kept tokens reaches
    generator: torch.Generator | None = None  # on the logits' device; None is torch's default

    def __post_init__(self) -> None:
        """Check the values."""
        # Logits over a smaller one are not finite.
        if self.temperature != 0 and not COLDEST <= self.temperature < math.inf:
            raise UserError(
                f"temperature must be 0 or at least {COLDEST}, not {self.temperature}: 0 takes the most likely token."
            )
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p must be above 0 and at most 1, not {self.top_p}.")

    def choose(self, logits: torch.Tensor) -> torch.Tensor:
        """Return a token [B] int64 for each row of logits [B, V]."""
        if self.temperature == 0:
            return logits.argmax(-1)
        probabilities = torch.softmax(logits.float() / self.temperature, -1)
        if self.top_p < 1:
            probabilities = self._nucleus(probabilities)
        return torch.multinomial(probabilities, 1, generator=self.generator)[:, 0]

    def _nucleus(self, probabilities: torch.Tensor) -> torch.Tensor:
        ordered, tokens = probabilities.sort(-1, descending=True)
        # A token is kept if those before it do not reach top_p, so the first always is.
        ordered = ordered.where(ordered.cumsum(-1) - ordered < self.top_p, 0.0)
        return torch.zeros_like(probabilities).scatter(-1, tokens, ordered)
