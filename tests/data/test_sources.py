import json
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


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
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
