"""A recipe of your own in plain Python: distillation by the reverse KL, KL(student ‖ teacher).

Tiny random models and a data set in memory; it takes seconds on a CPU.
"""

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from jetlit.models import Architecture, JetNemotronConfig, JetNemotronForCausalLM
from jetlit.objectives import run_in_lockstep
from jetlit.recipes import Distillation


class ReverseDistillation(Distillation):
    """Distillation that keeps the student from what its teacher finds unlikely."""

    def losses(self, input_ids: Tensor) -> dict[str, Tensor]:
        """Return KL(student ‖ teacher) in nats per token; "objective" is minimized, all are logged."""
        teacher = self.teacher.model
        states = run_in_lockstep(self.model.model, teacher.model, input_ids, features=False)
        student_log = self.model.lm_head(states.student_hidden).log_softmax(-1)  # [B, T, V]
        teacher_log = teacher.lm_head(states.teacher_hidden).log_softmax(-1)
        reverse_kl = (student_log.exp() * (student_log - teacher_log)).sum(-1).mean()
        return {"objective": reverse_kl, "reverse_kl": reverse_kl}


if __name__ == "__main__":
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
    teacher = JetNemotronForCausalLM(JetNemotronConfig(**sizes, num_attention_heads=2, initializer_range=0.3))
    rows = [{"input_ids": row} for row in torch.randint(64, (256, 32))]
    train, held_out = DataLoader(rows[:240], batch_size=8), DataLoader(rows[240:], batch_size=8)

    recipe = ReverseDistillation(teacher, Architecture(["gla", "attn", "gla"]), optimizer=torch.optim.NAdam)
    trainer = Trainer(max_steps=30, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.validate(recipe, held_out)  # val/kl, val/feature, val/loss before ...
    trainer.fit(recipe, train)
    trainer.validate(recipe, held_out)  # ... and after
