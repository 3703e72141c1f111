"""A resumed run sees the batches that an undisturbed one would have seen, whenever it was stopped."""

import copy
import shutil
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from jetlit.datamodules import Corpus, TokenDataModule
from jetlit.errors import UserError
from tests.datamodules.conftest import BLOCK, Recorder

STEPS = 32  # more than two epochs of each data set below
QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


def fit(data, steps, folder=None, resume=None, **trainer):
    callbacks = [ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)] if folder else []
    model = Recorder()
    settings = {**QUIET, "max_steps": steps, "callbacks": callbacks, "enable_checkpointing": bool(folder), **trainer}
    Trainer(**settings).fit(model, data, ckpt_path=resume)
    return model.batches


def data_of(corpora, mixed, workers=0, **settings):
    source = [Corpus(corpora["large"], 0.7), Corpus(corpora["small"], 0.3)] if mixed else corpora["large"]
    return TokenDataModule(source, **{"block_size": BLOCK, "batch_size": 8, "num_workers": workers, **settings})


def assert_same(batches, expected):
    assert len(batches) == len(expected)
    for number, (batch, other) in enumerate(zip(batches, expected, strict=True)):
        assert torch.equal(batch, other), f"batch {number} differs"


@pytest.mark.parametrize("mixed", [False, True], ids=["single", "mixed"])
@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_at_any_step_changes_no_batch(corpora, tmp_path, mixed, workers):
    def data():
        return data_of(corpora, mixed, workers)

    whole = fit(data(), STEPS, tmp_path)
    epoch = len(data().train_dataloader())
    assert 2 * epoch + 1 < STEPS, "the test must cross the ends of two epochs"
    stops = {1, epoch - 1, epoch, epoch + 1, 2 * epoch - 2} | ({3, 4, 2 * epoch} if workers == 0 else set())
    for stop in sorted(stops):
        resumed = fit(data(), STEPS, resume=tmp_path / f"step={stop}.ckpt")
        assert_same(resumed, whole[stop:])


def test_a_resumed_run_can_be_resumed(corpora, tmp_path):
    whole = fit(data_of(corpora, True, 2), 20)
    batches = fit(data_of(corpora, True, 2), 3, tmp_path / "a")
    batches += fit(data_of(corpora, True, 2), 7, tmp_path / "b", resume=tmp_path / "a" / "step=3.ckpt")
    batches += fit(data_of(corpora, True, 2), 20, resume=tmp_path / "b" / "step=7.ckpt")
    assert_same(batches, whole)


def test_accumulated_batches_resume_too(corpora, tmp_path):
    whole = fit(data_of(corpora, False), 9, tmp_path, accumulate_grad_batches=2)
    assert len(data_of(corpora, False).train_dataloader()) == 9 and len(whole) == 17  # an odd epoch takes 5 steps
    for stop, batches in {3: 6, 4: 8, 5: 9, 6: 11}.items():
        resumed = fit(data_of(corpora, False), 9, resume=tmp_path / f"step={stop}.ckpt", accumulate_grad_batches=2)
        assert_same(resumed, whole[batches:])


def test_an_epoch_shows_each_block_once_and_the_next_in_another_order(corpora):
    epoch = len(data_of(corpora, False).train_dataloader())
    batches = fit(data_of(corpora, False), 2 * epoch)
    first, second = (
        [tuple(block.tolist()) for batch in part for block in batch] for part in (batches[:epoch], batches[epoch:])
    )
    assert len(set(first)) == len(first) == 8 * epoch
    assert first != second and len(set(first) & set(second)) >= 0.8 * len(first)


@pytest.mark.parametrize("mixed", [False, True], ids=["single", "mixed"])
def test_the_seed_decides_the_order(corpora, mixed):
    one, same, other = (fit(data_of(corpora, mixed, seed=seed), 3) for seed in (0, 0, 1))
    assert_same(one, same)
    assert not torch.equal(torch.cat(one), torch.cat(other))


def test_a_mixture_keeps_its_weights(corpora):
    loader = data_of(corpora, True, batch_size=1).train_dataloader()
    blocks = [batch["input_ids"][0].tolist() for batch in loader]
    large = sum(block.index(ord("\n")) == 2 * 7 for block in blocks)  # the line ends after the document's pairs
    assert abs(large / len(blocks) - 0.7) < 0.1


def test_a_moved_run_can_be_resumed(corpora, tmp_path):
    shutil.copytree(corpora["large"], tmp_path / "here")
    whole = fit(TokenDataModule(str(tmp_path / "here"), BLOCK, 8), 12, tmp_path / "checkpoints")
    (tmp_path / "here").rename(tmp_path / "there")
    resumed = fit(TokenDataModule(str(tmp_path / "there"), BLOCK, 8), 12, resume=tmp_path / "checkpoints/step=5.ckpt")
    assert_same(resumed, whole[5:])


def test_other_data_than_the_checkpoint_s_is_refused(corpora, tmp_path):
    fit(data_of(corpora, False), 3, tmp_path)
    for other in (TokenDataModule(corpora["small"], BLOCK, 8), data_of(corpora, True), data_of(corpora, False, seed=1)):
        with pytest.raises(UserError, match="belongs to other training data"):
            fit(other, 6, resume=tmp_path / "step=3.ckpt")


def test_a_position_of_an_earlier_version_is_refused(corpora):
    loader = data_of(corpora, False, seed=5).train_dataloader()
    earlier = {"dataset": {}, "current_epoch": 1, "batches_done": 3, "fingerprint": loader.state_dict()["fingerprint"]}
    with pytest.raises(UserError, match="saved by an earlier version of jetlit"):
        loader.load_state_dict(earlier)


@pytest.mark.parametrize("mixed", [False, True], ids=["single", "mixed"])
def test_another_batch_size_sees_the_rest_of_the_epoch_once(corpora, tmp_path, mixed):
    before = fit(data_of(corpora, mixed), 3, tmp_path)
    blocks = len(data_of(corpora, mixed).train_dataloader().dataset.order)
    for batch_size in (4, 6, 12, 24):  # 24 blocks are seen
        left = blocks // batch_size - 24 // batch_size
        after = fit(data_of(corpora, mixed, batch_size=batch_size), 3 + left, resume=tmp_path / "step=3.ckpt")
        seen = [tuple(block.tolist()) for batch in before + after for block in batch]
        assert len(set(seen)) == len(seen) == blocks // batch_size * batch_size
        undisturbed = fit(data_of(corpora, mixed, batch_size=batch_size), 24 // batch_size + left + 2)
        resumed = fit(data_of(corpora, mixed, batch_size=batch_size), 5 + left, resume=tmp_path / "step=3.ckpt")
        assert_same(resumed, undisturbed[24 // batch_size :])  # the next epoch too


def test_a_batch_size_that_does_not_meet_the_position_is_refused(corpora, tmp_path):
    fit(data_of(corpora, True), 3, tmp_path)
    for batch_size in (5, 7, 16):
        with pytest.raises(UserError, match=f"after 24 blocks of an epoch, where no step of {batch_size} blocks ends"):
            fit(data_of(corpora, True, batch_size=batch_size), 6, resume=tmp_path / "step=3.ckpt")


def test_any_batch_size_begins_the_next_epoch_where_one_has_ended(corpora, tmp_path):
    epoch = len(data_of(corpora, False).train_dataloader())
    fit(data_of(corpora, False), epoch, tmp_path)
    resumed = fit(data_of(corpora, False, batch_size=7), epoch + 3, resume=tmp_path / f"step={epoch}.ckpt")
    undisturbed = fit(
        data_of(corpora, False, batch_size=7), len(data_of(corpora, False, batch_size=7).train_dataloader()) + 3
    )
    assert_same(resumed, undisturbed[-3:])


def test_batches_accumulated_instead_of_loaded_together_resume_too(corpora, tmp_path):
    whole = fit(data_of(corpora, False), 12)
    fit(data_of(corpora, False), 3, tmp_path)
    halves = fit(data_of(corpora, False, batch_size=4), 9, resume=tmp_path / "step=3.ckpt", accumulate_grad_batches=2)
    rows = torch.cat([batch for batch in whole[3:9]])
    assert torch.equal(torch.cat(halves), rows)


def test_loading_a_position_leaves_the_saved_one_alone(corpora):
    loader = data_of(corpora, True).train_dataloader()
    iterator = iter(loader)
    next(iterator)
    state = copy.deepcopy(loader.state_dict())
    untouched = copy.deepcopy(state)
    other = data_of(corpora, True).train_dataloader()
    other.load_state_dict(state)
    next(iter(other))
    assert state == untouched


def test_checkpoints_hold_a_position_small_enough_to_ignore(corpora, tmp_path: Path):
    fit(data_of(corpora, True, 2), 2, tmp_path)
    assert (tmp_path / "step=2.ckpt").stat().st_size < 50_000
