"""Every solver of an `Equilibrium`: add yours here and the tests of this folder run on it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from solvers import (
    Anderson,
    ArcLength,
    Broyden,
    Continuation,
    Davidenko,
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

STEPPING: list[AnySolver] = [
    Picard(),
    Anderson(),
    Broyden(),
    NewtonKrylov(),
    PseudoTransient(),
    Flow(),
    Continuation(),
    ArcLength(),
    Then(Anderson(), Continuation(), PseudoTransient()),
]
"""Solvers whose `max_steps`, or that of the solvers within, can be set to any number."""

EQUILIBRIUM = [*STEPPING, Davidenko(), Robust()]
"""All of them; a step of the last two is a whole solve."""


STRUCTURED: set[type[AnySolver]] = {ForwardBackward, PeacemanRachford, DouglasRachford}
"""Solvers of a `MonotoneInclusion` alone: their tests are tests/solvers/test_splitting.py."""


def name(solver: object) -> str:
    return type(solver).__name__


every_solver = pytest.mark.parametrize("solver", EQUILIBRIUM, ids=name)
every_stepping_solver = pytest.mark.parametrize("solver", STEPPING, ids=name)


def tuned(solver: AnySolver, **settings: Any) -> AnySolver:
    """Return the solver with other settings, which Then hands to each of its own."""
    if isinstance(solver, Then):
        return Then(*(tuned(each, **settings) for each in solver.solvers))
    if isinstance(solver, Davidenko | Robust):  # a step of theirs is a whole solve
        settings.pop("max_steps", None)
    return replace(solver, **settings)
