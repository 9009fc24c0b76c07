"""How an answer is differentiated: a choice apart from the path followed to it."""

from .adjoint import Adjoint
from .gradient import Gradient, RootGradient
from .implicit import Implicit
from .phantom import Phantom
from .reversible import Reversible
from .shine import SHINE
from .unroll import Unroll

__all__ = [
    "SHINE",
    "Adjoint",
    "Gradient",
    "Implicit",
    "Phantom",
    "Reversible",
    "RootGradient",
    "Unroll",
]
