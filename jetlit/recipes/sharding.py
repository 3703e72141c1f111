"""Sharding a recipe's weights over processes (FSDP2); the only place that knows of it."""

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from jetlit.models import JetNemotronModel

_STEPS = ("training_step", "validation_step", "test_step")


def shard_layers(model: JetNemotronModel, mesh: DeviceMesh) -> None:
    """Shard each decoder layer, which is gathered when it runs and let go of afterwards."""
    for layer in model.layers:
        fully_shard(layer, mesh=mesh)


def shard_recipe(recipe: nn.Module, model: JetNemotronModel, mesh: DeviceMesh) -> None:
    """Shard a recipe's model: every layer by itself; embedding, norm and head together for the length of a step.

    The head's weight is read outside of the head's own forward pass, by the chunked objectives. Hence the recipe
    itself is the outermost sharded module, and its steps are what gathers.

    Args:
        recipe: the LightningModule.
        model: its decoder.
        mesh: one-dimensional, over the data-parallel processes.
    """
    shard_layers(model, mesh)
    fully_shard(recipe, mesh=mesh)
    for name in _STEPS:
        register_fsdp_forward_method(recipe, name)


def is_sharded(module: nn.Module) -> bool:
    """Whether a module's parameters are spread over processes."""
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())
