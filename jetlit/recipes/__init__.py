"""Recipes: what is trained, and toward what. YAML names each LightningModule by its class."""

from jetlit.errors import moved_names
from jetlit.recipes.base import Recipe
from jetlit.recipes.distillation import Distillation
from jetlit.recipes.full_training import FullTraining
from jetlit.recipes.pretraining import DecoderShape, Pretraining
from jetlit.recipes.supernet import SuperNetworkTraining

__all__ = ["DecoderShape", "Distillation", "FullTraining", "Pretraining", "Recipe", "SuperNetworkTraining"]

__getattr__ = moved_names(
    __name__,
    {
        "TaughtFullTraining": "is FullTraining with a teacher now",
        "WarmupCosine": "is jetlit.training.WarmupCosine now",
    },
)
