import pytest
from jetlit_data import CorpusSpec, prepare
from jetlit_data.overlap import SeenParagraphs

from jetlit.errors import UserError
from tests.data.test_prepare import prepared_texts, write_folder


def paragraph(word):
    return f"{word} stands here, " * 5 + "and so the paragraph ends."


def document(*words):
    return "\n\n".join(map(paragraph, words))


def test_a_document_is_new_until_too_much_of_it_was_seen():
    seen = SeenParagraphs(0.4)
    assert seen.admit(document("apple", "pear", "plum"))
    assert not seen.admit(document("apple", "pear", "grape"))
    assert seen.admit(document("apple", "fig", "grape"))  # the refused document left nothing behind
    assert not seen.admit(document("apple", "pear", "plum"))


def test_layout_case_and_marks_do_not_hide_a_copy():
    seen = SeenParagraphs(0.0)
    assert seen.admit(paragraph("apple"))
    assert not seen.admit("**" + paragraph("apple").upper().replace(", ", ",\n  ") + "**")


def test_short_paragraphs_do_not_count():
    seen = SeenParagraphs(0.0)
    assert seen.admit("Parameters\n\n" + paragraph("apple")) and seen.admit("Parameters\n\n" + paragraph("pear"))


def test_corpora_of_one_preparation_share_no_near_duplicates(tmp_path):
    first = [document(f"a{n}", f"b{n}", f"c{n}") for n in range(40)]
    copies = [document(f"a{n}", f"b{n}", f"other{n}") for n in range(40)]
    new = [document(f"d{n}", f"e{n}", f"f{n}") for n in range(40)]
    corpora = {
        "one": CorpusSpec(write_folder(tmp_path / "one", first)),
        "two": CorpusSpec(write_folder(tmp_path / "two", copies + new)),
    }
    settings = {"val_fraction": 0.3, "chunk_tokens": 1000, "near_duplicates": 0.3, "progress": False}
    infos = prepare(str(tmp_path / "out"), corpora, **settings)
    assert infos["one"].near_duplicates == 0 and infos["two"].near_duplicates == 40
    found = [text for split in ("train", "val") for text in prepared_texts(tmp_path / "out" / "two", split)]
    assert sorted(found) == sorted(new)


def test_a_share_is_asked_for(tmp_path):
    corpora = {"one": CorpusSpec(write_folder(tmp_path / "one", ["text"]))}
    with pytest.raises(UserError, match=r"near_duplicates is 1\.5: give a share"):
        prepare(str(tmp_path / "out"), corpora, near_duplicates=1.5)
