"""Recipes: what is trained, towards what. Each is a LightningModule that YAML names by its class."""

from jetlit.recipes.distillation import Distillation
from jetlit.recipes.full_training import FullTraining
from jetlit.recipes.optimisation import WarmupCosine
from jetlit.recipes.pretraining import DecoderShape, Pretraining
from jetlit.recipes.recipe import Recipe
from jetlit.recipes.supernet import SuperNetworkTraining
from jetlit.recipes.taught_full_training import TaughtFullTraining

__all__ = [
    "DecoderShape",
    "Distillation",
    "FullTraining",
    "Pretraining",
    "Recipe",
    "SuperNetworkTraining",
    "TaughtFullTraining",
    "WarmupCosine",
]
