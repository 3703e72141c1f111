"""`jetlit generate`."""

import sys
import time
from dataclasses import dataclass

import torch
from jetlit_data import load_tokenizer

from jetlit.errors import UserError
from jetlit.generation import GenerationEngine, Sampling, seeded
from jetlit.models import load_model
from jetlit.values import Device, Dtype, Fraction, NonNegativeFloat, NonNegativeInt, Seed


@dataclass
class GenerateConfig:
    """Continue a prompt: print the text as it comes, then prefill and decode tokens/s.

    Attributes:
        prompt: the text to continue; "-" reads standard input.
        model: folder of the model.
        max_new_tokens: largest number of tokens to add.
        temperature: 0 takes the most likely token.
        top_p: nucleus sampling: the most likely tokens of this probability together.
        device: "auto", "cpu" or "cuda".
        dtype: "float32", "bfloat16" or "float16"; by default the checkpoint's.
        seed: seed of sampling.
    """

    prompt: str
    model: str = "runs/quickstart/export"
    max_new_tokens: NonNegativeInt = 128
    temperature: NonNegativeFloat = 0.0
    top_p: Fraction = 1.0
    device: Device = "auto"
    dtype: Dtype | None = None
    seed: Seed = 0


def generate(config: GenerateConfig) -> None:
    """Continue a prompt; print the text and the speed.

    Raises:
        UserError: the prompt is empty, or a value makes no sense; nothing is printed.
    """
    Sampling(config.temperature, config.top_p)  # checks them before anything is loaded
    model = load_model(config.model, config.dtype, config.device)
    tokenizer = load_tokenizer(config.model)
    text = sys.stdin.read() if config.prompt == "-" else config.prompt
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
    if ids.shape[1] == 0:
        raise UserError("The prompt is empty: give at least one character.")
    engine = GenerationEngine(model, 1, ids.shape[1] + config.max_new_tokens)
    device = model.lm_head.weight.device
    stream = _TextStream(tokenizer, text, ids[0].tolist())
    engine.generate(
        ids.to(device),
        config.max_new_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        stop_tokens=() if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,),
        stream=stream,
        generator=seeded(config.seed, device),
    )
    print(stream.report(ids.shape[1]))


class _TextStream:
    """Print tokens as text once they make whole characters, and keep the time."""

    def __init__(self, tokenizer, text: str, prompt: list[int]) -> None:  # type: ignore[no-untyped-def]
        self._tokenizer, self._text = tokenizer, text
        self._tokens = list(prompt)
        self._shown = len(tokenizer.decode(prompt))
        self._begun = time.perf_counter()
        self._times: list[float] = []

    def __call__(self, tokens: torch.Tensor) -> None:
        if not self._times:  # not before the model has taken the prompt
            sys.stdout.write(self._text)
        self._tokens.append(int(tokens[0]))
        self._times.append(time.perf_counter())
        text = self._tokenizer.decode(self._tokens, skip_special_tokens=True)
        # A character of several bytes shows as "�" until its last token is there.
        if not text.endswith("\ufffd"):
            sys.stdout.write(text[self._shown :])
            sys.stdout.flush()
            self._shown = len(text)

    def report(self, prompt: int) -> str:
        """Return prefill and decode speed, below the text."""
        if not self._times:
            return f"{self._text}\n\nNo token was generated."
        first = self._times[0] - self._begun
        line = f"\n\n{len(self._times)} tokens; prefill {prompt / first:,.0f} tokens/s"
        if len(self._times) > 1:
            decode = (len(self._times) - 1) / (self._times[-1] - self._times[0])
            line += f", decode {decode:,.0f} tokens/s"
        return line
