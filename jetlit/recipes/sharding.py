"""Sharding a recipe's weights over processes (FSDP2)."""

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel, fully_shard, register_fsdp_forward_method

from jetlit.models import JetNemotronModel

_STEPS = ("training_step", "validation_step", "test_step")


def shard_recipe(recipe: nn.Module, model: JetNemotronModel, mesh: DeviceMesh, reshard_after_forward: bool) -> None:
    """Shard a recipe's trained weights: every layer's by themselves; those outside of the layers for a step's length.

    The head's weight is read outside of the head's own forward pass, by the chunked objectives. Hence the recipe
    itself is the outermost sharded module, and its steps are what gathers.

    Frozen weights stay whole in every process: they have neither gradients nor optimizer states, are half as wide as
    trained ones, and to gather them would be most of the traffic of stage 1. A layer's gathered weights are also of
    one type then, without which every copy around a collective goes byte by byte.

    Args:
        recipe: the LightningModule.
        model: its decoder.
        mesh: one-dimensional, over the data-parallel processes.
        reshard_after_forward: let go of a layer's gathered weights between its forward and its backward pass.
    """
    frozen = {parameter for parameter in recipe.parameters() if not parameter.requires_grad}
    for layer in model.layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=reshard_after_forward, ignored_params=frozen)
    fully_shard(recipe, mesh=mesh, ignored_params=frozen)
    for name in _STEPS:
        register_fsdp_forward_method(recipe, name)


def shard_teacher_layers(model: JetNemotronModel, mesh: DeviceMesh) -> None:
    """Shard each layer of a frozen decoder, which is gathered when it runs and let go of afterwards."""
    for layer in model.layers:
        # Said outright: each layer is the outermost of its kind, which by default would keep what it gathers.
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)


def is_sharded(module: nn.Module) -> bool:
    """Whether parameters of a module are spread over processes, gathered at the moment or not."""
    return any(isinstance(submodule, FSDPModule | FullyShardedDataParallel) for submodule in module.modules())
