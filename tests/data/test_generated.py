import re
from itertools import islice

import pytest
from jetlit_data import Arithmetic, Recall, Repetition
from jetlit_data.encoding import encode_documents
from jetlit_data.generators import text_of
from jetlit_data.tokenizer import ByteTokenizer

from jetlit.errors import UserError


def first(generator, count=20, seed=0, purpose="train"):
    return list(islice(generator.documents(seed, purpose), count))


@pytest.mark.parametrize("generator", [Recall(), Recall(pairs=5, queries=7, style="words"), Repetition(), Arithmetic()])
def test_documents_depend_on_seed_and_purpose_only(generator):
    assert first(generator) == first(generator)
    assert not set(map(text_of, first(generator))) & set(map(text_of, first(generator, seed=1)))
    assert not set(map(text_of, first(generator))) & set(map(text_of, first(generator, purpose="task")))


def test_recall_answers_are_the_values_of_the_pairs():
    for spans in first(Recall(pairs=6, queries=13)):
        pairs, queries = text_of(spans).split("\n")
        values = dict(re.findall("(.)(.)", pairs))
        asked = re.findall("(.)(.)", queries)
        assert len(values) == 6 and len(asked) == 13
        assert all(values[key] == value for key, value in asked)
        assert {key for key, _ in asked[:6]} == {key for key, _ in asked[6:12]} == set(values)
        assert [span.text for span in spans if span.is_answer] == [value for _, value in asked]


def test_recall_in_words_reads_as_sentences():
    for spans in first(Recall(pairs=3, queries=4, style="words")):
        pairs, queries = text_of(spans).split("\nSo ")
        values = dict(sentence.split(" is ") for sentence in pairs.rstrip(".").split(". "))
        asked = [sentence.split(" is ") for sentence in queries.rstrip(".").split(". ")]
        assert len(values) == 3 and len(asked) == 4
        assert all(values[key] == value for key, value in asked)
        assert all(span.text.startswith(" ") for span in spans if span.is_answer)


def test_recall_fills_a_block_of_128_bytes():
    lengths = {len(ids) for ids in encode_documents(ByteTokenizer(), map(text_of, first(Recall())))}
    assert lengths == {128}


def test_recall_chance_is_one_value_in_all():
    assert Recall().chance == 1 / 26


def test_arithmetic_is_right():
    for spans in first(Arithmetic(largest=40)):
        for problem in text_of(spans).rstrip(";").split(";"):
            first_number, operation, second, result = re.fullmatch(r"(\d+)([+-])(\d+)=(\d+)", problem).groups()
            assert int(result) == int(first_number) + (1 if operation == "+" else -1) * int(second) >= 0


def test_arithmetic_tasks_hold_no_problem_of_training():
    def problems(purpose):
        return {p for spans in first(Arithmetic(), 300, purpose=purpose) for p in text_of(spans).split(";")[:-1]}

    train, task = problems("train"), problems("task")
    assert len(train) > 500 and len(task) > 80
    assert not train & task


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Recall(pairs=37), "takes 1 to 36 pairs"),
        (lambda: Recall(queries=0), "at least 1 query"),
        (lambda: Recall(style="runes"), "no style"),
        (lambda: Arithmetic(largest=2), "largest to be at least 9"),
        (lambda: Arithmetic(operations="*"), 'operations "\\+" and "-"'),
    ],
)
def test_wrong_settings_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_repetition_answers_repeat_the_first_round():
    for spans in first(Repetition(length=31, shortest=3, longest=9)):
        text, period = text_of(spans), spans[0].text
        assert len(text) == 31 and 3 <= len(period) <= 9
        assert all(symbol == period[index % len(period)] for index, symbol in enumerate(text))
        assert [span.is_answer for span in spans] == [False] + [True] * (31 - len(period))


def test_repetition_longer_than_half_a_document_is_refused():
    with pytest.raises(UserError, match="longest <= 15"):
        Repetition(length=31, longest=16)
