"""Speed and memory on the machine at hand: of training while it runs, of generation when it is done."""

import copy
import statistics
import time
from typing import Any

import torch
from lightning.fabric.utilities.throughput import get_available_flops
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from jetlit.models import JetNemotronForCausalLM
from jetlit.recipes.flat_sharding import whole_shape
from jetlit.recipes.precision import computes_in_bfloat16
from jetlit.recipes.sharding import is_sharded
from jetlit.recipes.steps import is_logged

HOPPER_BFLOAT16_FLOPS = 989.4e12
"""NVIDIA's figure for the H100 SXM and the H200, dense products."""


class Throughput(Callback):
    """Logs training tokens/s, tokens seen, memory and MFU; at fit end measures prefill and decode.

    A step's time runs from the end of one batch to the end of the next, so it holds the wait for data; steps around a
    validation do not count, and the speed logged is the median since the last logged step. At fit end
    `training_tokens_per_s` (median of the whole fit, warm-up left out), `prefill_tokens_per_s`,
    `decode_tokens_per_s`, `cache_bytes` and `peak_memory_bytes` enter the trainer's callback metrics; generation is
    measured in bfloat16 where training computes in it.

    MFU counts the matrix products of the model and its teacher, 2 FLOP a weight and token for the forward pass, 2
    more for gradients of activations and 2 more for those of trainable weights; attention's and recurrences' own
    products are left out, and a super network counts as the mean of its paths. It is logged where the device's peak is
    known.

    Args:
        warmup_steps: first steps of a process that do not count.
        batch: sequences generated at a time in the measurement at fit end; None: do not measure generation (nor is a
            super network's measured, or that of weights sharded over processes).
        context: tokens of context at which it is measured.
        cache: folder of such measurements; one taken of a model of the same shapes with the same machine and versions
            is not taken again. None: measure.
        kept_steps: the newest that many step times make up the final median.
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
        self._mark: float | None = None

    def state_dict(self) -> dict[str, Any]:
        """Tokens seen and step speeds go on after a resume."""
        return {"tokens_seen": self.tokens_seen, "speeds": list(self._speeds)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up where the checkpoint was written."""
        self.tokens_seen = state_dict["tokens_seen"]
        self._speeds = list(state_dict["speeds"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin timing."""
        self._steps = 0
        self._mark = None
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The step around a validation does not count."""
        self._mark = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: dict[str, Any], batch_idx: int
    ) -> None:
        """Time the batch."""
        tokens = batch["input_ids"].numel() * trainer.world_size
        self.tokens_seen += tokens
        self._steps += 1
        now = time.perf_counter()
        if self._mark is not None and self._steps > self.warmup_steps:
            speed = tokens / (now - self._mark)
            self._unlogged.append(speed)
            self._speeds = [*self._speeds[1 - self.kept_steps :], speed]
        self._mark = now
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

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop timing."""
        self._mark = None

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hand the final numbers to the trainer's callback metrics."""
        final: dict[str, float] = {"tokens_seen": float(self.tokens_seen)}
        if self._speeds:
            final["training_tokens_per_s"] = statistics.median(self._speeds)
        if torch.cuda.is_available():
            final["training_peak_memory_bytes"] = float(torch.cuda.max_memory_allocated())
        whole = isinstance(pl_module.model, JetNemotronForCausalLM) and not is_sharded(pl_module.model)
        if self.batch is not None and trainer.is_global_zero and whole:
            final |= self._measure_generation(trainer, pl_module.model)
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in final.items()})

    def _measure_generation(self, trainer: Trainer, model: Any) -> dict[str, float]:
        # Not needed by a fit that does not ask for it.
        from jetlit.generation.measurements import cached_measurement, shapes
        from jetlit.generation.throughput import measure_generation, prefill_pieces

        batch, context, device = self.batch, self.context, trainer.strategy.root_device
        assert batch is not None
        dtype = torch.bfloat16 if computes_in_bfloat16(trainer) else model.lm_head.weight.dtype

        def measure() -> dict[str, float]:
            # A copy, since generation in the type that training computes in would round the float32 masters.
            served = copy.deepcopy(model).to(device=device, dtype=dtype).eval()
            return measure_generation(served, batch, context, prefill_chunk=prefill_pieces(batch))

        config = {"config": shapes(model.config), "batch": batch, "context": context}
        config |= {"device": device.type, "dtype": str(dtype)}
        measured = measure() if self.cache is None else cached_measurement(self.cache, config, measure)
        return {name: float(value) for name, value in measured.items()}


def training_flops_per_token(pl_module: LightningModule) -> float:
    """FLOP of one training step's matrix products, per token; see `Throughput`."""
    heads = getattr(pl_module, "kl_weight", 1.0) > 0  # an objective of features alone needs no logits
    student = _multiplied(pl_module.model, heads)
    passed = sum(share * whole_shape(parameter).numel() for parameter, share in student)
    trainable = sum(share * whole_shape(parameter).numel() for parameter, share in student if parameter.requires_grad)
    teacher = getattr(pl_module, "teacher", None)
    taught = 0.0
    if teacher is not None:
        taught = sum(share * parameter.numel() for parameter, share in _multiplied(teacher.model, heads))
    return 4.0 * passed + 2.0 * trainable + 2.0 * taught


def _multiplied(model: Any, heads: bool) -> list[tuple[Tensor, float]]:
    """The matrices that a token is multiplied with, and in what share of the steps: a super network runs one path."""
    choices = len(getattr(model, "choices", ("the only one",)))
    matrices = [
        (parameter, 1 / choices if ".self_attn." in name else 1.0)
        for name, parameter in model.named_parameters()
        if len(whole_shape(parameter)) == 2 and "embed_tokens" not in name and "lm_head" not in name
    ]
    return [*matrices, (model.lm_head.weight, 1.0)] if heads else matrices


def peak_flops(trainer: Trainer, pl_module: LightningModule) -> float | None:
    """FLOP/s the device can do in the trainer's precision, without sparsity, or None where there is no number for it.

    Lightning's, but for the H200: it has the H100's arithmetic units at the same peak, and Lightning does not know it
    by the name its driver reports.
    """
    device = trainer.strategy.root_device
    if device.type == "cpu":
        return None
    dtype = torch.bfloat16 if computes_in_bfloat16(trainer) else torch.float32
    if dtype == torch.bfloat16 and "H200" in torch.cuda.get_device_name(device):
        return HOPPER_BFLOAT16_FLOPS
    return get_available_flops(device, dtype)
