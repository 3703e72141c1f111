"""The dtype of weights under mixed precision."""

from typing import Any

import torch
from torch import nn


def computes_in_bfloat16(trainer: Any) -> bool:
    """Return whether a trainer's matrix products are in bfloat16; its weights may be float32."""
    return "bf16" in str(trainer.precision)


def narrow_frozen(model: nn.Module) -> None:
    """Keep frozen float32 weights in bfloat16 where that loses nothing, as for those of a bfloat16 checkpoint.

    Only trained weights need a float32 master. Autocast would cast a frozen float32 matrix in every step.
    """
    for parameter in model.parameters():
        if not parameter.requires_grad and parameter.dtype == torch.float32:
            narrow = parameter.detach().bfloat16()
            if torch.equal(narrow.float(), parameter):
                parameter.data = narrow


def widen_frozen(model: nn.Module) -> None:
    """Bring frozen weights back to float32, the dtype of the trained ones."""
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.float()
