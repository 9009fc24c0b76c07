"""Image classifiers around an implicit layer."""

from .blocks import LinearHead
from .equilibrium import DEQ, HomoODE, MonotoneDEQ
from .image import ImageModel, ModelOutput
from .neural_ode import AugmentedNeuralODE, NeuralODE
from .start import InitialPoint, VectorPoint

__all__ = [
    "DEQ",
    "AugmentedNeuralODE",
    "HomoODE",
    "ImageModel",
    "InitialPoint",
    "LinearHead",
    "ModelOutput",
    "MonotoneDEQ",
    "NeuralODE",
    "VectorPoint",
]
