"""Block selection and hardware search, with training and measuring that leave traces."""

import multiprocessing
from pathlib import Path

import pytest

from jetlit.errors import UserError
from jetlit.models import Architecture
from jetlit.results import metric
from jetlit.search.blocks import select_block
from jetlit.search.candidates import most_accurate
from jetlit.search.grid import state_size_rows
from jetlit.search.hardware import search_hardware

PLACEMENT = Architecture(["gla", "attn", "gla"], {"gla": {"head_dim": 4}})
BLOCKS = {"gla": {}, "jet": {"conv_size": 3}, "retnet": {}}
ACCURACY = {"gla": 0.5, "jet": 0.7, "retnet": 0.7}
LOSS = {"gla": 1.0, "jet": 2.0, "retnet": 1.5}


class Trainer:
    """Trains by writing which block it saw; can be cut off."""

    def __init__(self, folder: Path, cut_off_at: str | None = None) -> None:
        self.log = folder / "log.txt"
        self.cut_off_at = cut_off_at

    def __call__(self, architecture: Path, folder: Path) -> dict:
        block = Architecture.load(architecture).layer_types[0]
        with open(self.log, "a") as log:
            log.write(block + "\n")
        (folder / "model").mkdir(parents=True, exist_ok=True)
        (folder / "model" / "block.txt").write_text(block)
        if block == self.cut_off_at:
            raise KeyboardInterrupt
        return {"held_out_loss": metric(LOSS.get(block, 1.0), "nats/token")}

    @property
    def trained(self) -> list[str]:
        return self.log.read_text().split()


def measure(model: Path) -> dict:
    return {"accuracy": metric(ACCURACY[(model / "block.txt").read_text()], "fraction")}


def test_takes_the_most_accurate_and_of_equals_the_one_with_the_lower_loss(tmp_path: Path) -> None:
    found = select_block(BLOCKS, PLACEMENT, tmp_path, Trainer(tmp_path), measure, {})
    assert found.chosen == "retnet"
    assert found.architecture.layer_types == ["retnet", "attn", "retnet"]
    assert found.candidates["jet"]["accuracy"]["value"] == 0.7
    assert Architecture.load(tmp_path / "candidates/jet/architecture.json").block_configs["jet"] == {"conv_size": 3}


def test_measured_time_decides_nothing() -> None:
    slow = {"accuracy": metric(0.5, "fraction"), "decode_tokens_per_s": metric(1.0, "tokens/s")}
    fast = {"accuracy": metric(0.5, "fraction"), "decode_tokens_per_s": metric(9.0, "tokens/s")}
    assert most_accurate({"slow": slow, "fast": fast}) == "slow"
    assert most_accurate({"fast": fast, "slow": slow}) == "fast"


def test_finished_candidates_are_not_redone_after_an_interruption(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        select_block(BLOCKS, PLACEMENT, tmp_path, Trainer(tmp_path, cut_off_at="jet"), measure, {})
    trainer = Trainer(tmp_path)
    (tmp_path / "candidates/jet/checkpoint").write_text("half way")
    select_block(BLOCKS, PLACEMENT, tmp_path, trainer, measure, {})
    assert sorted(trainer.trained) == ["gla", "jet", "jet", "retnet"]
    assert (tmp_path / "candidates/jet/checkpoint").exists()  # what the interrupted one left is there to go on from


def test_other_settings_redo_a_candidate_from_nothing(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path)
    select_block(BLOCKS, PLACEMENT, tmp_path, trainer, measure, {"steps": 1})
    (tmp_path / "candidates/gla/checkpoint").write_text("of one step")
    select_block(BLOCKS, PLACEMENT, tmp_path, trainer, measure, {"steps": 2})
    assert len(trainer.trained) == 6
    assert not (tmp_path / "candidates/gla/checkpoint").exists()


def blocks_in(folder: Path):
    return select_block(BLOCKS, PLACEMENT, folder, Trainer(folder), measure, {})


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
        select_block(blocks, PLACEMENT, tmp_path, Trainer(tmp_path), measure, {})
    assert not (tmp_path / "log.txt").exists()


def train_row(architecture: Path, folder: Path) -> dict:
    config = Architecture.load(architecture).block_configs["gla"]
    with open(folder.parent.parent / "log.txt", "a") as log:
        log.write(folder.name + "\n")
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "heads.txt").write_text(str(config["num_heads"]))
    return {"held_out_loss": metric(1.0, "nats/token")}


def measure_row(model: Path) -> dict:
    return {"accuracy": metric(int((model / "heads.txt").read_text()) / 10, "fraction")}


def hardware(folder: Path):
    rows = state_size_rows(64, [2, 4, 8], [2, 4, 8], [1, 2, 4])
    return search_hardware(rows, "gla", {"norm_eps": 1e-6}, PLACEMENT, folder, train_row, measure_row, {})


def test_hardware_search_shapes_the_block_and_takes_the_most_accurate_row(tmp_path: Path) -> None:
    found = hardware(tmp_path)
    assert found.chosen.heads == 4 and found.chosen.key_dim == 8 and found.chosen.value_dim == 2
    assert found.architecture.block_configs["gla"] == {
        "norm_eps": 1e-6,
        "num_heads": 4,
        "head_dim": 8,
        "expand_v": 0.25,
    }
    assert {row.state_size for row in found.rows} == {64}
    assert [m["accuracy"]["value"] for m in found.metrics] == [row.heads / 10 for row in found.rows]


def test_processes_that_search_together_train_each_row_once_and_agree(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    with context.Pool(2) as pool:
        one, other = pool.map(hardware, [tmp_path] * 2)
    assert one == other
    trained = (tmp_path / "log.txt").read_text().split()
    assert sorted(trained) == sorted(row.name for row in one.rows)
