"""Optimizer state by parameter names, so that a checkpoint may be resumed by any number of processes.

PyTorch numbers parameters in the order of the optimizer's groups; Lightning's ModelParallelStrategy reads such numbers
as positions in `module.parameters()`, frozen ones included, which differs as soon as there are two groups or a frozen
weight. Names leave no room for that.
"""

from typing import Any

from torch import nn
from torch.distributed.fsdp._common_utils import clean_tensor_name
from torch.optim import Optimizer

from jetlit.recipes.sharding import is_sharded


def name_states(states: list[dict[str, Any]], optimizers: list[Optimizer], module: nn.Module) -> list[dict[str, Any]]:
    """Replace the numbers in optimizers' state dictionaries by parameter names; `load_state_dict` takes both.

    Args:
        states: one for each optimizer; empty where another process assembles them.
        optimizers: they belong to.
        module: whose parameter names are used.
    """
    names = {parameter: clean_tensor_name(name) for name, parameter in module.named_parameters()}
    named = []
    for state, optimizer in zip(states, optimizers, strict=True):
        # Numbered by Lightning's sharded strategy, or by the optimizer itself.
        own = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        numbered = list(module.parameters()) if is_sharded(module) else own
        named.append(_renamed(state, [names[parameter] for parameter in numbered]))
    return named


def _renamed(state: dict[str, Any], names: list[str]) -> dict[str, Any]:
    if not state:
        return state

    def name(key: int | str) -> str:
        return names[key] if isinstance(key, int) else key

    groups = [{**group, "params": [name(key) for key in group["params"]]} for group in state["param_groups"]]
    return {**state, "state": {name(key): value for key, value in state["state"].items()}, "param_groups": groups}
