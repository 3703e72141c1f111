"""Our models in lm-evaluation-harness (optional: pip install 'jetlit[eval]')."""

from collections.abc import Iterator
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from rich.progress import track
from transformers import PreTrainedTokenizerBase

from jetlit.generation import GenerationEngine
from jetlit.generation.sampling import Sampling
from jetlit.models import JetNemotronForCausalLM
from jetlit.tasks.batches import Row, make_batches
from jetlit.tasks.scoring import score_batch

_Request = tuple[tuple[str, str], list[int], list[int]]


class HarnessModel(TemplateLM):
    """Scores and generates for lm-evaluation-harness.

    Log-likelihoods are computed as for tasks, with logits at the continuation's tokens alone. `GenerationEngine`
    generates.

    Args:
        model: the model; it is set to evaluation mode.
        tokenizer: the model's.
        max_length: tokens of the longest row. Longer contexts lose their beginning.
        batch_tokens: tokens of a batch of log-likelihoods.
        batch_size: prompts generated together.
        max_new_tokens: tokens of the longest answer, unless the task says.
    """

    def __init__(
        self,
        model: JetNemotronForCausalLM,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int = 4096,
        batch_tokens: int = 16384,
        batch_size: int = 16,
        max_new_tokens: int = 256,
    ) -> None:
        super().__init__()
        self.model = model.eval()
        self.tokenizer = tokenizer  # type: ignore[assignment]
        self.max_length = max_length
        self.batch_tokens = batch_tokens
        self.batch_size = batch_size
        self.max_new_tokens = max_new_tokens
        self._device = model.lm_head.weight.device

    @property
    def tokenizer_name(self) -> str:
        """Name of the tokenizer, for the harness' records."""
        return self.tokenizer.name_or_path  # type: ignore[attr-defined]

    @property
    def eot_token_id(self) -> int:
        """The token that ends documents."""
        return int(self.tokenizer.eos_token_id)  # type: ignore[attr-defined]

    @property
    def prefix_token_id(self) -> int:
        """Token before an empty context: BOS, or EOS if the tokenizer adds no BOS."""
        begins = self.tok_encode("a", add_special_tokens=True)[0]
        return begins if begins == self.tokenizer.bos_token_id else self.eot_token_id  # type: ignore[attr-defined]

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Encode, with BOS if the tokenizer adds it (unless told otherwise), never with EOS."""
        ids = self.tokenizer(string, add_special_tokens=add_special_tokens is not False)["input_ids"]  # type: ignore[misc]
        return ids[:-1] if ids and ids[-1] == self.eot_token_id else ids

    def _loglikelihood_tokens(self, requests: list[_Request], **kwargs: Any) -> list[tuple[float, bool]]:
        rows = [self._row(number, context, continuation) for number, (_, context, continuation) in enumerate(requests)]
        found = self._score([row for row in rows if row.pieces[-1][0]])
        results = []
        for number, (texts, _, _) in enumerate(requests):
            results.append(found.get(number, (0.0, True)))  # an empty continuation is certain
            self.cache_hook.add_partial("loglikelihood", texts, results[-1])
        return results

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-probability of whole texts, in windows of `max_length` tokens that predict each token once."""
        rows: list[Row] = []
        owners: list[int] = []
        for owner, request in enumerate(requests):
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0], add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length - 1,
                context_len=1,
            )
            for context, continuation in map(make_disjoint_window, windows):
                rows.append(self._row(len(rows), context, continuation))
                owners.append(owner)
        totals = [0.0] * len(requests)
        for number, (logprob, _) in self._score(rows).items():
            totals[owners[number]] += logprob
        return totals

    def _row(self, number: int, context: list[int], continuation: list[int]) -> Row:
        continuation = continuation[-(self.max_length - 1) :]
        room = self.max_length - len(continuation)
        return Row([(context[-room:], False), (continuation, True)], number)

    @torch.inference_mode()
    def _score(self, rows: list[Row]) -> dict[int, tuple[float, bool]]:
        if not rows:
            return {}
        found: dict[int, tuple[float, bool]] = {}
        batches = make_batches(rows, self.batch_tokens)
        for batch in track([batch.to(self._device) for batch in batches], "Log-likelihoods", transient=True):
            logprob, greedy = score_batch(self.model, batch)
            found.update(zip(batch.group.tolist(), zip(logprob.tolist(), greedy.tolist())))
        return found

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Generate until a stop string, EOS or the longest answer. The stop string is left out."""
        answers = [""] * len(requests)
        batches = list(self._generation_batches(requests))
        for numbers, prompts, settings in track(batches, "Generating", transient=True):
            for number, answer in zip(numbers, self._generate(prompts, settings)):
                answers[number] = answer
                self.cache_hook.add_partial("generate_until", requests[number].args, answer)
        return answers

    def _generation_batches(self, requests: list[Any]) -> Iterator[tuple[list[int], torch.Tensor, dict[str, Any]]]:
        """Yield numbers of requests, their prompts [B, T] of equal length and their common settings."""
        groups: dict[tuple[int, str], list[tuple[int, list[int]]]] = {}
        for number, request in enumerate(requests):
            context, settings = request.args
            longest = self.max_length - normalize_gen_kwargs(settings, self.max_new_tokens)["max_gen_toks"]
            ids = (self.tok_encode(context) or [self.prefix_token_id])[-max(longest, 1) :]
            groups.setdefault((len(ids), repr(sorted(settings.items()))), []).append((number, ids))
        for _, members in sorted(groups.items()):
            settings = dict(normalize_gen_kwargs(requests[members[0][0]].args[1], self.max_new_tokens))
            for start in range(0, len(members), self.batch_size):
                part = members[start : start + self.batch_size]
                yield [number for number, _ in part], torch.tensor([ids for _, ids in part]), settings

    @torch.inference_mode()
    def _generate(self, prompts: torch.Tensor, settings: dict[str, Any]) -> list[str]:
        batch, length = prompts.shape
        limit = int(settings["max_gen_toks"])
        stops = [stop for stop in settings["until"] if stop]
        engine = GenerationEngine(self.model, batch, length + limit)
        sampling = Sampling(float(settings.get("temperature") or 0.0), float(settings.get("top_p", 1.0)), None)
        logits = engine.prefill(prompts.to(self._device))
        tokens: list[list[int]] = [[] for _ in range(batch)]
        texts, finished = [""] * batch, [False] * batch
        for step in range(limit):
            chosen = sampling.choose(logits)
            for number, token in enumerate(chosen.tolist()):
                if not finished[number]:
                    tokens[number].append(token)
                    texts[number] = str(self.tokenizer.decode(tokens[number], skip_special_tokens=True))  # type: ignore[attr-defined]
                    finished[number] = token == self.eot_token_id or any(stop in texts[number] for stop in stops)
            if all(finished) or step == limit - 1:
                break
            logits = engine.decode_step(chosen)
        return [min((text.partition(stop)[0] for stop in stops), key=len, default=text) for text in texts]
