import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jetlit_data import ByteTokenizer, check_vocabulary, load_tokenizer
from jetlit_data.encoding import encode_documents
from jetlit_data.tokenizer import vocabulary_size
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2Config

import jetlit  # noqa: F401 (registers the byte tokenizer)
from jetlit.errors import UserError

WORDS = {"<eos>": 0, "hello": 1, "world": 2}


@pytest.fixture
def word_tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel(WORDS, unk_token="<eos>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")


@settings(max_examples=200)
@given(st.text(st.characters(exclude_categories=())))
@example("a <eos> b<pad><0x41>")
@example("\ud800 alone, \r\n and 日本語 \U0001f600")
def test_decoding_gives_the_text_back(text):
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert ids == tokenizer.encode_array(text).tolist()
    assert all(0 <= index < 256 for index in ids)


def test_special_tokens_have_the_ids_after_the_bytes():
    tokenizer = ByteTokenizer()
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (256, 257, 258)
    assert len(tokenizer) == tokenizer.vocab_size == vocabulary_size(tokenizer) == 259
    assert tokenizer.decode([104, 105, 258], skip_special_tokens=True) == "hi"
    assert tokenizer.decode([104, 105, 258]) == "hi<eos>"


def test_bytes_that_are_no_text_decode_to_the_replacement_character():
    assert ByteTokenizer().decode([0x61, 0xC3, 0x62]) == "a\ufffdb"


def test_a_batch_is_padded_with_a_mask():
    batch = ByteTokenizer()(["abc", "d"], padding=True, return_tensors="np")
    assert batch["input_ids"].tolist() == [[97, 98, 99], [100, 256, 256]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_saves_and_loads_with_auto_tokenizer(tmp_path):
    ByteTokenizer().save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(loaded, ByteTokenizer)
    assert loaded.encode("é<eos>") == ByteTokenizer().encode("é<eos>")
    assert isinstance(load_tokenizer(str(tmp_path)), ByteTokenizer)


def test_documents_end_with_eos(word_tokenizer):
    assert [ids.tolist() for ids in encode_documents(word_tokenizer, ["hello world", "world"])] == [[1, 2, 0], [2, 0]]
    encoded = encode_documents(ByteTokenizer(), ["hi", ""])
    assert [ids.tolist() for ids in encoded] == [[104, 105, 258], [258]]
    assert all(ids.dtype == np.int32 for ids in encoded)


def test_a_missing_tokenizer_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="There is no tokenizer at ") as raised:
        load_tokenizer(str(tmp_path / "nothing"))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [None, "{}", "not JSON", '{"model": {"type": "BPE"}}'])
def test_a_folder_without_a_tokenizer_s_files_or_with_broken_ones_is_refused(tmp_path, content):
    Qwen2Config().save_pretrained(tmp_path)  # of which transformers makes a tokenizer of one token
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match="There is no tokenizer at "):
        load_tokenizer(tmp_path)


def test_a_tokenizer_without_eos_is_refused(tmp_path):
    backend = Tokenizer(models.WordLevel(WORDS, unk_token="hello"))
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no end-of-sequence token"):
        encode_documents(load_tokenizer(str(tmp_path)), ["hello"])


def test_a_vocabulary_larger_than_the_model_is_refused():
    check_vocabulary(ByteTokenizer(), 259)
    check_vocabulary(259, 300)
    with pytest.raises(UserError, match="259 tokens but the teacher has room for 258"):
        check_vocabulary(ByteTokenizer(), 258, "the teacher")
