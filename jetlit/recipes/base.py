"""What all recipes share: build, optimize, log and evaluate a decoder on batches of tokens."""

import contextlib
import dataclasses
import gc
import hashlib
import inspect
import json
import os
from pathlib import Path
from typing import Any, Literal, Self

import torch
from jetlit_data import check_vocabulary
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor, nn
from torch.optim import AdamW

from jetlit.errors import UserError
from jetlit.objectives import Lockstep, chunked_cross_entropy, chunked_kl
from jetlit.training.compilation import compile_layer, recompute_feed_forward
from jetlit.training.fsdp import is_sharded, shard_layers, shard_recipe
from jetlit.training.logger import RunningMeans, is_logged
from jetlit.training.optimizer import WarmupCosine, check_optimizer, name_states, parameter_groups
from jetlit.training.precision import computes_in_bfloat16, narrow_frozen, widen_frozen
from jetlit.training.steps import is_mid_step
from jetlit.training.teacher import FrozenTeacher
from jetlit.training.termination import agree_on_termination
from jetlit.values import Count, Seed, check_values

Batch = dict[str, Any]
"""{"input_ids": int64 [B, T]}; a held-out batch may have a "number" and a "weight" (jetlit.datamodules)."""


class Recipe(LightningModule):
    """A decoder trained on batches {"input_ids": [B, T]}. A subclass says how it is built and what its losses are.

    Training losses are logged as `train/NAME`, averaged since the last logged step, and held-out losses as
    `val/NAME`. A `teacher` is moved, cast and sharded beside the model. Each subclass documents the arguments.

    `load_from_checkpoint` builds a recipe again. A checkpoint holds the arguments that are plain data: what JSON can
    hold, dataclasses and paths. Pass the others again (models, the optimizer and the scheduler).
    """

    teacher: FrozenTeacher | None = None
    _plain_arguments: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Check the arguments' ranges and keep them.

        Lightning's `save_hyperparameters` would copy models and pickle classes.
        """
        recipe = super().__new__(cls)
        given = inspect.signature(cls.__init__).bind_partial(recipe, *args, **kwargs).arguments
        given |= given.pop("kwargs", {})  # of a subclass that passes them on
        check_values(cls.__init__, given)
        recipe._plain_arguments = {}
        for name, value in given.items():
            with contextlib.suppress(TypeError):
                recipe._plain_arguments[name] = json.loads(json.dumps(value, default=_encode))
        return recipe

    def __init__(
        self,
        optimizer: OptimizerCallable = AdamW,
        scheduler: LRSchedulerCallable | None = None,
        seed: Seed | None = None,
        chunk: Count = 1024,
        activation_checkpointing: bool | Literal["mlp"] = False,
        compile: bool = False,
        reshard_after_forward: bool = False,
    ) -> None:
        super().__init__()
        check_optimizer(optimizer, scheduler)
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        self.chunk = chunk
        self.activation_checkpointing = activation_checkpointing
        self.compile_layers = compile
        self.reshard_after_forward = reshard_after_forward
        self.model: Any = None
        self._batches_of_step = 0
        self.train_losses = RunningMeans()
        self.val_losses = RunningMeans()

    def build(self) -> nn.Module:
        """Return the model to train: a `JetNemotronForCausalLM` or a `SuperNetwork`."""
        raise NotImplementedError

    def losses(self, input_ids: Tensor) -> dict[str, Tensor]:
        """Return scalars by name for a training batch [B, T]; "objective" is minimized."""
        raise NotImplementedError

    def held_out_losses(self, input_ids: Tensor, batch_idx: int) -> dict[str, Tensor]:
        """Return scalars by name for the validation batch [B, T] of that number."""
        raise NotImplementedError

    def cross_entropy(self, hidden: Tensor, input_ids: Tensor) -> Tensor:
        """Return the next-token loss of final hidden states [B, T, H], in nats per token."""
        return chunked_cross_entropy(hidden, self.model.lm_head.weight, input_ids, chunk=self.chunk)

    def next_token_loss(self, input_ids: Tensor) -> Tensor:
        """Run the model on [B, T] and return its next-token loss, in nats per token."""
        return self.cross_entropy(self.model.model(input_ids, use_cache=False).last_hidden_state, input_ids)

    def kl(self, states: Lockstep) -> Tensor:
        """Return KL(teacher ‖ student) between next-token distributions, in nats per token."""
        assert self.teacher is not None
        heads = self.model.lm_head.weight, self.teacher.model.lm_head.weight
        return chunked_kl(states.student_hidden, states.teacher_hidden, *heads, chunk=self.chunk)

    def generator(self, *choice: int | str) -> torch.Generator:
        """Return a generator that depends on the seed and `choice` (a step, a batch's number) only."""
        digest = hashlib.sha256(repr((self.seed, *choice)).encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") % 2**63)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the objective of a batch; log running means at logging steps."""
        losses = self.losses(batch["input_ids"])
        self.train_losses.update(losses, weight=len(batch["input_ids"]))
        self._batches_of_step += 1
        if not is_mid_step(self.trainer) and is_logged(self.trainer, self.global_step + 1):
            self.log_dict(self.train_losses.take("train"), prog_bar=True)
        return losses["objective"]

    def on_after_backward(self) -> None:
        """Make the gradient the mean over a step's batches. An epoch's last step may have fewer than the others."""
        planned = self.trainer.accumulate_grad_batches
        if is_mid_step(self.trainer):
            return
        if self._batches_of_step < planned:
            for parameter in self.parameters():
                if parameter.grad is not None:
                    parameter.grad *= planned / self._batches_of_step
        self._batches_of_step = 0

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add up the held-out losses of a batch, by the number and weight that it may have."""
        losses = self.held_out_losses(batch["input_ids"], batch.get("number", batch_idx))
        self.val_losses.update(losses, weight=batch.get("weight", len(batch["input_ids"])))

    def on_validation_epoch_end(self) -> None:
        """Log the held-out means over all batches and processes."""
        self.log_dict(self.val_losses.take("val"), prog_bar=True, sync_dist=True)

    # `jetlit test` logs the same names.
    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def setup(self, stage: str) -> None:
        """Check that the data are in the tokens of the teacher and of the student (UserError)."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        for source in (self.teacher and self.teacher.source, getattr(self, "student", None)):
            if isinstance(source, str | Path) and hasattr(data, "check_tokens"):
                data.check_tokens(source)

    def configure_model(self) -> None:
        """Build the model once, at the first of fit, validate and test.

        Raises:
            UserError: The strategy is PyTorch's older FSDP.
        """
        if self.model is not None:
            return
        if self._trainer is not None and isinstance(self._trainer.strategy, FSDPStrategy):
            raise UserError("Recipes do not train under FSDPStrategy: take configs/strategy/fsdp2.yaml in its place.")
        # Lightning builds on the GPU under some strategies and on the CPU under others, which draw other numbers.
        with torch.random.fork_rng([]), torch.device("cpu"):
            torch.random.default_generator.manual_seed(self.seed)
            self.model = self.build().train()
        if self._trainer is not None and computes_in_bfloat16(self._trainer):
            narrow_frozen(self.model)
        teacher = None if self.teacher is None else self.teacher.model.model
        if self.compile_layers:
            for layer in [*self.model.model.layers, *(teacher.layers if teacher is not None else ())]:
                compile_layer(layer)
        if self.activation_checkpointing == "mlp":
            for layer in self.model.model.layers:
                recompute_feed_forward(layer)
        elif self.activation_checkpointing:
            self.model.model.gradient_checkpointing_enable({"use_reentrant": False})
        if self._device_mesh is not None:  # ModelParallelStrategy, that is FSDP2
            mesh = self._device_mesh["data_parallel"]
            shard_recipe(self, self.model.model, mesh, self.reshard_after_forward)
            if self.teacher is not None and self.teacher.shard:
                shard_layers(self.teacher.model.model, mesh)

    def configure_optimizers(self) -> Any:
        """Return the injected optimizer over the trainable parameters, and the injected schedule."""
        optimizer = self.optimizer(parameter_groups(self.model))
        if self.scheduler is None:
            return optimizer
        scheduler = self.scheduler(optimizer)
        # The few steps of fast_dev_run are shorter than any warm-up.
        if isinstance(scheduler, WarmupCosine) and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            scheduler.end_at(self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip as Lightning does, but allow a fused optimizer under bf16, where no gradient scaler needs it unfused."""
        fused = getattr(optimizer, "_step_supports_amp_scaling", False) and computes_in_bfloat16(self.trainer)
        if fused and gradient_clip_val and gradient_clip_algorithm in (None, "norm"):
            self.trainer.precision_plugin.clip_grad_by_norm(optimizer, gradient_clip_val)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_fit_start(self) -> None:
        """Place the teacher, and check that the model has an embedding for each token of the data.

        Raises:
            UserError: The data's tokenizer does not fit the model.
        """
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if hasattr(data, "data_vocab_size"):
            check_vocabulary(data.data_vocab_size, self.model.config.vocab_size)
        self.on_validation_start()

    def on_validation_start(self) -> None:
        """Move the teacher to the model's device, in the dtype it computes in: autocast would cast it in every step."""
        if self.teacher is not None:
            self.teacher.to(self.device, torch.bfloat16 if computes_in_bfloat16(self.trainer) else None)

    on_test_start = on_validation_start

    def on_train_start(self) -> None:
        """Replace Lightning's handling of SIGTERM, which is set up by now, and spare the garbage collector.

        A full collection visits every object of all libraries and stops a process for as long as a step. It comes at
        another step in each process, so the more processes there are, the more often all wait for one.
        """
        agree_on_termination(self.trainer)
        gc.unfreeze()
        gc.collect()
        gc.freeze()

    def on_train_end(self) -> None:
        """Undo what only training needs. Sharded weights are widened when they are gathered."""
        gc.unfreeze()
        if not is_sharded(self.model):
            widen_frozen(self.model)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add arguments and running means, and name optimizer states so that any number of processes can resume."""
        key = self.CHECKPOINT_HYPER_PARAMS_KEY
        checkpoint["train_losses"] = self.train_losses.totals()
        checkpoint[key] = self._plain_arguments | checkpoint.get(key, {})
        if "optimizer_states" in checkpoint:
            states = checkpoint["optimizer_states"]
            checkpoint["optimizer_states"] = name_states(states, self.trainer.optimizers, self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the running means."""
        if self._trainer is not None and self.trainer.is_global_zero:
            self.train_losses.restore(checkpoint.get("train_losses", {}))


def _encode(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else dataclasses.asdict(value)  # TypeError for any other object
