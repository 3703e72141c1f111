import bz2
import gzip
import json
import lzma
import re
import sysconfig
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jetlit_data import CorpusSpec, prepare, read_corpus
from jetlit_data.sources import SOURCES, open_source

from jetlit.errors import UserError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "a.txt").write_text("plain text")
    (tmp_path / "deep" / "b.md").write_text("café", encoding="utf-8")
    (tmp_path / "deep" / "er" / "c.py").write_text("print('code')\n")
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    lines = [json.dumps({"text": "line one", "n": 1}), "", json.dumps({"text": "line two"})]
    (tmp_path / "d.jsonl").write_text("\n".join(lines))
    pq.write_table(pa.table({"text": ["row one", None, "row two"], "n": [1, 2, 3]}), tmp_path / "e.parquet")
    return tmp_path


def test_a_folder_gives_the_documents_of_every_kind_of_file(folder):
    source = open_source(str(folder), {})
    expected = ["plain text", "café", "print('code')\n", "line one", "line two", "row one", "row two"]
    assert sorted(source.documents(0)) == sorted(expected)
    assert source.size() == sum(f.stat().st_size for f in folder.rglob("*") if f.is_file() and f.suffix != ".png")


def test_the_seed_decides_the_order_of_files(tmp_path):
    for number in range(20):
        (tmp_path / f"{number}.txt").write_text(f"file {number}")
    orders = {seed: list(open_source(str(tmp_path), {}).documents(seed)) for seed in (0, 1)}
    assert orders[0] == list(open_source(str(tmp_path), {}).documents(0))
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1])


def test_a_single_file_is_a_source(folder):
    assert list(open_source(str(folder / "d.jsonl"), {}).documents(0)) == ["line one", "line two"]


def test_the_text_field_can_be_chosen(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"body": "hello"}\n')
    assert list(open_source(str(tmp_path), {"text_field": "body"}).documents(0)) == ["hello"]
    with pytest.raises(UserError, match='a.jsonl, line 1 has no text under "text"'):
        list(open_source(str(tmp_path), {}).documents(0))


def test_a_missing_column_is_named(folder):
    with pytest.raises(UserError, match='no column "body": set text_field to one of text, n'):
        list(open_source(str(folder / "e.parquet"), {"text_field": "body"}).documents(0))


def test_damaged_files_are_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n{"text": \n')
    with pytest.raises(UserError, match="a.jsonl, line 2 is not valid JSON"):
        list(open_source(str(tmp_path), {}).documents(0))
    (tmp_path / "b.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(UserError, match="b.parquet is not a Parquet file"):
        list(open_source(str(tmp_path / "b.parquet"), {}).documents(0))


def test_the_standard_library_is_there_without_its_tests():
    source = open_source("stdlib", {})
    root = sysconfig.get_path("stdlib")
    names = {str(path.relative_to(root)) for path in source.files}
    assert {"argparse.py", "json/decoder.py"} <= names
    assert not any(name.startswith("test/") or "site-packages" in name for name in names)
    assert source.size() > 5_000_000


def test_generated_sources_take_their_options():
    documents = open_source("recall", {"pairs": 3, "queries": 4}).documents(0)
    assert len(next(documents)) == 2 * 3 + 1 + 2 * 4


def test_the_source_of_the_guide_is_one_like_any_other(tmp_path, monkeypatch):
    guide = (Path(__file__).parents[2] / "data" / "README.md").read_text()
    monkeypatch.setattr(SOURCES, "_entries", dict(SOURCES._entries))
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", guide, re.DOTALL)[1]
    exec(compile(code, "README.md", "exec"), {"__name__": "guide"})
    info = read_corpus("runs/mine/data/numbers")
    assert info.source == "countdown" and sum(split.documents for split in info.splits.values()) == 500
    with pytest.raises(UserError, match='Source "countdown" has no option "name": it takes start'):
        open_source("countdown:x", {})


def test_a_hub_data_set_is_read_through_datasets(tmp_path):
    pytest.importorskip("datasets", reason="the optional library datasets is not installed")
    (tmp_path / "rows.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    source = open_source("hub:json", {"data_files": str(tmp_path / "rows.jsonl")})
    assert list(source.documents(0)) == ["one", "two"]
    options = {"data_files": str(tmp_path / "rows.jsonl"), "text_field": "body"}
    with pytest.raises(UserError, match='no text column "body"'):
        list(open_source("hub:json", options).documents(0))


TEXT = "Grüße, señor: text\nin two lines\n"


@pytest.mark.parametrize(
    ("data", "encoding", "expected"),
    [
        (TEXT.encode(), "utf-8", TEXT),
        (TEXT.encode("utf-8-sig"), "utf-8", TEXT),
        (TEXT.encode("utf-16"), "utf-8", TEXT),  # with a mark
        (TEXT.encode("utf-32"), "utf-8", TEXT),
        (TEXT.replace("\n", "\r\n").encode(), "utf-8", TEXT),
        (TEXT.encode("latin-1"), "latin-1", TEXT),
        (TEXT.encode("utf-16-le"), "utf-16-le", TEXT),
        (TEXT.encode("latin-1"), "utf-8", None),
        (TEXT.encode("utf-16-le"), "utf-8", None),
        ("plain".encode("utf-16-be"), "utf-8", None),  # valid UTF-8, with a NUL between the letters
        (bytes(range(256)), "utf-8", None),
        (b"\xff\xfea", "utf-8", None),  # a mark, and half a character
    ],
)
def test_encodings_are_detected_or_the_text_is_skipped_and_counted(tmp_path, data, encoding, expected):
    (tmp_path / "a.txt").write_bytes(data)
    source = open_source(str(tmp_path), {"encoding": encoding})
    assert list(source.documents(0)) == ([] if expected is None else [expected])
    assert source.skipped.counts == ({} if expected else {f"files that are not {encoding} text": 1})


@pytest.mark.parametrize(
    ("encoding", "written"),
    [("utf-8", "utf-8-sig"), ("utf-8", "utf-16"), ("utf-8", "utf-32"), ("latin-1", "latin-1"), ("utf-16-le",) * 2],
)
def test_lines_are_read_in_the_encoding_of_their_file(tmp_path, encoding, written):
    texts = ["Grüße", TEXT]
    lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    (tmp_path / "a.jsonl").write_bytes(lines.encode(written))
    assert list(open_source(str(tmp_path), {"encoding": encoding}).documents(0)) == texts


def test_lines_in_another_encoding_and_rows_without_a_text_are_skipped_and_counted(tmp_path):
    lines = [
        b'{"text": "one"}',
        '{"text": "é"}'.encode("latin-1"),
        b'{"text": null}',
        b'{"text": 3}',
        b'{"text": "two"}',
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    pq.write_table(pa.table({"text": ["three", None]}), tmp_path / "b.parquet")
    source = open_source(str(tmp_path), {})
    for _ in range(2):  # each pass counts anew
        assert sorted(source.documents(0)) == ["one", "three", "two"]
        assert source.skipped.counts == {"lines that are not utf-8 text": 1, "rows without a text": 3}
    assert source.skipped.first["lines that are not utf-8 text"].endswith("a.jsonl, line 2")


@pytest.mark.parametrize("ending", ["gz", "bz2", "xz", "zst", "lz4"])
def test_compressed_files_are_read(tmp_path, ending):
    contents = {"a.txt": b"plain", "b.jsonl": b'{"text": "a line"}\n{"text": "another"}\n'}
    for name, data in contents.items():
        with open_compressed(tmp_path / f"{name}.{ending}") as file:
            file.write(data)
    assert sorted(open_source(str(tmp_path), {}).documents(0)) == ["a line", "another", "plain"]
    whole = (tmp_path / f"a.txt.{ending}").read_bytes()
    (tmp_path / f"a.txt.{ending}").write_bytes(whole[:-3])
    with pytest.raises(UserError, match=f"a.txt.{ending} cannot be read"):
        list(open_source(str(tmp_path / f"a.txt.{ending}"), {}).documents(0))


def open_compressed(path):
    modules = {".gz": gzip, ".bz2": bz2, ".xz": lzma}
    return modules[path.suffix].open(path, "wb") if path.suffix in modules else pa.output_stream(str(path))


def test_linked_folders_are_followed_once_and_other_files_are_counted(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.txt").write_text("far")
    (tmp_path / "home" / "texts").mkdir(parents=True)
    (tmp_path / "home" / "texts" / "b.txt").write_text("near")
    (tmp_path / "home" / "texts" / "c.pdf").write_bytes(b"%PDF")
    (tmp_path / "home" / "texts" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "home" / "texts")  # a circle
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    source = open_source("~/texts", {})
    assert sorted(source.documents(0)) == ["far", "near"] and source.skipped.counts == {".pdf files": 1}


def test_what_is_left_out_is_said_and_kept(folder, tmp_path_factory, caplog):
    (folder / "deep" / "latin.txt").write_bytes("café".encode("latin-1"))
    for number in range(40):
        (folder / f"{number}.txt").write_text(f"document {number}")
    out = tmp_path_factory.mktemp("out")
    info = prepare(str(out), {"notes": CorpusSpec(str(folder))}, val_fraction=0.2, progress=False)["notes"]
    expected = {".png files": 1, "files that are not utf-8 text": 1, "rows without a text": 1}
    assert info.skipped == read_corpus(str(out / "notes")).skipped == expected
    assert 'Corpus "notes" leaves out' in caplog.text and "latin.txt" in caplog.text


@pytest.mark.parametrize("keep", [0, 3, 4, 20, 0.3, 0.6, 0.9, 0.99, -9, -4, -1])
def test_torn_parquet_is_one_sentence(tmp_path, keep):
    pq.write_table(pa.table({"text": [f"row {n} " * 20 for n in range(500)]}), tmp_path / "a.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(UserError, match=r"a.parquet is not a Parquet file, or damaged"):
        list(open_source(str(tmp_path), {}).documents(0))


@pytest.mark.parametrize("line", ['{"text": ' + "1" * 5000 + "}", "[" * 100_000, "NaN", "", '"text"', "\x00"])
def test_strange_lines_are_one_sentence_or_nothing(tmp_path, line):
    (tmp_path / "a.jsonl").write_text(line + "\n")
    try:
        assert list(open_source(str(tmp_path), {}).documents(0)) == []
    except UserError as error:
        assert "a.jsonl, line 1" in str(error)


def test_a_hub_out_of_reach_is_one_sentence(monkeypatch, tmp_path):
    datasets = pytest.importorskip("datasets", reason="the optional library datasets is not installed")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"^Data set nobody/nothing could not be read .* check the connection"):
        list(open_source("hub:nobody/nothing", {}).documents(0))


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("stdlib", {"encoding": "utf-8"}, 'no option "encoding"'),
        (".", {"encoding": "utf-99"}, 'no text encoding "utf-99"'),
        (".", {"encoding": 8}, "encoding takes str, not 8"),
        (".", {"text_field": None}, "text_field takes str, not None"),
        ("recall", {"pairs": 2.5}, "pairs takes int, not 2.5"),
        ("recall", {"style": ["words"]}, "style is .* but should be .letters. or .words."),
        ("debian", {"packages": "git-doc"}, "packages takes .*, not 'git-doc'"),
        ("/no/such/folder", {}, 'no source of text "/no/such/folder": use one of debian, folder, stdlib, recall, '),
        ("recall", {"pears": 3}, 'no option "pears": it takes pairs, queries, style'),
        ("stdlib", {"files": []}, 'no option "files"'),
        ("hub:x", {"splitt": "train"}, 'no option "splitt"'),
    ],
)
def test_wrong_sources_and_options_are_refused(source, options, message):
    with pytest.raises(UserError, match=message):
        open_source(source, options)


def test_a_source_that_cannot_be_read_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("text")
    source = open_source(str(tmp_path), {})
    monkeypatch.setattr(type(source), "documents", lambda self, seed: iter(Path("/no/such/file").read_text()))
    with pytest.raises(UserError, match=r"^Source .* could not be read .*No such file.*: check its path"):
        prepare(str(tmp_path / "out"), {"a": CorpusSpec(str(tmp_path))}, progress=False)


def test_a_folder_without_text_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no text"):
        open_source(str(tmp_path), {})
