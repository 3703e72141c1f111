"""Sharding of a recipe's weights over processes with FSDP2 (`fully_shard`)."""

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from jetlit.models import JetNemotronModel


def shard_recipe(recipe: nn.Module, model: JetNemotronModel, mesh: DeviceMesh, reshard_after_forward: bool) -> None:
    """Shard the trained weights of a recipe: each layer by itself, and the rest with the recipe as the root.

    The chunked objectives read the head's weight outside of the head's own forward pass. Hence the recipe itself is
    the outermost sharded module, and its steps gather what lies outside of the layers.

    Frozen weights stay whole in every process. They have neither gradients nor optimizer state, are half as wide as
    trained ones, and gathering them would be most of the traffic of stage 1. Without them the gathered weights of a
    layer also have one dtype, which lets collectives copy them in one piece. With `reshard_after_forward` they are
    freed between a layer's forward and its backward pass. `mesh` is one-dimensional, over data-parallel processes.
    """
    frozen = {parameter for parameter in recipe.parameters() if not parameter.requires_grad}
    for layer in model.layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=reshard_after_forward, ignored_params=frozen)
    fully_shard(recipe, mesh=mesh, ignored_params=frozen)
    for name in ("training_step", "validation_step", "test_step"):
        register_fsdp_forward_method(recipe, name)


def shard_layers(model: JetNemotronModel, mesh: DeviceMesh) -> None:
    """Shard each layer of a frozen decoder. A layer is gathered when it runs and freed afterward."""
    for layer in model.layers:
        # Each layer is a root, and a root keeps what it gathers unless told otherwise.
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)


def is_sharded(module: nn.Module) -> bool:
    """Return whether any parameters of a module are spread over processes, gathered at the moment or not."""
    return any(isinstance(submodule, FSDPModule) for submodule in module.modules())
