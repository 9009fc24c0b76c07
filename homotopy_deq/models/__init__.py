"""Image classifiers around an implicit layer."""

from .blocks import AffineHead, LinearHead, readout
from .equilibrium import DEQ, HomoODE, MonotoneDEQ
from .image import ImageModel, ModelOutput, configured
from .neural_ode import AugmentedNeuralODE, NeuralODE
from .start import InitialPoint, VectorPoint

__all__ = [
    "DEQ",
    "AffineHead",
    "AugmentedNeuralODE",
    "HomoODE",
    "ImageModel",
    "InitialPoint",
    "LinearHead",
    "ModelOutput",
    "MonotoneDEQ",
    "NeuralODE",
    "VectorPoint",
    "configured",
    "readout",
]
