from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from solvers import (
    DOPRI8,
    InitialValue,
    RungeKutta,
    Tableau,
    solve,
)
from tests.problems import DOUBLE

from .tableaus import every_pair, every_tableau


@every_tableau
def test_halving_the_step_divides_the_error_by_two_to_the_order(tableau: Tableau) -> None:
    """z' = z^2 cos t, z(0) = 1/2: z = 1 / (2 - sin t), at t = 1."""
    problem = InitialValue(lambda t, z: z * z * torch.cos(t))
    exact, start = 1 / (2 - math.sin(1)), torch.full((1, 1), 0.5, dtype=DOUBLE)
    coarse = 4 if tableau is DOPRI8 else 32  # steps, such that the errors are above rounding
    error = [
        abs(float(solve(problem, RungeKutta(method, step_size=1 / n), start).value) - exact)
        for n in (coarse, 2 * coarse)
        for method in [replace(tableau, error=())]
    ]
    # The next term of the error is some steps of 1/32 (1/4 at order 8) beside the first.
    assert abs(math.log2(error[0] / error[1]) - tableau.order) < 0.35


@every_pair
def test_error_estimate_shrinks_with_the_order_of_the_pair(tableau: Tableau) -> None:
    """The weights b - b^ of a p(p-1) pair give an error of order p in the step."""
    problem = InitialValue(lambda t, z: z * z * torch.cos(t))
    start = torch.full((1, 1), 1.5, dtype=DOUBLE)

    def estimate(h: float) -> float:
        method = RungeKutta(tableau, rtol=0.0, atol=1.0)
        end = torch.full((1,), h, dtype=DOUBLE)
        return float(method._attempt(problem, method.init(problem, start), end)[2])

    h = 0.05 if tableau is DOPRI8 else 0.02
    assert abs(math.log2(estimate(h) / estimate(h / 2)) - tableau.order) < 0.35


def test_a_tableau_that_does_not_add_up_is_refused() -> None:
    assert Tableau("ralston", 2, (2 / 3,), ((2 / 3,),), (1 / 4, 3 / 4)).order == 2
    for c, a, b, error in [
        ((0.5,), ((0.6,),), (0.0, 1.0), ()),
        ((0.5,), ((0.5,),), (0.1, 1.0), ()),
        ((0.5,), ((0.5, 0.0),), (0.0, 1.0), ()),
        ((0.5,), ((0.5,),), (0.0, 1.0), (0.1, -0.1)),
        ((), ((0.5,),), (0.0, 1.0), ()),
    ]:
        with pytest.raises(ValueError, match="Tableau mine: a needs rows"):
            Tableau("mine", 2, c, a, b, error)
