import json
import shutil

import pytest
import torch
from jetlit_data import load_tokenizer
from lightning.pytorch import Trainer

from jetlit.datamodules import Corpus, TokenDataModule
from jetlit.errors import UserError
from tests.datamodules.conftest import BLOCK, Recorder
from tests.datamodules.test_resume import QUIET


def test_batches_are_int64_blocks(corpora):
    data = TokenDataModule(corpora["large"], block_size=BLOCK, batch_size=5)
    data.setup()
    batch = next(iter(data.train_dataloader()))
    assert set(batch) == {"input_ids"}
    assert batch["input_ids"].dtype == torch.int64 and batch["input_ids"].shape == (5, BLOCK)
    assert data.data_vocab_size == 259
    assert load_tokenizer(data.tokenizer_path).decode(batch["input_ids"][0]).endswith("<eos>")


def test_validation_takes_the_same_blocks_of_each_corpus_every_time(corpora):
    data = TokenDataModule(
        [Corpus(corpora["large"], 3), Corpus(corpora["small"], 1)], BLOCK, batch_size=2, val_batches=4
    )
    first, second = ([batch["input_ids"] for batch in data.val_dataloader()] for _ in range(2))
    assert torch.equal(torch.cat(first), torch.cat(second))
    blocks = torch.cat(first).tolist()
    pairs = [block.index(ord("\n")) // 2 for block in blocks]  # 7 in the large corpus, 5 in the small one
    assert pairs == [7] * 6 + [5] * 2
    train = [
        tuple(b.tolist())
        for batch in TokenDataModule(corpora["large"], BLOCK, 1).train_dataloader()
        for b in batch["input_ids"]
    ]
    assert not set(train) & {tuple(block) for block in blocks}


def test_validation_in_a_trainer_sees_val_batches(corpora):
    model = Recorder()
    Trainer(**QUIET, max_steps=2, val_check_interval=2, enable_checkpointing=False).fit(
        model, TokenDataModule(corpora["large"], BLOCK, 2, val_batches=3)
    )
    assert [len(batch) for batch in model.validated] == [2, 2, 2]


@pytest.mark.parametrize("mixed", [False, True], ids=["single", "mixed"])
def test_workers_deliver_the_same_batches(corpora, mixed):
    def batches(workers):
        data = [Corpus(corpora["large"], 2), Corpus(corpora["small"], 1)] if mixed else corpora["small"]
        loader = TokenDataModule(data, BLOCK, 2, num_workers=workers).train_dataloader()
        return torch.cat([batch["input_ids"] for batch in loader])

    assert torch.equal(batches(0), batches(1)) and torch.equal(batches(0), batches(2))


def test_a_finished_corpus_is_asked_for(tmp_path):
    with pytest.raises(UserError, match=r"is not a finished corpus .it has no corpus.json"):
        TokenDataModule(str(tmp_path), BLOCK, 2).setup()


def test_a_block_longer_than_a_chunk_is_refused(corpora):
    with pytest.raises(UserError, match=r"block of 1000 tokens is longer than the largest train chunk .*\(928\)"):
        TokenDataModule(corpora["large"], 1000, 2).setup()


def test_a_batch_larger_than_the_corpus_is_refused(corpora):
    with pytest.raises(UserError, match="one batch of all processes takes 128"):
        TokenDataModule(corpora["large"], BLOCK, 128, num_workers=2).train_dataloader()


def test_more_held_out_blocks_than_there_are_is_said(corpora):
    with pytest.warns(UserWarning, match=r"asks for 400 blocks of .*large, which has (\d+): it reads all of these"):
        loader = TokenDataModule(corpora["large"], BLOCK, 4, val_batches=100).val_dataloader()
    assert 5 < sum(batch["weight"] for batch in loader) < 15


def test_a_vocabulary_too_large_for_the_model_is_refused(corpora):
    TokenDataModule(corpora["large"], BLOCK, 2, vocab_size=259).setup()
    with pytest.raises(UserError, match="tokenizer has 259 tokens but the model has room for 200"):
        TokenDataModule(corpora["large"], BLOCK, 2, vocab_size=200).setup()


def test_corpora_of_different_tokenizers_are_refused(corpora, tmp_path):
    shutil.copytree(corpora["small"], tmp_path / "other")
    record = json.loads((tmp_path / "other" / "corpus.json").read_text())
    (tmp_path / "other" / "corpus.json").write_text(json.dumps({**record, "tokenizer_digest": "of another"}))
    with pytest.raises(UserError, match="different tokenizers"):
        TokenDataModule([Corpus(corpora["large"]), Corpus(str(tmp_path / "other"))], BLOCK, 2).setup()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"corpora": []}, "No corpus is named"),
        ({"corpora": [Corpus("a", -1.0)]}, "Corpus a has weight -1.0"),
        ({"corpora": [Corpus("a"), Corpus("b", 0.0)]}, "Corpus b has weight 0.0"),
        ({"corpora": [Corpus("a", float("nan"))]}, "Corpus a has weight nan"),
        ({"corpora": {"a": 0.5, "b": 1}}, r"write corpora: \[{path: a, weight: 0.5}, {path: b, weight: 1}\]"),
        ({"block_size": 0}, "block_size is 0"),
        ({"batch_size": -2}, "batch_size is -2"),
        ({"val_batches": 0}, "val_batches is 0"),
        ({"num_workers": -1}, "num_workers is -1"),
        ({"seed": 2**70}, "should be less than 4294967296"),
    ],
)
def test_wrong_arguments_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        TokenDataModule(**{"corpora": "somewhere", "block_size": 8, "batch_size": 2, **settings})


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_chunk_stops_training_with_one_sentence(corpora, tmp_path, workers):
    shutil.copytree(corpora["large"], tmp_path / "damaged")
    for chunk in (tmp_path / "damaged" / "train").glob("*.bin"):
        content = bytearray(chunk.read_bytes())
        content[len(content) // 2] ^= 0xFF
        chunk.write_bytes(content)
    data = TokenDataModule(str(tmp_path / "damaged"), BLOCK, 2, num_workers=workers)
    with pytest.raises(UserError) as raised:
        Trainer(**QUIET, max_steps=2, enable_checkpointing=False).fit(Recorder(), data)
    assert str(raised.value).startswith("Chunk ") and "\n" not in str(raised.value)
    assert "is damaged (its checksum differs from the index)" in str(raised.value)


def test_a_chunk_missing_at_the_start_is_named(corpora, tmp_path):
    shutil.copytree(corpora["large"], tmp_path / "missing")
    (tmp_path / "missing" / "train" / "chunk-0-1.bin").unlink()
    with pytest.raises(UserError, match="chunk-0-1.bin is missing"):
        TokenDataModule(str(tmp_path / "missing"), BLOCK, 2).setup()
