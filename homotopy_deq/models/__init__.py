"""Image classifiers around an implicit layer."""

from .equilibrium import DEQ, HomoODE
from .image import ImageModel, ModelOutput
from .neural_ode import AugmentedNeuralODE, NeuralODE
from .recipes import RECIPES, Recipe
from .start import InitialPoint

__all__ = [
    "DEQ",
    "RECIPES",
    "AugmentedNeuralODE",
    "HomoODE",
    "ImageModel",
    "InitialPoint",
    "ModelOutput",
    "NeuralODE",
    "Recipe",
]
