"""One argument swaps the path, and not the answer."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from homotopy_deq import HomoODE, ImplicitLayer
from solvers import (
    DOPRI5,
    RK4,
    Anderson,
    ArcLength,
    Broyden,
    Continuation,
    Flow,
    NewtonKrylov,
    Picard,
    PseudoTransient,
    Robust,
    Solver,
    Then,
)

RTOL = 1e-8
PATHS: list[Solver[Any, Any]] = [
    Picard(rtol=RTOL, max_steps=200),
    Anderson(rtol=RTOL),
    Broyden(rtol=RTOL),
    NewtonKrylov(rtol=RTOL),
    PseudoTransient(rtol=RTOL),
    Continuation(rtol=RTOL),
    ArcLength(rtol=RTOL),
    Robust(rtol=RTOL),
    Flow(rtol=RTOL),
    Flow(RK4, h=1.0, rtol=RTOL),
    Flow(DOPRI5, rtol=RTOL),
    Then(Flow(rtol=RTOL), Anderson(rtol=RTOL)),
]


class Cell(nn.Module):
    """A user's: two layers, and nothing but the map."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(5, 16), nn.Linear(16, 5)
        nn.init.orthogonal_(self.into.weight, 0.8)
        nn.init.orthogonal_(self.out.weight, 0.8)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.into(z))) + x


def largest_difference(answers: list[Tensor]) -> float:
    """Return the largest of ||a - b|| / ||b|| over all pairs of answers and all samples."""
    flat = [answer.flatten(1) for answer in answers]
    return max(
        float(((a - b).norm(dim=1) / b.norm(dim=1)).max())
        for a, b in itertools.permutations(flat, 2)
    )


def demo() -> tuple[HomoODE, Tensor]:
    """Return the demo's model, smaller, with statistics of its images and a map that contracts."""
    model, images = HomoODE((1, 8, 8), hidden=8, head=16, groups=4), torch.rand(64, 1, 8, 8)
    nn.init.constant_(model.layer.cell.norm1.weight, 0.2)  # type: ignore[union-attr, arg-type]
    for _ in range(50):
        model.condition(images)
    return model.double().eval(), images[:4].double()


@pytest.mark.parametrize("kind", ["demo", "cell"])
def test_answers_of_all_root_solvers_and_flows_agree(kind: str) -> None:
    """Each is within rtol / (1 - rho) of the root, so two are within 50 rtol for rho below 0.96."""
    torch.manual_seed(0)
    if kind == "demo":
        model, images = demo()
        layer: Any = model.layer
        x = model.condition(images)
    else:
        layer, x = ImplicitLayer(Cell()).double(), torch.randn(4, 5, dtype=torch.float64)
    with torch.no_grad():
        answers = [layer.with_solver(solver).solve(x).check().value for solver in PATHS]
    assert largest_difference(answers) <= 50 * RTOL
