"""Implicit layers for PyTorch: one equation, many paths to its answer, one gradient."""

from __future__ import annotations

from . import _origin as _origin  # isort: skip  (before anything imports solvers)

from solvers import (
    ODE,
    Adjoint,
    Anderson,
    ArcLength,
    Broyden,
    Continuation,
    Equilibrium,
    Implicit,
    InitialValue,
    NewtonKrylov,
    Phantom,
    Picard,
    PseudoTransient,
    Robust,
    Solution,
    SolveError,
    Status,
    SteadyState,
    Then,
    Unroll,
    solve,
)

from .layers import ConvergenceWarning, FlowLayer, ImplicitLayer
from .models import DEQ, AugmentedNeuralODE, HomoODE, MonotoneDEQ, NeuralODE

__version__ = "0.1.0"

__all__ = [
    "DEQ",
    "ODE",
    "Adjoint",
    "Anderson",
    "ArcLength",
    "AugmentedNeuralODE",
    "Broyden",
    "Continuation",
    "ConvergenceWarning",
    "Equilibrium",
    "FlowLayer",
    "HomoODE",
    "Implicit",
    "ImplicitLayer",
    "InitialValue",
    "MonotoneDEQ",
    "NeuralODE",
    "NewtonKrylov",
    "Phantom",
    "Picard",
    "PseudoTransient",
    "Robust",
    "Solution",
    "SolveError",
    "Status",
    "SteadyState",
    "Then",
    "Unroll",
    "__version__",
    "solve",
]
