"""Add a kind of task, and score a model on it. Takes seconds on a CPU."""

import random
from dataclasses import dataclass

from jetlit_data import load_tokenizer
from transformers import PreTrainedTokenizerBase

from jetlit.models import JetNemotronConfig, JetNemotronForCausalLM
from jetlit.tasks import Task, build_task, encode_row, evaluate_task, make_batches, register_task, summarize_answers

LETTERS = "abcdefgh"


@register_task("reversal")
@dataclass(frozen=True)
class Reversal:
    """Words to spell backwards: "bead=" is to be followed by "daeb"."""

    questions: int = 64
    length: int = 4

    def build(self, name: str, tokenizer: PreTrainedTokenizerBase) -> Task:
        """Return the task in the tokens of a tokenizer."""
        rng = random.Random(0)
        rows = []
        for number in range(self.questions):
            word = "".join(rng.choices(LETTERS, k=self.length))
            rows.append(encode_row(tokenizer, [(f"{word}=", False), (word[::-1], True)], number))
        chance = len(LETTERS) ** -self.length
        return Task(name, "accuracy", chance, make_batches(rows), summarize_answers)


if __name__ == "__main__":
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = JetNemotronForCausalLM(JetNemotronConfig(vocab_size=259, num_hidden_layers=2, **sizes))
    task = build_task({"kind": "reversal", "length": 3}, load_tokenizer("bytes"))
    score = evaluate_task(model, task)
    print(f"{task.name}: accuracy {score.metrics['accuracy']:.3f}, loss {score.metrics['loss']:.2f} nats/token")
