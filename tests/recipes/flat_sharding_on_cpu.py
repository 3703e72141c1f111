"""PyTorch's older FSDP on the CPU, for which two places of it are wrong: both take a copy to the CPU for one.

`FlatParamHandle.to_cpu` frees what it has just "copied"; all states of an optimizer are gathered into one buffer, each
overwriting those before it.
"""

from contextlib import nullcontext

from torch.distributed.fsdp import _optim_utils
from torch.distributed.fsdp._flat_param import FlatParamHandle

_unflatten = _optim_utils._unflatten_orig_param_states


def _unflatten_copies(info, states, name, *settings):
    _unflatten(info, states, name, *settings)
    for state in states.values():
        if name in state:
            state[name] = state[name].clone()


def make_right() -> None:
    """Change both, in this process."""
    FlatParamHandle.to_cpu = lambda handle: nullcontext()
    _optim_utils._unflatten_orig_param_states = _unflatten_copies
