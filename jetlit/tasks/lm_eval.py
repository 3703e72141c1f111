"""Our models in lm-evaluation-harness (optional: pip install 'jetlit[eval]')."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from jetlit_data.encoding import leading_tokens, text_encoder
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import Collator, normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from rich.progress import track
from transformers import PreTrainedTokenizerBase

from jetlit.errors import UserError
from jetlit.generation import GenerationEngine
from jetlit.generation.sampling import Sampling
from jetlit.models import JetNemotronForCausalLM
from jetlit.tasks.batches import Row, make_batches, score_batch

logger = logging.getLogger(__name__)


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
    """

    def __init__(
        self,
        model: JetNemotronForCausalLM,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int = 4096,
        batch_tokens: int = 16384,
        batch_size: int = 16,
    ) -> None:
        super().__init__()
        self.model = model.eval()
        self.tokenizer: Any = tokenizer
        self.max_length = max_length
        self.batch_tokens = batch_tokens
        self.batch_size = batch_size
        self._device = model.lm_head.weight.device
        self._leading = [token for token in leading_tokens(tokenizer) if token == tokenizer.bos_token_id]

    @property
    def eot_token_id(self) -> int:
        """The token that ends documents."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """Token before an empty context: BOS, or EOS if the tokenizer adds no BOS."""
        return next(iter(self._leading), self.eot_token_id)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Encode as text, with BOS in front if the tokenizer adds it (unless told otherwise), never with EOS."""
        (ids,) = text_encoder(self.tokenizer).encode([string])
        return ([] if add_special_tokens is False else self._leading) + ids.tolist()

    def _loglikelihood_tokens(self, requests: list[Any], **kwargs: Any) -> list[tuple[float, bool]]:
        results = self._score([(context, continuation) for _, context, continuation in requests])
        for (texts, _, _), result in zip(requests, results):
            self.cache_hook.add_partial("loglikelihood", texts, result)
        return results

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-probability of whole texts, in windows of `max_length` tokens that predict each token once."""
        owners: list[int] = []
        pairs: list[tuple[list[int], list[int]]] = []
        for number, request in enumerate(requests):
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0], add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length - 1,
                context_len=1,
            )
            pairs += map(make_disjoint_window, windows)
            owners += [number] * (len(pairs) - len(owners))
        totals = [0.0] * len(requests)
        for number, (logprob, _) in zip(owners, self._score(pairs)):
            totals[number] += logprob
        return totals

    @torch.inference_mode()
    def _score(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        """Return log-probability and greedy match of each continuation after its context."""
        rows, cut = [], 0
        for number, (context, continuation) in enumerate(pairs):
            room = self.max_length - len(continuation)
            if room < 1:
                raise UserError(
                    f"A continuation of {len(continuation)} tokens and a token before it are longer than max_length "
                    f"{self.max_length}: raise max_length."
                )
            cut += len(context) > room
            if continuation:
                rows.append(Row([(context[-room:], False), (continuation, True)], number))
        self._tell_of_cut(cut, len(pairs))
        results = [(0.0, True)] * len(pairs)  # an empty continuation is certain
        for batch in track(make_batches(rows, self.batch_tokens) if rows else [], "Log-likelihoods", transient=True):
            logprob, greedy = score_batch(self.model, batch.to(self._device))
            for number, *result in zip(batch.group.tolist(), logprob.tolist(), greedy.tolist()):
                results[number] = (result[0], result[1])
        return results

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Generate until a stop string, EOS or the longest answer. The stop string is left out."""
        prompts = [self._prompt(*request.args) for request in requests]
        self._tell_of_cut(sum(cut for _, cut in prompts), len(prompts))
        # The engine takes prompts of equal length, and settings that all of them share.
        groups = Collator(
            [(prompt, request.args) for (prompt, _), request in zip(prompts, requests)],
            group_fn=lambda each: (len(each[0]), repr(sorted(each[1][1].items()))),
            sort_fn=lambda each: 0,
            group_by="gen_kwargs",
        )
        answers: list[str] = []
        for batch in track(list(groups.get_batched(n=self.batch_size)), "Generating", transient=True):
            rows, arguments = zip(*batch)
            found = self._generate(torch.tensor(rows), arguments[0][1])
            for pair, answer in zip(arguments, found):
                self.cache_hook.add_partial("generate_until", pair, answer)
            answers += found
        return groups.get_original(answers)

    def _prompt(self, context: str, settings: dict[str, Any]) -> tuple[list[int], bool]:
        """Return the end of a context that leaves room for the answer, and whether its beginning is cut off."""
        answer = int(normalize_gen_kwargs(settings)["max_gen_toks"])
        room = self.max_length - answer
        if answer < 1 or room < 1:
            raise UserError(
                f"The task asks for answers of {answer} tokens, and max_length {self.max_length} has to hold the "
                "prompt too: raise max_length."
            )
        ids = self.tok_encode(context) or [self.prefix_token_id]
        return ids[-room:], len(ids) > room

    def _tell_of_cut(self, cut: int, total: int) -> None:
        if cut:
            logger.warning(
                "%d of %d contexts lose their beginning, since max_length is %d tokens.", cut, total, self.max_length
            )

    @torch.inference_mode()
    def _generate(self, prompts: torch.Tensor, settings: dict[str, Any]) -> list[str]:
        """Return the answers to prompts [B, T]."""
        settings = dict(normalize_gen_kwargs(settings))
        batch, length = prompts.shape
        limit = int(settings["max_gen_toks"])
        stops = [stop for stop in settings["until"] if stop]
        engine = GenerationEngine(self.model, batch, length + limit)
        sampling = Sampling(float(settings.get("temperature") or 0.0), float(settings.get("top_p", 1.0)))
        logits = engine.prefill(prompts.to(self._device))
        tokens: list[list[int]] = [[] for _ in range(batch)]
        texts, finished = [""] * batch, [False] * batch
        for step in range(limit):
            chosen = sampling.choose(logits)
            for number, token in enumerate(chosen.tolist()):
                if not finished[number]:
                    tokens[number].append(token)
                    texts[number] = str(self.tokenizer.decode(tokens[number], skip_special_tokens=True))
                    finished[number] = token == self.eot_token_id or any(stop in texts[number] for stop in stops)
            if all(finished) or step == limit - 1:
                break
            logits = engine.decode_step(chosen)
        return [min((text.partition(stop)[0] for stop in stops), key=len, default=text) for text in texts]
