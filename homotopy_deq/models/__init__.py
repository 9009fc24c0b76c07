"""Image classifiers around an implicit layer."""

from .blocks import AffineHead, LinearHead, readout
from .equilibrium import DEQ, HomoODE, MonotoneDEQ
from .image import ImageModel, ModelOutput, configured
from .lipschitz import (
    AOLNetwork,
    BoundedModel,
    CPLNetwork,
    ExplicitNetwork,
    LBENNetwork,
    SandwichNetwork,
    SLLNetwork,
)
from .mdeq import MDEQ
from .neural_ode import AugmentedNeuralODE, NeuralODE
from .residual import ResidualNetwork
from .stack import Stack
from .start import InitialPoint, InputPoint, StartPoint, StatePoint

__all__ = [
    "DEQ",
    "MDEQ",
    "AOLNetwork",
    "AffineHead",
    "AugmentedNeuralODE",
    "BoundedModel",
    "CPLNetwork",
    "ExplicitNetwork",
    "HomoODE",
    "ImageModel",
    "InitialPoint",
    "LBENNetwork",
    "InputPoint",
    "LinearHead",
    "ModelOutput",
    "MonotoneDEQ",
    "NeuralODE",
    "ResidualNetwork",
    "SLLNetwork",
    "SandwichNetwork",
    "Stack",
    "StartPoint",
    "StatePoint",
    "configured",
    "readout",
]
