"""Implicit layers for PyTorch: one equation, many paths to its answer, one gradient."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from . import _origin as _origin  # before anything imports solvers

if TYPE_CHECKING:
    from solvers import (
        BOSH3,
        DOPRI5,
        DOPRI8,
        EULER,
        HEUN,
        MIDPOINT,
        ODE,
        RK4,
        SHINE,
        TSIT5,
        Adjoint,
        Anderson,
        ArcLength,
        Broyden,
        Continuation,
        DeltaPicard,
        Equilibrium,
        Flow,
        Implicit,
        InitialValue,
        NewtonKrylov,
        Phantom,
        Picard,
        PseudoTransient,
        Reversible,
        Robust,
        RungeKutta,
        Solution,
        SolveError,
        Status,
        SteadyState,
        Tableau,
        Then,
        Unroll,
        solve,
    )

    from .create import create_model, list_models
    from .diagnosis import diagnose
    from .layers import ConvergenceWarning, FlowLayer, ImplicitLayer
    from .models import (
        DEQ,
        MDEQ,
        AugmentedNeuralODE,
        HomoODE,
        MonotoneDEQ,
        NeuralODE,
        ResidualNetwork,
    )

__version__ = "0.1.0"

__all__ = [
    "BOSH3",
    "DEQ",
    "DOPRI5",
    "DOPRI8",
    "EULER",
    "HEUN",
    "MDEQ",
    "MIDPOINT",
    "ODE",
    "RK4",
    "SHINE",
    "TSIT5",
    "Adjoint",
    "Anderson",
    "ArcLength",
    "AugmentedNeuralODE",
    "Broyden",
    "Continuation",
    "ConvergenceWarning",
    "DeltaPicard",
    "Equilibrium",
    "Flow",
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
    "Reversible",
    "PseudoTransient",
    "ResidualNetwork",
    "Robust",
    "RungeKutta",
    "Solution",
    "SolveError",
    "Status",
    "SteadyState",
    "Tableau",
    "Then",
    "Unroll",
    "__version__",
    "create_model",
    "diagnose",
    "list_models",
    "solve",
]

HOMES = (".create", "solvers", ".layers", ".models", ".diagnosis")
"""Where a name is looked for, the cheapest first."""

if not TYPE_CHECKING:  # which would take any name for one of ours

    def __getattr__(name: str) -> object:
        """Import what is asked for when it is asked for: a help text needs no torch."""
        if name in __all__:
            homes = (import_module(home, __name__) for home in HOMES)
            return next(getattr(home, name) for home in homes if hasattr(home, name))
        if find_spec(f"{__name__}.{name}") is not None:
            return import_module(f".{name}", __name__)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        """Tell the names that are imported when asked for, too, as a notebook completes them."""
        return sorted({*globals(), *__all__})
