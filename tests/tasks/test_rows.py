"""Rows of tasks hold the tokens of their joined text, as corpora do."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jetlit_data.encoding import encode_documents, leading_tokens
from jetlit_data.generators import Recall, text_of

from jetlit.errors import UserError
from jetlit.tasks import build_task, encode_row, make_batches
from tests.data.tokenizers import KINDS, SPECIAL, TEXTS, tokenizer_of

ALL = ["bytes", *KINDS]
texts = st.lists(st.sampled_from([*"aM. \n:é1", " Paris", "the ", *SPECIAL]), min_size=1, max_size=6).map("".join)


def ids_of(row):
    return [token for ids, _ in row.pieces for token in ids]


def answers_of(tokenizer, row):
    return [tokenizer.convert_ids_to_tokens(ids) for ids, is_answer in row.pieces if is_answer]


@pytest.mark.parametrize("kind", ALL)
@settings(max_examples=60)
@given(spans=st.lists(st.tuples(texts, st.booleans()), min_size=1, max_size=6))
@example(spans=[("u", False), ("M", True), (" ", False), ("x", False), ("K", True)])
@example(spans=[("Answer: ", False), ("Paris", True), (", and", False)])
@example(spans=[("the ", False), ("</s>", True)])
def test_a_row_has_the_tokens_of_the_joined_text(kind, spans):
    tokenizer = tokenizer_of(kind)
    row = encode_row(tokenizer, spans, 0)
    (document,) = encode_documents(tokenizer, ["".join(text for text, _ in spans)])
    assert ids_of(row) == leading_tokens(tokenizer) + document[:-1].tolist()
    assert [is_answer for _, is_answer in row.pieces].count(True) == sum(is_answer for _, is_answer in spans)


def test_a_space_before_an_answer_is_part_of_its_token():
    tokenizer = tokenizer_of("byte_level")
    for prompt, answer in (("Answer: ", "Paris"), ("Answer:", " Paris")):
        (tokens,) = answers_of(tokenizer, encode_row(tokenizer, [(prompt, False), (answer, True)], 0))
        assert tokens[0].startswith("Ġ") and tokenizer.convert_tokens_to_string(tokens) == " Paris"


def test_keys_and_values_are_the_tokens_of_the_corpus_with_sentencepiece():
    tokenizer = tokenizer_of("sentencepiece_bpe")
    row = encode_row(tokenizer, [("a", False), ("1", True), (" é", False), (" 日", True)], 0)
    assert answers_of(tokenizer, row)[0] == ["1"]  # not "▁1", as a text of its own begins
    assert tokenizer.decode(ids_of(row), skip_special_tokens=True) == "a1 é 日"


@pytest.mark.parametrize("kind", ALL)
def test_recall_asks_in_the_tokens_of_its_documents(kind):
    tokenizer = tokenizer_of(kind)
    settings = {"pairs": 5, "queries": 7, "style": "words"}
    task = build_task({"kind": "recall", "documents": 3, **settings}, tokenizer)
    documents = [text_of(spans) for spans, _ in zip(Recall(**settings).documents(0, "task"), range(3))]
    expected = [leading_tokens(tokenizer) + ids[:-1].tolist() for ids in encode_documents(tokenizer, documents)]
    found = [row[: len(ids)].tolist() for batch in task.batches for row in batch.input_ids for ids in expected]
    assert all(ids in found for ids in expected)
    assert sum(len(batch.group) for batch in task.batches) == 3 * 7


@pytest.mark.parametrize("kind", ALL)
def test_questions_of_a_file_are_joined_before_they_are_encoded(kind, tmp_path):
    tokenizer = tokenizer_of(kind)
    record = {"prompt": TEXTS[0], "choices": ["Paris", "the Seine", "</s>"], "answer": 1}
    (tmp_path / "q.jsonl").write_text(json.dumps(record) + "\n")
    task = build_task({"kind": "multiple_choice", "path": str(tmp_path / "q.jsonl")}, tokenizer)
    joined = encode_documents(tokenizer, [f"{TEXTS[0]} {choice}" for choice in record["choices"]])
    expected = sorted(leading_tokens(tokenizer) + ids[:-1].tolist() for ids in joined)
    lengths = {tuple(ids): len(ids) for ids in expected}
    found = [tuple(row[:length].tolist()) for b in task.batches for row in b.input_ids for length in lengths.values()]
    assert set(lengths) <= set(found)


def test_an_empty_answer_is_refused_and_an_empty_prompt_needs_bos():
    with pytest.raises(UserError, match="empty prompt or answer"):
        make_batches([encode_row(tokenizer_of("byte_level"), [("the", False), ("", True)], 0)])
    with pytest.raises(UserError, match="empty prompt or answer"):
        make_batches([encode_row(tokenizer_of("byte_level"), [("", False), ("the", True)], 0)])
    make_batches([encode_row(tokenizer_of("sentencepiece_bpe"), [("", False), ("the", True)], 0)])
