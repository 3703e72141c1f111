"""What all recipes share: building, optimising, logging and held-out losses of a decoder on token batches."""

import gc
import hashlib
import os
from typing import Any, Literal

import torch
from jetlit_data import check_vocabulary
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.optim import AdamW
from torch.optim.lr_scheduler import ReduceLROnPlateau

from jetlit.errors import UserError
from jetlit.models.decoder_layer import DecoderLayer
from jetlit.objectives import chunked_cross_entropy
from jetlit.recipes.flat_sharding import check_strategy, flat_root
from jetlit.recipes.garbage import spare_what_is_there
from jetlit.recipes.layers import compile_layer, recompute_feed_forward
from jetlit.recipes.mean_losses import MeanLosses
from jetlit.recipes.optimisation import WarmupCosine, parameter_groups
from jetlit.recipes.optimizer_state import name_states
from jetlit.recipes.precision import computes_in_bfloat16, may_narrow, narrow_frozen, widen_frozen
from jetlit.recipes.sharding import is_sharded, shard_recipe
from jetlit.recipes.steps import is_logged
from jetlit.recipes.termination import agree_on_termination

Batch = dict[str, Tensor]


class Recipe(LightningModule):
    """A decoder trained on batches {"input_ids": [B, T]}; a subclass says how it is built and what its losses are.

    Training losses are logged as `train/NAME`, averaged since the last logged step, held-out ones as `val/NAME`, all
    in nats per token unless said otherwise.

    Args:
        optimizer: makes the optimizer from parameter groups.
        scheduler: makes the learning-rate schedule, advanced once a step; None keeps the rate.
        seed: of every random choice a step makes; such a choice depends on this and on the step alone, so that a
            resumed run equals an undisturbed one. None: that of `seed_everything`.
        chunk: tokens whose logits are held at a time.
        activation_checkpointing: what is not kept for the backward pass but computed again: "mlp" the insides of the
            MLPs, true all of each layer but its input, false nothing.
        compile: compile norms, residuals, MLPs and attention's projections with torch.compile.
        reshard_after_forward: where weights are sharded, let go of a layer's once its forward pass is done and gather
            them again for the backward pass: the memory of one layer's whole weights instead of all layers', for
            twice the gathering.
    """

    def __init__(
        self,
        optimizer: OptimizerCallable = AdamW,
        scheduler: LRSchedulerCallable | None = None,
        seed: int | None = None,
        chunk: int = 1024,
        activation_checkpointing: bool | Literal["mlp"] = False,
        compile: bool = False,
        reshard_after_forward: bool = False,
    ) -> None:
        super().__init__()
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        self.chunk = chunk
        self.activation_checkpointing = activation_checkpointing
        self.compile_layers = compile
        self.reshard_after_forward = reshard_after_forward
        self.model: Any = None
        self.train_losses = MeanLosses()
        self.val_losses = MeanLosses()

    def build(self) -> nn.Module:
        """Returns the model to train: a `JetNemotronForCausalLM` or a `SuperNetwork`."""
        raise NotImplementedError

    def losses(self, input_ids: Tensor) -> dict[str, Tensor]:
        """Scalars by name, of one training batch [B, T]; "objective" is minimised."""
        raise NotImplementedError

    def held_out_losses(self, input_ids: Tensor, batch_idx: int) -> dict[str, Tensor]:
        """Scalars by name, of the validation batch [B, T] of that number."""
        raise NotImplementedError

    def configure_model(self) -> None:
        """Build the model once, on the first of fit, validate and test."""
        if self.model is not None:
            return
        if self._trainer is not None:
            check_strategy(self._trainer.strategy)
        # Lightning makes models on the GPU under some strategies, on the CPU under others, whose numbers differ.
        with torch.random.fork_rng([]), torch.device("cpu"):
            torch.random.default_generator.manual_seed(self.seed)  # whatever was drawn before
            self.model = self.build().train()
        if self._trainer is not None and may_narrow(self._trainer):
            narrow_frozen(self.model)
        if self.compile_layers:
            for layer in self.layers_that_run():
                compile_layer(layer)
        if self.activation_checkpointing == "mlp":
            for layer in self.model.model.layers:
                recompute_feed_forward(layer)
        elif self.activation_checkpointing:
            self.model.model.gradient_checkpointing_enable({"use_reentrant": False})
        if self._device_mesh is not None:  # ModelParallelStrategy
            self.shard(self._device_mesh["data_parallel"])

    def layers_that_run(self) -> list[DecoderLayer]:
        """All decoder layers a step runs."""
        return list(self.model.model.layers)

    def shard(self, mesh: DeviceMesh) -> None:
        """Spread the weights over the data-parallel processes of `mesh`."""
        shard_recipe(self, self.model.model, mesh, self.reshard_after_forward)

    def on_train_end(self) -> None:
        """Let go of what served training alone; weights spread over processes are widened when they are gathered."""
        gc.unfreeze()
        if not is_sharded(self.model):
            widen_frozen(self.model)

    def configure_optimizers(self) -> Any:
        """The injected optimizer over the trainable parameters, and the injected schedule."""
        optimizer = self.optimizer(parameter_groups(self.model))
        if self.scheduler is None:
            return optimizer
        scheduler = self.scheduler(optimizer)
        if isinstance(scheduler, WarmupCosine):
            scheduler.end_at(int(self.trainer.estimated_stepping_batches))
        if isinstance(scheduler, ReduceLROnPlateau):
            raise UserError("A recipe's schedule counts steps: choose one that needs no monitored value.")
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Name the optimizer's states by parameters, for resuming with any number of processes."""
        if "optimizer_states" in checkpoint:
            states = checkpoint["optimizer_states"]
            checkpoint["optimizer_states"] = name_states(states, self.trainer.optimizers, self)

    def on_fit_start(self) -> None:
        """Refuse data whose tokens the model has no embedding for.

        Raises:
            UserError: the data's tokenizer does not fit the model.
        """
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if hasattr(data, "data_vocab_size"):
            check_vocabulary(data.data_vocab_size, self.model.config.vocab_size)

    def on_train_start(self) -> None:
        """Let all processes end after the same step, should one be told to; the trainer's own handlers are set now."""
        agree_on_termination(self.trainer)
        spare_what_is_there()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One batch's losses; logs their running means at logging steps."""
        losses = self.losses(batch["input_ids"])
        self.train_losses.update(losses, weight=len(batch["input_ids"]))
        steps_now = (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0
        if steps_now and is_logged(self.trainer, self.global_step + 1):
            self.log_dict(self.train_losses.take("train"), prog_bar=True)
        return losses["objective"]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Held-out losses of one batch."""
        losses = self.held_out_losses(batch["input_ids"], batch_idx)
        self.val_losses.update(losses, weight=len(batch["input_ids"]))

    def on_validation_epoch_end(self) -> None:
        """Log the held-out means over all batches and ranks."""
        self.log_dict(self.val_losses.take("val"), prog_bar=True, sync_dist=True)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """As validation; the numbers are logged as `val/NAME`."""
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """As at the end of validation."""
        self.on_validation_epoch_end()

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as Lightning does, but let a fused optimizer in where no gradient scaler stands in its way."""
        root = flat_root(self.trainer)
        fused = getattr(optimizer, "_step_supports_amp_scaling", False)
        by_norm = gradient_clip_algorithm in (None, "norm")
        if root is not None and by_norm and gradient_clip_val:
            root.clip_grad_norm_(gradient_clip_val)  # each process holds pieces of the gradients
        elif fused and by_norm and gradient_clip_val and computes_in_bfloat16(self.trainer):
            self.trainer.precision_plugin.clip_grad_by_norm(optimizer, gradient_clip_val)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def cross_entropy(self, hidden: Tensor, input_ids: Tensor) -> Tensor:
        """Next-token loss of final hidden states [B, T, H], in nats per token."""
        return chunked_cross_entropy(hidden, self.model.lm_head.weight, input_ids, chunk=self.chunk)

    def next_token_loss(self, input_ids: Tensor) -> Tensor:
        """The model's own next-token loss on [B, T], in nats per token."""
        hidden = self.model.model(input_ids, use_cache=False).last_hidden_state
        return self.cross_entropy(hidden, input_ids)

    def generator(self, *choice: int | str) -> torch.Generator:
        """A generator that depends on the seed and `choice` (a step, a batch's number) alone, the same on all ranks."""
        digest = hashlib.sha256(repr((self.seed, *choice)).encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") % 2**63)
