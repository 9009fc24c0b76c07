"""What can be chosen, declared once, and without anything that needs torch."""

from .certification import NoiseSettings, Votes
from .data import DataSettings
from .model import BOUNDED, MODELS, RECIPES, BackwardPass, ForwardPass, ModelSettings
from .training import SmoothTraining, TrainConfig
from .tree import Settings

__all__ = [
    "BOUNDED",
    "MODELS",
    "RECIPES",
    "BackwardPass",
    "DataSettings",
    "ForwardPass",
    "ModelSettings",
    "NoiseSettings",
    "Settings",
    "SmoothTraining",
    "TrainConfig",
    "Votes",
]
