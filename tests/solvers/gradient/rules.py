"""Every rule, with the settings that the tests of all of them share."""

from __future__ import annotations

from typing import Any

from solvers import (
    ODE,
    RK4,
    SHINE,
    Adjoint,
    Anderson,
    Broyden,
    Implicit,
    NewtonKrylov,
    Phantom,
    Picard,
    Reversible,
    RungeKutta,
    Unroll,
)

TIGHT = Anderson(rtol=1e-12)
EXACT = Implicit(TIGHT)
HALF = Picard(damping=0.5, rtol=1e-2)

RULES: dict[str, tuple[Any, Any]] = {
    "Implicit": (EXACT, TIGHT),
    "Implicit by Newton": (Implicit(NewtonKrylov(rtol=1e-10)), TIGHT),
    "SHINE": (SHINE(TIGHT), Broyden(rtol=1e-12)),
    "SHINE alone": (SHINE(), Broyden(rtol=1e-12)),
    "Phantom": (Phantom(3), TIGHT),
    "Unroll": (Unroll(), TIGHT),
    "Unroll in segments": (Unroll(checkpoint=4), TIGHT),
    "Reversible": (Reversible(), HALF),
    "Reversible along a flow": (Reversible(), RungeKutta(RK4, step_size=0.5)),
    "Adjoint": (Adjoint(), ODE(rtol=1e-6, atol=1e-6)),
}
"""Each with a solver whose answers it can differentiate."""
