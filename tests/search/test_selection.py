"""Block selection and hardware search, with training and measuring that leave traces."""

import multiprocessing
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetlit.errors import UserError
from jetlit.files import write_json
from jetlit.models import Architecture
from jetlit.once import MARKER
from jetlit.results import Result
from jetlit.search.grid import state_size_rows
from jetlit.search.selection import Selection, ranked, search_hardware, select_block
from jetlit.search.sharing import evaluate_candidates

PLACEMENT = Architecture(["gla", "attn", "gla"], {"gla": {"head_dim": 4}})
BLOCKS = {"gla": {}, "jet": {"conv_size": 3}, "retnet": {}}
ACCURACY = {"gla": 0.5, "jet": 0.7, "retnet": 0.7}
LOSS = {"gla": 1.0, "jet": 2.0, "retnet": 1.5}


class Trainer:
    """Trains by writing which block it saw; can be cut off."""

    def __init__(self, folder: Path, cut_off_at: str | None = None) -> None:
        self.log = folder / "log.txt"
        self.cut_off_at = cut_off_at

    def __call__(self, folder: Path) -> Result:
        block = Architecture.load(folder / "architecture.json").layer_types[0]
        with open(self.log, "a") as log:
            log.write(block + "\n")
        (folder / "model").mkdir(parents=True, exist_ok=True)
        (folder / "model" / "block.txt").write_text(block)
        if block == self.cut_off_at:
            raise KeyboardInterrupt
        return Result("candidate", {}, {"held_out_loss": LOSS.get(block, 1.0)})

    @property
    def trained(self) -> list[str]:
        return self.log.read_text().split()


def measure(folder: Path) -> dict:
    return {"accuracy": ACCURACY[(folder / "model" / "block.txt").read_text()]}


def select(folder: Path, trainer: Trainer, settings: dict | None = None, blocks: dict = BLOCKS) -> Selection:
    evaluate = partial(
        evaluate_candidates,
        folder=folder / "candidates",
        train=trainer,
        measure=measure,
        settings=settings or {},
        made=("model", "checkpoint"),
    )
    return select_block(blocks, PLACEMENT, evaluate)


def test_takes_the_most_accurate_and_of_equals_the_one_with_the_lower_loss(tmp_path: Path) -> None:
    found = select(tmp_path, Trainer(tmp_path))
    assert found.chosen == "retnet"
    assert found.architecture.layer_types == ["retnet", "attn", "retnet"]
    assert found.candidates["jet"]["accuracy"] == 0.7
    assert Architecture.load(tmp_path / "candidates/jet/architecture.json").block_configs["jet"] == {"conv_size": 3}


def candidate(accuracy: float, error: float, loss: float | None, speed: float | None = None) -> dict:
    return {"accuracy": accuracy, "accuracy_stderr": error, "held_out_loss": loss, "decode_tokens_per_s": speed}


@pytest.mark.parametrize(
    ("candidates", "order"),
    [
        # Within one standard error of the best accuracy the loss decides, whatever the accuracy.
        (
            {"a": candidate(0.80, 0.02, 1.3), "b": candidate(0.79, 0.02, 1.1), "c": candidate(0.77, 0.02, 1.0)},
            ["b", "a"],
        ),
        # The error is that of the best.
        ({"a": candidate(0.80, 0.0, 1.3), "b": candidate(0.7999, 0.5, 1.1)}, ["a"]),
        # Measured time decides between equal losses alone.
        ({"a": candidate(0.5, 0.1, 1.0, 1.0), "b": candidate(0.5, 0.1, 1.0, 9.0)}, ["b", "a"]),
        ({"a": candidate(0.5, 0.1, 1.0, 1.0), "b": candidate(0.5, 0.1, 1.0001, 9.0)}, ["a", "b"]),
        # Without a loss or a speed the order given decides; one that has a loss goes first.
        ({"a": candidate(0.5, 0.1, None), "b": candidate(0.5, 0.1, None)}, ["a", "b"]),
        ({"a": candidate(0.5, 0.1, None, 9.0), "b": candidate(0.5, 0.1, 2.0)}, ["b", "a"]),
        # A candidate of an earlier version has no error.
        ({"a": {"accuracy": 0.5}, "b": {"accuracy": 0.6, "held_out_loss": 9.0}}, ["b"]),
    ],
)
def test_the_loss_decides_within_one_standard_error_of_the_best(candidates: dict, order: list[str]) -> None:
    assert ranked(candidates) == order


@given(st.dictionaries(st.integers(0, 9), st.tuples(*[st.floats(0, 1)] * 3), min_size=1, max_size=8))
@settings(max_examples=50, deadline=None)
def test_the_choice_is_never_worse_than_the_best_by_more_than_its_error(drawn: dict) -> None:
    candidates = {str(name): candidate(*numbers) for name, numbers in drawn.items()}
    order = ranked(candidates)
    best = max(candidates.values(), key=lambda metrics: (metrics["accuracy"], -metrics["accuracy_stderr"]))
    for name, metrics in candidates.items():
        assert (name in order) == (metrics["accuracy"] >= best["accuracy"] - best["accuracy_stderr"])
    losses = [candidates[name]["held_out_loss"] for name in order]
    assert losses == sorted(losses)


def test_a_search_names_those_it_cannot_tell_apart(tmp_path: Path) -> None:
    assert select(tmp_path, Trainer(tmp_path)).indistinguishable == ["jet"]


def test_finished_candidates_are_not_redone_after_an_interruption(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        select(tmp_path, Trainer(tmp_path, cut_off_at="jet"))
    trainer = Trainer(tmp_path)
    (tmp_path / "candidates/jet/checkpoint").write_text("half way")
    select(tmp_path, trainer)
    assert sorted(trainer.trained) == ["gla", "jet", "jet", "retnet"]
    assert (tmp_path / "candidates/jet/checkpoint").exists()  # what the interrupted one left is there to resume from


def test_other_settings_redo_a_candidate_from_nothing(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path)
    select(tmp_path, trainer, {"steps": 1})
    # As a fit leaves it that was killed: its marker, a checkpoint and no result.
    (tmp_path / "candidates/gla/result.json").unlink()
    write_json(tmp_path / "candidates/gla" / MARKER, {"hash": "of one step"})
    (tmp_path / "candidates/gla/checkpoint").write_text("of one step")
    select(tmp_path, trainer, {"steps": 2})
    assert len(trainer.trained) == 6
    assert not (tmp_path / "candidates/gla/checkpoint").exists()


def blocks_in(folder: Path):
    return select(folder, Trainer(folder))


def test_processes_that_select_together_train_each_block_once_and_agree(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        one, other = pool.map(blocks_in, [tmp_path] * 2)
    assert one == other and one.chosen == "retnet"
    assert sorted(Trainer(tmp_path).trained) == sorted(BLOCKS)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ({}, "no candidates to choose from"),
        ({"gla": {}, "lstm": {}}, "no block 'lstm'"),
        ({"gla": {"depth": 3}}, "no setting 'depth'"),
    ],
)
def test_wrong_blocks_are_refused_before_anything_is_trained(tmp_path: Path, blocks: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        select(tmp_path, Trainer(tmp_path), blocks=blocks)
    assert not (tmp_path / "log.txt").exists()


def train_row(folder: Path) -> Result:
    config = Architecture.load(folder / "architecture.json").block_configs["gla"]
    with open(folder.parent.parent / "log.txt", "a") as log:
        log.write(folder.name + "\n")
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "heads.txt").write_text(str(config["num_heads"]))
    return Result("candidate", {}, {"held_out_loss": 1.0})


def measure_row(folder: Path) -> dict:
    return {"accuracy": int((folder / "model" / "heads.txt").read_text()) / 10}


ROWS = state_size_rows(64, [2, 4, 8], [2, 4, 8], [1, 2, 4])


def hardware(folder: Path) -> Selection:
    evaluate = partial(evaluate_candidates, folder=folder / "rows", train=train_row, measure=measure_row, settings={})
    return search_hardware(ROWS, "gla", {"norm_eps": 1e-6}, PLACEMENT, evaluate)


def test_hardware_search_shapes_the_block_and_takes_the_most_accurate_row(tmp_path: Path) -> None:
    found = hardware(tmp_path)
    chosen = next(row for row in ROWS if row.name == found.chosen)
    assert chosen.heads == 4 and chosen.key_dim == 8 and chosen.value_dim == 2
    assert found.architecture.block_configs["gla"] == {
        "norm_eps": 1e-6,
        "num_heads": 4,
        "head_dim": 8,
        "expand_v": 0.25,
    }
    assert {row.state_size for row in ROWS} == {64}
    assert [found.candidates[row.name]["accuracy"] for row in ROWS] == [row.heads / 10 for row in ROWS]


def test_processes_that_search_together_train_each_row_once_and_agree(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    with context.Pool(2) as pool:
        one, other = pool.map(hardware, [tmp_path] * 2)
    assert one == other
    trained = (tmp_path / "log.txt").read_text().split()
    assert sorted(trained) == sorted(row.name for row in ROWS)
