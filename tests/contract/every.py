"""Every solver of an `Equilibrium`: add yours here and the tests of this folder run on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from solvers import (
    Anderson,
    ArcLength,
    Broyden,
    Continuation,
    Davidenko,
    DeltaAnderson,
    DeltaPicard,
    DouglasRachford,
    Flow,
    ForwardBackward,
    NewtonKrylov,
    PeacemanRachford,
    Picard,
    PseudoTransient,
    Robust,
    Solver,
    Then,
)

AnySolver = Solver[Any, Any]

EVALUATING: list[AnySolver] = [
    Picard(),
    Anderson(),
    Broyden(),
    NewtonKrylov(),
    PseudoTransient(),
    Flow(),
    DeltaPicard(),
    DeltaAnderson(),
]
"""Solvers whose every state holds f(z), and which end where it meets the tolerance."""

PATHS: list[AnySolver] = [Continuation(), ArcLength()]
"""Solvers whose steps end on roots of other equations."""

STEPPING = [*EVALUATING, *PATHS, Then(Anderson(), Continuation(), PseudoTransient())]
"""Solvers whose `max_steps`, or that of the solvers within, can be set to any number."""

EQUILIBRIUM = [*STEPPING, Davidenko(), Robust()]
"""Those of any `Equilibrium`; a step of the last two is a whole solve."""

SPLITTINGS: list[AnySolver] = [ForwardBackward(), PeacemanRachford(), DouglasRachford()]
"""Those of a `MonotoneInclusion` alone."""


def name(solver: object) -> str:
    return type(solver).__name__


def every(solvers: Sequence[AnySolver]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("solver", solvers, ids=name)


every_solver = every([*EQUILIBRIUM, *SPLITTINGS])  # on an equation that is an inclusion too
every_stepping_solver = every([*STEPPING, *SPLITTINGS])
every_solver_of_any_map = every(EQUILIBRIUM)
every_stepping_solver_of_any_map = every(STEPPING)


def tuned(solver: AnySolver, **settings: Any) -> AnySolver:
    """Return the solver with other settings, which Then hands to each of its own."""
    if isinstance(solver, Davidenko):  # a step of its is a whole solve
        settings.pop("max_steps", None)
    elif isinstance(solver, Robust) and "max_steps" not in settings:
        return replace(solver, **settings)
    elif isinstance(solver, Then):
        return Then(*(tuned(each, **settings) for each in solver.solvers))
    return replace(solver, **settings)
