"""Speed and memory: of training while it runs, of generation at its end."""

import copy
import statistics
import time
from typing import Any

import torch
from lightning.fabric.utilities.throughput import get_available_flops
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from jetlit.models import JetNemotronForCausalLM
from jetlit.training.fsdp import is_sharded
from jetlit.training.logger import is_logged
from jetlit.training.precision import computes_in_bfloat16

HOPPER_BFLOAT16_FLOPS = 989.4e12
"""NVIDIA's figure for the H100 SXM and the H200, dense products."""


class Throughput(Callback):
    """Logs tokens/s, tokens seen, memory and MFU of training, and measures prefill and decode at its end.

    A step's time runs from the end of one batch to the end of the next, so it includes the wait for data. Steps around
    a validation do not count. The logged speed is the median since the last logged step. At the end of the fit
    `training_tokens_per_s` (median without the warm-up), `prefill_tokens_per_s`, `decode_tokens_per_s`, `cache_bytes`
    and `peak_memory_bytes` enter the trainer's callback metrics. Generation is measured in bfloat16 if training
    computes in it.

    MFU counts the matrix products of the model and its teacher: 2 FLOP a weight and token for the forward pass, 2 for
    the gradients of activations and 2 for those of trainable weights. The products inside attention and recurrences
    are left out, and a super network counts as the mean of its paths. MFU is logged if the device's peak is known.

    Args:
        warmup_steps: First steps of a process that do not count.
        batch: Sequences generated at a time in the measurement at the end. None measures no generation, nor is that of
            a super network or of sharded weights measured.
        context: Tokens of context of that measurement.
        cache: Folder of measurements. One of a model of the same shapes with the same machine and versions is read.
        kept_steps: The final median is that of the newest so many steps.
    """

    def __init__(
        self,
        warmup_steps: int = 3,
        batch: int | None = None,
        context: int = 512,
        cache: str | None = None,
        kept_steps: int = 512,
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
            peak = peak_flops(trainer, pl_module)
            if peak is not None:
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
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in final.items()})

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

        config = {"config": shapes(model.config), "batch": batch, "context": context}
        config |= {"device": device.type, "dtype": str(dtype)}
        measured = measure() if self.cache is None else cached_measurement(self.cache, config, measure)
        return {name: float(value) for name, value in measured.items()}


def training_flops_per_token(pl_module: LightningModule) -> float:
    """Return the FLOP of the matrix products of a training step, per token; `Throughput` says what counts."""
    needs_logits = getattr(pl_module, "kl_weight", 1.0) > 0
    student = _matrices(pl_module.model, needs_logits)
    forward = sum(share * parameter.numel() for parameter, share in student)
    trainable = sum(share * parameter.numel() for parameter, share in student if parameter.requires_grad)
    teacher: Any = getattr(pl_module, "teacher", None)
    taught = _matrices(teacher.model, needs_logits) if teacher is not None else []
    return 4.0 * forward + 2.0 * trainable + 2.0 * sum(share * parameter.numel() for parameter, share in taught)


def _matrices(model: Any, needs_logits: bool) -> list[tuple[Tensor, float]]:
    """Return the matrices a token is multiplied with, each with its share of the steps (super network: one path)."""
    choices = len(getattr(model, "choices", ("the only one",)))
    matrices = [
        (parameter, 1 / choices if ".self_attn." in name else 1.0)
        for name, parameter in model.named_parameters()
        if parameter.ndim == 2 and "embed_tokens" not in name and "lm_head" not in name
    ]
    return [*matrices, (model.lm_head.weight, 1.0)] if needs_logits else matrices


def peak_flops(trainer: Trainer, pl_module: LightningModule) -> float | None:
    """Return the device's peak FLOP/s in the trainer's precision, dense, or None if it is not known.

    Lightning knows it by the device's name, except for the H200's, which has the arithmetic units of the H100.
    """
    device = trainer.strategy.root_device
    if device.type == "cpu":
        return None
    dtype = torch.bfloat16 if computes_in_bfloat16(trainer) else torch.float32
    if dtype == torch.bfloat16 and "H200" in torch.cuda.get_device_name(device):
        return HOPPER_BFLOAT16_FLOPS
    return get_available_flops(device, dtype)
