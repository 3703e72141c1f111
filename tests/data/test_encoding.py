"""Text becomes tokens as text, with every kind of tokenizer."""

import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jetlit_data import encoding
from jetlit_data.encoding import encode_documents, leading_tokens, text_encoder, tokenizer_digest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, BertGenerationTokenizer, PreTrainedTokenizer, PreTrainedTokenizerFast

from jetlit.errors import UserError
from tests.data.tokenizers import KINDS, SPECIAL, TEXTS, tokenizer_of

ALL = ["bytes", *KINDS]
PIECES = [*SPECIAL, "<eos>", "<pad>", "<think>", " ", "\n", "a", "the ", "<", "</", ">", "é"]


def special_ids(tokenizer):
    return set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}


@pytest.mark.parametrize("kind", ALL)
@settings(max_examples=60)
@given(pieces=st.lists(st.sampled_from(PIECES)))
@example(pieces=SPECIAL)
@example(pieces=["a", " ", "</s>", " ", "</s>", "<filename>"])
def test_no_special_token_comes_of_a_text_that_spells_it(kind, pieces):
    tokenizer = tokenizer_of(kind)
    (ids,) = encode_documents(tokenizer, ["".join(pieces)])
    assert ids[-1] == tokenizer.eos_token_id and not special_ids(tokenizer) & set(ids[:-1].tolist())


def test_a_command_with_a_file_s_name_is_text_again_when_decoded():
    tokenizer = tokenizer_of("byte_level")
    text = "cp <filename> </s> <think>"
    (ids,) = text_encoder(tokenizer).encode([text])
    assert tokenizer.decode(ids) == text
    assert tokenizer.convert_tokens_to_ids("<think>") == ids[-1]  # no special token, so a word of the text


@pytest.mark.parametrize("kind", ALL)
@settings(max_examples=60)
@given(text=st.text(st.characters(exclude_categories=("Cs",))))
@example(text=TEXTS[1])
@example(text=" leading, two  spaces and\ttabs \n")
def test_text_that_spells_none_has_the_tokenizer_s_own_tokens(kind, text):
    tokenizer = tokenizer_of(kind)
    assert text_encoder(tokenizer).encode([text])[0].tolist() == tokenizer.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("kind", ALL)
def test_a_long_text_is_encoded_in_parts_to_the_same_tokens(kind, monkeypatch):
    text = ("".join(TEXTS[:3]) + "\n\n and so\non, " * 20) * 10
    whole = tokenizer_of(kind).encode(text, add_special_tokens=False)
    monkeypatch.setattr(encoding, "_PART", 100)
    monkeypatch.setattr(encoding, "_TOGETHER", 250)
    many = text_encoder(tokenizer_of(kind)).encode(["", text, "a", text])
    assert many[1].tolist() == many[3].tolist() == whole and not len(many[0])


def test_lone_surrogates_become_the_replacement_character():
    tokenizer = tokenizer_of("byte_level")
    (ids,) = text_encoder(tokenizer).encode(["a\ud800b \ud83d\ude00"])
    assert tokenizer.decode(ids) == "a\ufffdb \U0001f600"


@pytest.mark.parametrize("kind", ALL)
def test_bounds_count_the_tokens_before_them(kind):
    tokenizer, text = tokenizer_of(kind), "Answer: Paris is"
    encoder = text_encoder(tokenizer)
    ids, counts = encoder.encode_with_bounds(text, [0, 8, 13, len(text)])
    assert ids == encoder.encode([text])[0].tolist()
    assert counts[0] == (0, 0) and counts[-1] == (len(ids), len(ids))
    assert all(0 <= before <= begun <= len(ids) for before, begun in counts)
    if kind in ("bytes", "byte_level"):
        assert tokenizer.decode(ids[: counts[2][1]]) == "Answer: Paris"


class Syllables(PreTrainedTokenizer):
    """A tokenizer in Python: pairs of characters."""

    def __init__(self, **kwargs):
        self._names = ["</s>"]
        super().__init__(eos_token="</s>", **kwargs)

    @property
    def vocab_size(self):
        return len(self._names)

    def get_vocab(self):
        return {name: number for number, name in enumerate(self._names)}

    def _tokenize(self, text, **kwargs):
        return [text[start : start + 2] for start in range(0, len(text), 2)]

    def _convert_token_to_id(self, token):
        if token not in self._names:
            self._names.append(token)
        return self._names.index(token)

    def _convert_id_to_token(self, index):
        return self._names[index]


def test_tokenizers_in_python_split_special_tokens_too():
    tokenizer = Syllables()
    ids, counts = text_encoder(tokenizer).encode_with_bounds("ab</s>c", [0, 2, 3, 7])
    assert tokenizer.convert_ids_to_tokens(ids) == ["ab", "</", "s>", "c"]
    assert counts == [(0, 0), (1, 1), (1, 2), (4, 4)]
    assert encode_documents(tokenizer, ["</s>"])[0].tolist()[-1] == 0 and 0 not in ids


def test_sentencepiece_s_own_library_gives_no_special_token(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece", reason="the library sentencepiece is not installed")
    (tmp_path / "text").write_text("\n".join(TEXTS))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"),
        model_prefix=str(tmp_path / "m"),
        vocab_size=120,
        bos_id=1,
        eos_id=2,
        pad_id=0,
        unk_id=3,
    )
    tokenizer = BertGenerationTokenizer(str(tmp_path / "m.model"))
    (found,) = text_encoder(tokenizer).encode(["the </s> <s> <pad>"])
    assert not {0, 1, 2} & set(found.tolist())


def test_bos_leads_where_the_tokenizer_adds_it():
    assert leading_tokens(tokenizer_of("sentencepiece_bpe")) == [1]
    assert [leading_tokens(tokenizer_of(kind)) for kind in ("bytes", "byte_level", "unigram")] == [[], [], []]


def test_a_pattern_that_explodes_is_one_sentence():
    backend = Tokenizer(models.BPE({"a": 0, "b": 1, "</s>": 2}, []))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("(a+)+$"), "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    with pytest.raises(UserError, match=r"^The tokenizer .* fails on this text .*retry-limit.*correct the pattern"):
        encode_documents(tokenizer, ["a" * 40 + "b"])


@pytest.mark.parametrize("kind", ALL)
def test_a_copy_of_a_tokenizer_has_its_digest(kind, tmp_path):
    tokenizer_of(kind).save_pretrained(tmp_path)
    copy = AutoTokenizer.from_pretrained(tmp_path)
    copy.chat_template = "{{ messages }}"
    assert tokenizer_digest(copy) == tokenizer_digest(tokenizer_of(kind))


def test_another_tokenizer_has_another_digest(tmp_path):
    assert len({tokenizer_digest(tokenizer_of(kind)) for kind in ALL}) == len(ALL)
    tokenizer_of("byte_level").save_pretrained(tmp_path)
    state = json.loads((tmp_path / "tokenizer.json").read_text())
    state["model"]["merges"] = state["model"]["merges"][:-20]  # the same vocabulary, split otherwise
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    assert tokenizer_digest(AutoTokenizer.from_pretrained(tmp_path)) != tokenizer_digest(tokenizer_of("byte_level"))


@pytest.mark.attack
def test_a_line_of_20_million_characters_takes_less_than_a_gigabyte():
    import resource

    text = " ".join(TEXTS).replace("\n", " ")
    text = (text * (20_000_000 // len(text) + 1))[:20_000_000]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (ids,) = encode_documents(tokenizer_of("byte_level"), [text])
    assert ids.dtype == np.int32 and len(ids) > 2_000_000
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 10**9
