"""Speed and memory: of training while it runs, of generation at its end."""

import copy
import statistics
import time
from typing import Any

import torch
from lightning.fabric.utilities.throughput import get_available_flops
from lightning.pytorch import Callback, LightningModule, Trainer

from jetlit.models import JetNemotronForCausalLM
from jetlit.training.fsdp import is_sharded
from jetlit.training.logger import is_logged
from jetlit.training.precision import computes_in_bfloat16
from jetlit.values import Count, NonNegativeInt


class Throughput(Callback):
    """Logs tokens/s, tokens seen, memory and MFU of training, and measures prefill and decode at its end.

    A step's time runs from the end of one batch to the end of the next, so it includes the wait for data. Steps around
    a validation do not count. The logged speed is the median since the last logged step. At the end of the fit
    `training_tokens_per_s` (median without the warm-up), `prefill_tokens_per_s`, `decode_tokens_per_s`, `cache_bytes`
    and `peak_memory_bytes` enter the trainer's callback metrics.

    MFU counts the matrix products of the model and its teacher: 2 FLOP a weight and token for the forward pass, 2 for
    the gradients of activations and 2 for those of trainable weights. The products inside attention and recurrences
    are left out, and a super network counts as the mean of its paths. MFU is logged if the device's peak is known.

    Args:
        warmup_steps: First steps of a process that do not count.
        batch: Sequences generated at a time in the measurement at the end; None measures no generation. Super networks
            and sharded weights are not measured.
        context: Tokens of context of that measurement.
        cache: Folder of measurements. One of a model of the same shapes with the same machine and versions is read.
        kept_steps: Newest steps that the final median is of.
    """

    def __init__(
        self,
        warmup_steps: NonNegativeInt = 3,
        batch: Count | None = None,
        context: Count = 512,
        cache: str | None = None,
        kept_steps: Count = 512,
    ) -> None:
        self.warmup_steps = warmup_steps
        self.batch = batch
        self.context = context
        self.cache = cache
        self.kept_steps = kept_steps
        self.tokens_seen = 0
        self._speeds: list[float] = []
        self._unlogged: list[float] = []
        self._steps = 0
        self._last_end: float | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the tokens seen and the speeds of steps."""
        return {"tokens_seen": self.tokens_seen, "speeds": list(self._speeds)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the tokens seen and the speeds of steps."""
        self.tokens_seen = state_dict["tokens_seen"]
        self._speeds = list(state_dict["speeds"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin timing."""
        self._steps = 0
        self._last_end = None
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the step around a validation out."""
        self._last_end = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: dict[str, Any], batch_idx: int
    ) -> None:
        """Time the batch."""
        tokens = batch["input_ids"].numel() * trainer.world_size
        self.tokens_seen += tokens
        self._steps += 1
        now = time.perf_counter()
        if self._last_end is not None and self._steps > self.warmup_steps:
            speed = tokens / (now - self._last_end)
            self._unlogged.append(speed)
            self._speeds = [*self._speeds[1 - self.kept_steps :], speed]
        self._last_end = now
        if is_logged(trainer, trainer.global_step):
            self._log(trainer, pl_module)

    def _log(self, trainer: Trainer, pl_module: LightningModule) -> None:
        values = {"train/tokens_seen": float(self.tokens_seen)}
        if self._unlogged:
            speed = statistics.median(self._unlogged)
            self._unlogged.clear()
            values["train/tokens_per_s"] = speed
            if (peak := peak_flops(trainer, pl_module)) is not None:
                values["train/mfu"] = speed / trainer.world_size * training_flops_per_token(pl_module) / peak
        if torch.cuda.is_available():
            values["train/peak_memory_bytes"] = float(torch.cuda.max_memory_allocated())
        pl_module.log_dict(values)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the final numbers to the trainer's callback metrics."""
        final: dict[str, float] = {"tokens_seen": float(self.tokens_seen)}
        if self._speeds:
            final["training_tokens_per_s"] = statistics.median(self._speeds)
        if torch.cuda.is_available():
            final["training_peak_memory_bytes"] = float(torch.cuda.max_memory_allocated())
        generates = isinstance(pl_module.model, JetNemotronForCausalLM) and not is_sharded(pl_module.model)
        if self.batch is not None and trainer.is_global_zero and generates:
            final |= self._measure_generation(trainer, pl_module.model)
        trainer.callback_metrics.update({name: torch.tensor(float(value)) for name, value in final.items()})

    def _measure_generation(self, trainer: Trainer, model: Any) -> dict[str, float]:
        # Most fits do not need these imports.
        from jetlit.generation.measurements import cached_measurement, shapes
        from jetlit.generation.throughput import measure_generation, prefill_pieces

        batch, context, device = self.batch, self.context, trainer.strategy.root_device
        assert batch is not None
        dtype = torch.bfloat16 if computes_in_bfloat16(trainer) else model.lm_head.weight.dtype

        def measure() -> dict[str, float]:
            # A copy, since a cast to bfloat16 would round the float32 masters.
            served = copy.deepcopy(model).to(device=device, dtype=dtype).eval()
            return measure_generation(served, batch, context, prefill_chunk=prefill_pieces(batch))

        if self.cache is None:
            return measure()
        config = {"config": shapes(model.config), "batch": batch, "context": context}
        return cached_measurement(self.cache, config | {"device": device.type, "dtype": str(dtype)}, measure)


def training_flops_per_token(pl_module: LightningModule) -> float:
    """Return the FLOP of the matrix products of a training step, per token; `Throughput` says what counts."""
    needs_logits = getattr(pl_module, "kl_weight", 1.0) > 0
    forward, trainable = _products(pl_module.model, needs_logits)
    teacher: Any = getattr(pl_module, "teacher", None)
    taught = 0.0 if teacher is None else _products(teacher.model, needs_logits)[0]
    return 4.0 * forward + 2.0 * trainable + 2.0 * taught


def _products(model: Any, needs_logits: bool) -> tuple[float, float]:
    """Return the weights a token is multiplied with, all and trainable; of a super network those of the mean path."""
    choices = len(getattr(model, "choices", ("the only one",)))
    head = model.lm_head.weight
    total, trainable = (head.numel(), head.numel() * head.requires_grad) if needs_logits else (0.0, 0.0)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and "embed_tokens" not in name and "lm_head" not in name:
            size = parameter.numel() / (choices if ".self_attn." in name else 1)
            total += size
            trainable += size * parameter.requires_grad
    return total, trainable


def peak_flops(trainer: Trainer, pl_module: LightningModule) -> float | None:
    """Return the device's peak FLOP/s in the trainer's precision, dense, or None if it is not known."""
    device = trainer.strategy.root_device
    if device.type == "cpu":
        return None
    dtype = torch.bfloat16 if computes_in_bfloat16(trainer) else torch.float32
    if dtype == torch.bfloat16 and "H200" in torch.cuda.get_device_name(device):
        return 989.4e12  # NVIDIA's figure for the H100, whose arithmetic units it has; Lightning does not know it
    return get_available_flops(device, dtype)
