"""Homotopies: deform an easy equation into the one to be solved, and follow its root."""

from .arclength import ArcLength
from .branch import Branch, BranchPoint, Fold
from .control import StepControl
from .curve import Curve, Family
from .davidenko import Davidenko
from .maps import Convex, Custom, FixedPoint, Homotopy, Input, Newton
from .natural import Continuation
from .path import Chord
from .predictor import Constant, Hermite, Predictor, Secant, Tangent
from .trace import trace

__all__ = [
    "ArcLength",
    "Branch",
    "BranchPoint",
    "Chord",
    "Constant",
    "Continuation",
    "Convex",
    "Curve",
    "Custom",
    "Davidenko",
    "Family",
    "FixedPoint",
    "Fold",
    "Hermite",
    "Homotopy",
    "Input",
    "Newton",
    "Predictor",
    "Secant",
    "StepControl",
    "Tangent",
    "trace",
]
