"""Every mode of transformers' `generate`: equal to the same mode computed another way, or one sentence."""

import threading

import pytest
import torch

pytest.importorskip("trl", reason="make test-clients installs it")
from jetlit_data import load_tokenizer
from transformers import TextIteratorStreamer, pipeline

from jetlit.errors import UserError
from tests.models.small import HYBRIDS, prompts, small_model

hybrids = pytest.mark.parametrize("layers", HYBRIDS.values(), ids=HYBRIDS)
GREEDY = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}


def byte_model(layers=("jet", "attn", "swa", "gla")):
    sizes = {"vocab_size": 259, "pad_token_id": 256, "bos_token_id": 257, "eos_token_id": 258}
    return small_model(list(layers), **sizes), load_tokenizer("bytes")


@hybrids
def test_greedy_is_the_best_token_of_the_whole_context_each_time(layers):
    model, ids = small_model(layers), prompts()
    expected = ids
    with torch.no_grad():
        for _ in range(12):
            expected = torch.cat([expected, model(expected).logits[:, -1:].argmax(-1)], 1)
    for how in ({}, {"cache_implementation": "static"}, {"use_cache": False}, {"prefill_chunk_size": 5}):
        assert torch.equal(model.generate(ids, **GREEDY, **how), expected), how


# Whatever reorders, repeats or scores sequences must do so with the cache as it does without.
MODES = {
    "sampling": {"do_sample": True, "top_p": 0.9, "temperature": 1.3},
    "minimal probability": {"do_sample": True, "min_p": 0.05},
    "several samples": {"do_sample": True, "num_return_sequences": 3},
    "beams": {"num_beams": 4},
    "several beams": {"num_beams": 4, "num_return_sequences": 3},
    "sampled beams": {"num_beams": 3, "do_sample": True},
    "penalties": {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
    "bad words": {"bad_words_ids": [[5], [6, 7]], "suppress_tokens": [8, 9]},
    "guidance": {"guidance_scale": 1.7},
    "an end": {"eos_token_id": list(range(20)), "min_new_tokens": 2},
}


@hybrids
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_a_mode_gives_with_a_cache_what_it_gives_without(layers, mode):
    model, ids = small_model(layers), prompts()

    def generate(**how):
        torch.manual_seed(7)
        return model.generate(ids, **(GREEDY | mode | how))

    assert torch.equal(generate(), generate(use_cache=False))


@hybrids
def test_scores_and_hidden_states_are_those_of_the_whole_context(layers):
    model, ids = small_model(layers), prompts()
    how = {"return_dict_in_generate": True, "output_logits": True, "output_hidden_states": True}
    output = model.generate(ids, **GREEDY, **how)
    with torch.no_grad():
        whole = model(output.sequences[:, :-1], output_hidden_states=True)
    torch.testing.assert_close(torch.stack(output.logits, 1), whole.logits[:, 16:], rtol=1e-4, atol=1e-4)
    last = torch.cat([states[-1][:, -1:] for states in output.hidden_states], 1)
    torch.testing.assert_close(last, whole.hidden_states[-1][:, 16:], rtol=1e-4, atol=1e-4)


@hybrids
def test_embeddings_may_take_the_place_of_tokens(layers):
    model, ids = small_model(layers), prompts()
    with torch.no_grad():
        embeddings = model.get_input_embeddings()(ids)
    assert torch.equal(model.generate(inputs_embeds=embeddings, **GREEDY), model.generate(ids, **GREEDY)[:, 17:])


def test_text_is_streamed_as_it_comes():
    model, tokenizer = byte_model()
    inputs = tokenizer("What is", return_tensors="pt")
    expected = tokenizer.decode(model.generate(**inputs, max_new_tokens=16, do_sample=False)[0, 7:])
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
    how = {"max_new_tokens": 16, "do_sample": False, "streamer": streamer}
    thread = threading.Thread(target=model.generate, kwargs={**inputs, **how})
    thread.start()
    pieces = list(streamer)
    thread.join()
    assert "".join(pieces) == expected and len(pieces) > 3


@pytest.mark.parametrize("layers", [["attn"], ["jet", "attn", "swa", "gla"]], ids=["attention", "mixed"])
def test_a_stop_string_ends_a_text(layers):
    model, tokenizer = byte_model(layers)
    inputs = tokenizer("What is", return_tensors="pt")
    torch.manual_seed(3)
    whole = model.generate(**inputs, max_new_tokens=40, do_sample=True)
    text = tokenizer.decode(whole[0, 7:])
    plain = [n for n, letter in enumerate(text) if letter.isascii() and letter.isprintable()]
    stop = text[plain[3]]
    torch.manual_seed(3)
    stopped = model.generate(**inputs, max_new_tokens=40, do_sample=True, stop_strings=stop, tokenizer=tokenizer)
    assert tokenizer.decode(stopped[0, 7:]) == text[: text.index(stop) + 1]


def test_the_text_generation_pipeline_pads_and_batches():
    model, tokenizer = byte_model()
    tokenizer.padding_side = "left"
    pipe = pipeline("text-generation", model=model, tokenizer=tokenizer)
    texts = ["Hello", "A longer prompt than that"]
    how = {"max_new_tokens": 8, "do_sample": False, "return_full_text": False}
    together = pipe(texts, batch_size=2, **how)
    assert [row[0] for row in together] == [pipe(text, **how)[0] for text in texts]


@pytest.mark.parametrize(
    ("layers", "how"),
    [(layers, how) for layers in (["attn"] * 3, HYBRIDS["hybrid"]) for how in ("assistant", "prompt lookup")],
)
def test_assisted_generation_equals_greedy_or_is_refused(layers, how):
    model, ids = small_model(layers), prompts(1)
    assistant = small_model(["attn"] * 2, seed=5)
    mode = {"assistant_model": assistant} if how == "assistant" else {"prompt_lookup_num_tokens": 3}
    if layers == ["attn"] * 3:
        assert torch.equal(model.generate(ids, **GREEDY, **mode), model.generate(ids, **GREEDY))
    else:
        with pytest.raises(ValueError, match="stateful"):
            model.generate(ids, **GREEDY, **mode)


@pytest.mark.parametrize("kind", ["offloaded", "offloaded_static", "quantized"])
def test_caches_that_do_not_know_the_layers_are_refused(kind):
    with pytest.raises(UserError, match='use "dynamic" or "static"'):
        small_model(HYBRIDS["hybrid"]).generate(prompts(), cache_implementation=kind, **GREEDY)


@pytest.mark.parametrize(
    "mode", [{"penalty_alpha": 0.6, "top_k": 4}, {"dola_layers": "low"}], ids=["contrastive", "dola"]
)
def test_modes_that_transformers_moved_to_the_hub_say_so(mode):
    with pytest.raises(ValueError, match="custom_generate|trust_remote_code"):
        small_model(["jet", "attn"]).generate(prompts(), **GREEDY, **mode)
