"""The Runge-Kutta methods that the tests of this folder run on."""

from __future__ import annotations

import pytest

from solvers import BOSH3, DOPRI5, DOPRI8, EULER, HEUN, MIDPOINT, RK4, TSIT5

PAIRS = [BOSH3, DOPRI5, TSIT5, DOPRI8]
FIXED = [EULER, MIDPOINT, HEUN, RK4]

every_tableau = pytest.mark.parametrize("tableau", [*PAIRS, *FIXED], ids=lambda t: t.name)
every_pair = pytest.mark.parametrize("tableau", PAIRS, ids=lambda t: t.name)
