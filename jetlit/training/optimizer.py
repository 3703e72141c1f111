"""The optimizer's parameter groups, and its state by parameter names."""

from typing import Any

from torch import nn
from torch.distributed.fsdp._common_utils import clean_tensor_name
from torch.optim import Optimizer

from jetlit.errors import UserError
from jetlit.training.fsdp import is_sharded


def parameter_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Return the trainable parameters in two groups: those that decay, and those that do not.

    Vectors (norm weights, biases) take no weight decay, nor do parameters with the attribute `_no_weight_decay`
    (A_log and dt_bias of the JetBlock).

    Args:
        module: Its frozen parameters are left out.

    Returns:
        Optimizer groups without the empty ones. The second has `weight_decay` 0.

    Raises:
        UserError: No parameter is trainable.
    """
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for parameter in module.parameters():
        if parameter.requires_grad:
            exempt = parameter.ndim < 2 or getattr(parameter, "_no_weight_decay", False)
            (plain if exempt else decayed).append(parameter)
    if not decayed and not plain:
        raise UserError("No parameter is trainable: choose an architecture with at least one new token mixer.")
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def name_states(states: list[dict[str, Any]], optimizers: list[Optimizer], module: nn.Module) -> list[dict[str, Any]]:
    """Replace parameter numbers by parameter names in the state dictionaries of optimizers.

    PyTorch numbers parameters in the order of the optimizer's groups. Lightning's ModelParallelStrategy reads such
    numbers as positions in `module.parameters()`, frozen ones included. The two differ as soon as there are two groups
    or a frozen weight. `load_state_dict` takes names as well, so a checkpoint with names can be resumed by any number
    of processes.

    Args:
        states: One for each optimizer; empty where another process assembles them.
        optimizers: Their owners.
        module: Its parameter names are used.
    """
    names = {parameter: clean_tensor_name(name) for name, parameter in module.named_parameters()}
    named = []
    for state, optimizer in zip(states, optimizers, strict=True):
        # Lightning's sharded strategy has numbered them by the module, the optimizer itself by its groups.
        own = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        numbered = list(module.parameters()) if is_sharded(module) else own
        named.append(_rename(state, [names[parameter] for parameter in numbered]))
    return named


def _rename(state: dict[str, Any], names: list[str]) -> dict[str, Any]:
    if not state:
        return state

    def name(key: int | str) -> str:
        return names[key] if isinstance(key, int) else key

    groups = [{**group, "params": [name(key) for key in group["params"]]} for group in state["param_groups"]]
    return {**state, "state": {name(key): value for key, value in state["state"].items()}, "param_groups": groups}
