"""Score many subnetworks of a super network while computing each shared prefix of layers once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from jetlit.models import SuperNetwork
from jetlit.progress import progress_bar
from jetlit.search.beam import Choices
from jetlit.tasks import Task, TaskBatch, answer_scores


@dataclass
class LayerCounts:
    """Layer evaluations: one is one layer run on one task batch."""

    done: int = 0
    unshared: int = 0  # if each distinct subnetwork were run from its first layer
    naive: int = 0  # if each score that was asked for were computed, those already known included


class SubnetEvaluator:
    """Objectives of subnetworks on tasks: the `score` of a placement search.

    For each task batch the candidates are walked in lexicographic order, with the hidden states after each layer on a
    stack, so that a candidate is computed only from the first layer in which it differs from the one before. States
    are also stored across calls, so that a later level of a search starts from prefixes of earlier ones. Sharing
    changes no number. `counts` holds the layer evaluations so far.

    Args:
        supernet: The super network, on the device and in the dtype to compute in.
        tasks: The tasks to score on.
        stored_bytes: Memory for states kept across calls, in bytes.
    """

    def __init__(self, supernet: SuperNetwork, tasks: Sequence[Task], stored_bytes: int = 512 * 2**20) -> None:
        self.supernet = supernet.eval()
        self.tasks = list(tasks)
        self.counts = LayerCounts()
        self._known: dict[Choices, dict[str, float]] = {}
        self._stored: dict[tuple[int, Choices], torch.Tensor] = {}
        self._room = stored_bytes
        self._batches = [(index, batch) for index, task in enumerate(self.tasks) for batch in task.batches]
        self._layers = len(supernet.choices_per_layer)

    @property
    def passes(self) -> int:
        """Layer evaluations of one subnetwork that shares nothing."""
        return self._layers * len(self._batches)

    def __call__(self, candidates: list[Choices]) -> list[dict[str, float]]:
        """Return the objective of every task for each candidate; larger is better."""
        new = sorted(set(candidates) - set(self._known))
        self.counts.naive += len(candidates) * self.passes
        self.counts.unshared += len(new) * self.passes
        if new:
            self._evaluate(new)
        return [dict(self._known[candidate]) for candidate in candidates]

    @torch.inference_mode()
    def _evaluate(self, ordered: Sequence[Choices]) -> None:
        answers: dict[Choices, list[list[tuple[torch.Tensor, torch.Tensor]]]] = {
            candidate: [[] for _ in self.tasks] for candidate in ordered
        }
        with progress_bar("Scoring subnetworks", len(ordered) * len(self._batches), "batches") as advance:
            for number, (task, batch) in enumerate(self._batches):
                batch = batch.to(self.supernet.lm_head.weight.device)
                for candidate, hidden in self._walk(number, batch, ordered):
                    logits = self.supernet.lm_head(self.supernet.model.norm(batch.gather(hidden)))
                    logprob, greedy = answer_scores(logits, batch)
                    answers[candidate][task].append((logprob.cpu(), greedy.cpu()))
                    advance(1)
        for candidate, per_task in answers.items():
            self._known[candidate] = {
                task.name: task.summarize(*map(torch.cat, zip(*parts, strict=True))).objective
                for task, parts in zip(self.tasks, per_task, strict=True)
            }

    def _walk(
        self, number: int, batch: TaskBatch, ordered: Sequence[Choices]
    ) -> Iterator[tuple[Choices, torch.Tensor]]:
        """Yield the last layer's output of each candidate for one batch."""
        model = self.supernet.model
        embedded = model.embed_tokens(batch.input_ids)
        # Answers are right-padded, so padding lies in every token's future: no mask is needed.
        inputs = model.layer_inputs(embedded)
        stack: list[torch.Tensor] = [embedded]
        previous: Choices = ()
        for candidate in ordered:
            shared = 0
            while shared < len(previous) and previous[shared] == candidate[shared]:
                shared += 1
            del stack[shared + 1 :]
            self.supernet.set_active_subnet(list(candidate))
            while len(stack) <= self._layers:
                stack.append(self._layer_output(number, candidate[: len(stack)], stack[-1], inputs))
            previous = candidate
            yield candidate, stack[-1]

    def _layer_output(self, number: int, prefix: Choices, hidden: torch.Tensor, inputs: Any) -> torch.Tensor:
        stored = self._stored.get((number, prefix))
        if stored is not None:
            return stored
        output = self.supernet.model.layers[len(prefix) - 1](hidden, inputs)
        self.counts.done += 1
        size = output.numel() * output.element_size()
        # A whole subnetwork's output is never asked for again: its score is known.
        if len(prefix) < self._layers and size <= self._room:
            self._stored[number, prefix] = output
            self._room -= size
        return output
