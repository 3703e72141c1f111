"""Which type a weight is kept in under mixed precision."""

from typing import Any

import torch
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor, nn


def computes_in_bfloat16(trainer: Any) -> bool:
    """Whether a trainer's matrix products are in bfloat16 while its weights may be float32."""
    return "bf16" in str(trainer.precision)


def may_narrow(trainer: Any) -> bool:
    """Whether frozen weights may have another type than trained ones; Lightning's older FSDP flattens them together."""
    return computes_in_bfloat16(trainer) and not isinstance(trainer.strategy, FSDPStrategy)


def narrow_frozen(model: nn.Module) -> None:
    """Keep in bfloat16 the frozen weights that lose nothing by it, as those of a bfloat16 checkpoint.

    Only what is trained needs a float32 master. A frozen float32 matrix would be cast anew in every step, and be sent
    around at twice the size where it is sharded. Weights that have more digits than bfloat16 stay as they are.
    """
    for parameter in model.parameters():
        if not parameter.requires_grad and parameter.dtype == torch.float32:
            narrow = parameter.detach().bfloat16()
            if torch.equal(narrow.float(), parameter):
                parameter.data = narrow


def widen_frozen(model: nn.Module) -> None:
    """Bring frozen weights back to float32, as the trained ones are."""
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.float()


def widened(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same for weights by name."""
    return {name: weight.float() if weight.dtype == torch.bfloat16 else weight for name, weight in weights.items()}
