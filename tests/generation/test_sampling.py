import pytest
import torch

from jetlit.errors import UserError
from jetlit.generation import Sampling, seeded
from jetlit.generation.sampling import COLDEST

PROBABILITIES = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.05, 0.05, 0.1, 0.8]])


def frequencies(sampling: Sampling, draws: int = 4000) -> torch.Tensor:
    chosen = sampling.choose(PROBABILITIES.log().repeat(draws, 1)).view(draws, 2)
    return torch.stack([(chosen == token).float().mean(0) for token in range(4)], 1)


def test_temperature_zero_takes_the_most_likely():
    assert Sampling().choose(PROBABILITIES.log()).tolist() == [0, 3]


def test_temperature_one_draws_the_distribution():
    found = frequencies(Sampling(temperature=1.0, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(found, PROBABILITIES, atol=0.03, rtol=0)


def test_temperature_sharpens():
    found = frequencies(Sampling(temperature=0.5, generator=torch.Generator().manual_seed(0)))
    expected = PROBABILITIES.square() / PROBABILITIES.square().sum(1, keepdim=True)
    torch.testing.assert_close(found, expected, atol=0.03, rtol=0)


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [
        (0.45, [[1, 0, 0, 0], [0, 0, 0, 1]]),
        (0.75, [[0.625, 0.375, 0, 0], [0, 0, 0, 1]]),
        (0.85, [[0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0], [0, 0, 0.1 / 0.9, 0.8 / 0.9]]),
    ],
)
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p, expected):
    found = frequencies(Sampling(1.0, top_p, torch.Generator().manual_seed(0)))
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32), atol=0.03, rtol=0)


NAN = float("nan")


@pytest.mark.parametrize(
    ("temperature", "top_p"),
    [(-1.0, 1.0), (1.0, 0.0), (1.0, 1.5), (1e-45, 1.0), (NAN, 1.0), (float("inf"), 1.0), (1.0, NAN)],
)
def test_what_means_nothing_is_refused(temperature, top_p):
    with pytest.raises(UserError):
        Sampling(temperature, top_p)


def test_the_lowest_temperature_takes_the_most_likely():
    coldest = Sampling(COLDEST, generator=seeded(0, torch.device("cpu")))
    assert coldest.choose(1e4 * PROBABILITIES.log()).tolist() == [0, 3]


@pytest.mark.parametrize("seed", [-1, 2**63, 2**70])
def test_seeds_that_no_generator_takes_are_refused(seed):
    with pytest.raises(UserError, match="seed"):
        seeded(seed, torch.device("cpu"))
