import errno
import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
from jetlit_data import ByteTokenizer, CorpusSpec, load_tokenizer, prepare, read_corpus
from jetlit_data.chunks import ChunkWriter
from jetlit_data.corpus import check_tokens, sha256_of
from jetlit_data.reading import open_split

from jetlit.errors import UserError
from tests.data.tokenizers import tokenizer_of


def documents(count, start=0):
    return [f"document {number}: " + "x" * (number % 7) for number in range(start, start + count)]


def write_folder(path, texts):
    path.mkdir(exist_ok=True)
    (path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def prepared_texts(corpus, split):
    """Return the documents of a split, read back through litdata, token by token."""
    content = read_corpus(str(corpus)).splits[split]
    tokens = [int(block["input_ids"]) for block in open_split(str(corpus), split, 1, shuffle=False)]
    assert len(tokens) == content.tokens and tokens[-1] == 258
    texts = bytes(token if token < 256 else 0 for token in tokens).decode().split("\0")[:-1]
    assert len(texts) == content.documents
    return texts


@pytest.fixture
def make(tmp_path):
    def run(texts, name="corpus", **settings):
        source = write_folder(tmp_path / "source", texts)
        settings = {"val_fraction": 0.2, "chunk_tokens": 100, "progress": False, **settings}
        prepare(str(tmp_path / "out"), {name: CorpusSpec(source)}, **settings)
        return tmp_path / "out" / name

    return run


def test_every_document_comes_back_whole_and_once(make):
    texts = documents(60)
    corpus = make(texts)
    train, val = prepared_texts(corpus, "train"), prepared_texts(corpus, "val")
    assert sorted(train + val) == sorted(texts)
    assert 4 <= len(val) <= 20


def test_chunks_are_full_but_the_last(make):
    chunks = read_corpus(str(make(documents(60)))).splits["train"].chunks
    assert len(chunks) > 3
    assert {chunk.tokens for chunk in chunks[:-1]} == {100} and 0 < chunks[-1].tokens <= 100


def test_copies_are_dropped_and_counted(make):
    corpus = make([*documents(30), *documents(30), "", "  \n"])
    assert sorted(prepared_texts(corpus, "train") + prepared_texts(corpus, "val")) == sorted(documents(30))
    assert read_corpus(str(corpus)).duplicates == 30


def test_the_split_does_not_move_with_order_or_company(make):
    texts = documents(60)
    val = set(prepared_texts(make(texts), "val"))
    other = make([*documents(40, start=100), *reversed(texts)])
    assert set(prepared_texts(other, "val")) & set(texts) == val


def test_the_same_call_writes_the_same_bytes(make):
    def checksums(corpus):
        return {str(f.relative_to(corpus)): sha256_of(f) for f in corpus.rglob("*") if f.is_file()}

    first = checksums(make(documents(40)))
    assert checksums(make(documents(40), name="again")).keys() == first.keys()
    assert checksums(make(documents(40))) == first


def test_corpus_json_has_the_checksum_of_every_chunk(make):
    corpus = make(documents(40))
    for split, content in read_corpus(str(corpus)).splits.items():
        assert {chunk.filename for chunk in content.chunks} == {f.name for f in (corpus / split).glob("*.bin")}
        assert all(sha256_of(corpus / split / chunk.filename) == chunk.sha256 for chunk in content.chunks)


def test_max_tokens_is_kept_and_the_cut_document_ends_with_eos(tmp_path):
    spec = CorpusSpec("recall", max_tokens=128 * 9 + 50)
    info = prepare(str(tmp_path), {"recall": spec}, val_fraction=0.3, progress=False)["recall"]
    assert sum(split.tokens for split in info.splits.values()) == 128 * 9 + 50
    for split in info.splits:
        assert int(list(open_split(str(tmp_path / "recall"), split, 1, shuffle=False))[-1]["input_ids"]) == 258


def test_several_corpora_in_one_call(tmp_path):
    corpora = {"stdlib": CorpusSpec("stdlib", 300_000), "sums": CorpusSpec("arithmetic", 5_000, {"largest": 12})}
    infos = prepare(str(tmp_path), corpora, val_fraction=0.3, progress=False)
    assert set(infos) == {"stdlib", "sums"}
    assert read_corpus(str(tmp_path / "sums")) == infos["sums"]
    assert infos["sums"].options == {"largest": 12} and infos["sums"].dtype == "uint16"
    assert (tmp_path / "stdlib" / "tokenizer" / "tokenizer_config.json").is_file()


def test_tokens_beyond_16_bits_are_stored_as_int32(tmp_path):
    writer = ChunkWriter(tmp_path / "split", 4, np.dtype("int32"))
    writer.add(np.array([70_000, 1, 2, 3, 100_000], dtype=np.int32))
    writer.close()
    tokens = [block["input_ids"].tolist() for block in open_split(str(tmp_path), "split", 1, shuffle=False)]
    assert tokens == [[70_000], [1], [2], [3], [100_000]]


def test_a_corpus_is_replaced_whole(make):
    make(documents(20))
    corpus = make(documents(20, start=50))
    assert sorted(prepared_texts(corpus, "train") + prepared_texts(corpus, "val")) == sorted(documents(20, start=50))
    assert [entry.name for entry in corpus.parent.iterdir()] == ["corpus"]


def test_a_failed_preparation_leaves_the_old_corpus_and_nothing_else(make):
    corpus = make(documents(20))
    before = read_corpus(str(corpus))
    with pytest.raises(UserError, match="split of corpus .* is empty"):
        make(["only one"])
    assert read_corpus(str(corpus)) == before
    assert [entry.name for entry in corpus.parent.iterdir()] == ["corpus"]


def test_a_folder_that_is_no_corpus_is_not_touched(make, tmp_path):
    precious = tmp_path / "out" / "corpus" / "thesis.tex"
    precious.parent.mkdir(parents=True)
    precious.write_text("years of work")
    with pytest.raises(UserError, match="holds something that is not a corpus"):
        make(documents(20))
    assert precious.read_text() == "years of work"


def test_killed_at_any_moment_it_never_looks_finished(tmp_path):
    source = write_folder(tmp_path / "source", [f"{number} " + "text " * 200 for number in range(20_000)])
    settings = {"chunk_tokens": 10_000, "progress": False}
    process = multiprocessing.get_context("fork").Process(
        target=prepare, args=(str(tmp_path / "out"), {"c": CorpusSpec(source)}), kwargs=settings
    )
    process.start()
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list((tmp_path / "out").glob(".c.*/written/train/chunk-0-3.bin")):
        assert process.is_alive(), "it ended before it could be killed"
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with pytest.raises(UserError, match="not a finished corpus"):
        read_corpus(str(tmp_path / "out" / "c"))
    assert not list((tmp_path / "out").rglob("corpus.json"))


def test_a_full_disk_is_one_sentence_and_leaves_nothing(make, tmp_path, monkeypatch):
    add = ChunkWriter.add

    def full(self, tokens):
        add(self, tokens)
        if self.documents == 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(ChunkWriter, "add", full)
    with pytest.raises(
        UserError, match=r"^Could not write .*No space left on device.*: free some space or choose another folder\.$"
    ):
        make(documents(60))
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"val_fraction": 0.0}, "val_fraction is 0.0"),
        ({"val_fraction": 1.5}, "val_fraction is 1.5"),
        ({"chunk_tokens": 0}, "chunk_tokens is 0"),
        ({"name": "../up"}, "is no name for a corpus"),
        ({"name": ".hidden"}, "is no name for a corpus"),
        ({"tokenizer": "/no/such/tokenizer"}, "There is no tokenizer at /no/such/tokenizer"),
    ],
)
def test_wrong_settings_are_refused(make, settings, message):
    with pytest.raises(UserError, match=message):
        make(documents(20), **settings)


@pytest.mark.parametrize(
    ("corpora", "message"),
    [
        ({}, "No corpus is named"),
        ({"r": CorpusSpec("recall")}, "give it max_tokens"),
        ({"r": CorpusSpec("recall", max_tokens=0)}, "max_tokens 0"),
    ],
)
def test_wrong_corpora_are_refused(tmp_path, corpora, message):
    with pytest.raises(UserError, match=message):
        prepare(str(tmp_path), corpora, progress=False)


def test_reading_notices_what_is_missing_or_damaged(make):
    corpus = make(documents(40))
    chunk = corpus / "train" / "chunk-0-1.bin"
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:-3])
    with pytest.raises(UserError, match=f"chunk-0-1.bin is damaged .{len(whole) - 3} bytes instead of {len(whole)}"):
        read_corpus(str(corpus))
    chunk.unlink()
    with pytest.raises(UserError, match="chunk-0-1.bin is missing"):
        read_corpus(str(corpus))
    chunk.write_bytes(whole)
    index = corpus / "train" / "index.json"
    index.write_text(index.read_text().replace("100", "101"))
    with pytest.raises(UserError, match=r"index.json is missing or damaged"):
        read_corpus(str(corpus))


def test_wrong_bytes_in_a_chunk_are_noticed_before_they_are_used(make):
    corpus = make(documents(40))
    chunk = corpus / "train" / "chunk-0-1.bin"
    damaged = bytearray(chunk.read_bytes())
    damaged[-1] ^= 1
    chunk.write_bytes(damaged)
    read_corpus(str(corpus))  # the size is right
    blocks = open_split(str(corpus), "train", 10, shuffle=False)
    assert len(blocks[0]["input_ids"]) == 10
    with pytest.raises(UserError, match="chunk-0-1.bin is damaged .its checksum differs"):
        blocks[10]


def test_a_corpus_of_another_version_is_refused(make):
    corpus = make(documents(40))
    record = json.loads((corpus / "corpus.json").read_text())
    (corpus / "corpus.json").write_text(json.dumps({**record, "format": 99}))
    with pytest.raises(UserError, match="not written by this version"):
        read_corpus(str(corpus))


def test_the_tokenizer_of_the_corpus_is_the_one_it_was_made_with(make):
    from transformers import AutoTokenizer

    assert isinstance(AutoTokenizer.from_pretrained(make(documents(40)) / "tokenizer"), ByteTokenizer)


def test_a_corpus_knows_its_tokenizer_by_content(make, tmp_path):
    path = str(make(documents(40)))
    info = read_corpus(path)
    load_tokenizer("bytes").save_pretrained(tmp_path / "teacher")
    check_tokens(path, info, tmp_path / "teacher")
    check_tokens(path, info, tmp_path / "nothing")  # no tokenizer, nothing to compare
    tokenizer_of("byte_level").save_pretrained(tmp_path / "other")
    for known in (info, replace(info, tokenizer_digest=None)):  # a corpus of version 0.1 has its folder
        with pytest.raises(UserError, match=r"in the tokens of another tokenizer \(bytes\) than that of .*/other"):
            check_tokens(path, known, tmp_path / "other")


@pytest.mark.parametrize("name", ["../chunk.bin", "/tmp/chunk.bin", "a/b.bin", "..", "", ".", "a\\b", 3, None])
def test_names_that_lead_out_of_a_corpus_are_refused(make, name):
    corpus = make(documents(40))
    record = json.loads((corpus / "corpus.json").read_text())
    record["splits"]["train"]["chunks"][0]["filename"] = name
    (corpus / "corpus.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="which no corpus holds"):
        read_corpus(str(corpus))
    index = json.loads((corpus / "train" / "index.json").read_text())
    index["chunks"][0]["filename"] = name
    (corpus / "train" / "index.json").write_text(json.dumps(index))
    if isinstance(name, str):  # litdata itself reads the ending of each name before that
        with pytest.raises(UserError, match="which no corpus holds"):
            open_split(str(corpus), "train", 10, shuffle=False)[0]


def test_a_split_that_leads_out_of_a_corpus_is_refused(make):
    corpus = make(documents(40))
    record = json.loads((corpus / "corpus.json").read_text())
    record["splits"]["../train"] = record["splits"]["train"]
    (corpus / "corpus.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="'../train', which no corpus holds"):
        read_corpus(str(corpus))
