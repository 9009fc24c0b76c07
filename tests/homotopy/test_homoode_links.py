"""A trained HomoODE: its flow, its rest point and its equilibrium are one answer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

from experiments.homoode_links import links
from homotopy_deq.models import HomoODE
from homotopy_deq.regularization import relative_residual
from solvers import ODE

RTOL = 1e-8


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """Train a small model for 30 steps with the penalty on its residual; return the links."""
    torch.manual_seed(0)
    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).float().view(-1, 1, 8, 8) / 16
    y = torch.from_numpy(labels)
    model = HomoODE((1, 8, 8), 10, hidden=8, head=16, groups=4, solver=ODE("rk4", step_size=0.5))
    optimizer = torch.optim.Adam(model.task_parameters(), lr=3e-3)
    point = torch.optim.SGD(model.initial_point.parameters(), lr=0.5)
    for step in range(30):
        rows = slice(32 * step, 32 * (step + 1))
        output = model.solve(images[rows])
        layer, z = model.layer, output.solution.value
        residual = relative_residual(layer.equation(output.condition).map, z, *output.condition)
        loss = F.cross_entropy(output.logits, y[rows]) + residual.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        point.zero_grad()
        F.smooth_l1_loss(model.initial_point(z), z.detach()).backward()
        point.step()
    return links(model.eval(), images[1000:1016], RTOL, 1e-4)


def test_every_solver_reaches_the_polished_end_of_the_flow(found: dict[str, Any]) -> None:
    agreement = dict(found["distances from the polished end"])
    agreement.pop("flow's end")
    assert len(agreement) == 9
    for name, each in agreement.items():
        # (I - J)^-1 has a norm below 100 here: the residual rtol is a distance of 100 rtol.
        assert each["distance from the polished end, largest"] <= 100 * RTOL, name
        assert each["residual, largest"] <= 1.01 * RTOL, name
        assert each["same class"] == 1, name


def test_flow_ends_near_its_rest_point(found: dict[str, Any]) -> None:
    """e^-5 of the way is left at the horizon 5 where J = 0, and more where it is not."""
    end = found["distances from the polished end"]["flow's end"]
    assert end["distance from the polished end, largest"] <= 0.1
    assert end["median"] <= 0.05


def test_unit_euler_step_of_davidenko_is_a_picard_step_of_the_model(found: dict[str, Any]) -> None:
    assert found["unit Euler step of Davidenko less a Picard step, largest entry"] <= 1e-12


def test_learned_initial_point_is_nearer_than_zeros_and_costs_about_the_same(
    found: dict[str, Any],
) -> None:
    distance = found["distance of the start from the equilibrium, median"]
    assert distance["learned"] < distance["zeros"]
    starts = found["evaluations from the learned initial point and from zeros"]
    for name in ("Picard", "Anderson"):
        learned, zeros = starts[name]["learned"], starts[name]["zeros"]
        assert learned["converged"] == zeros["converged"] == found["images"]
        # One start for all samples, moved for 30 steps: the first evaluation or so is at stake.
        assert learned["evaluations"] <= zeros["evaluations"] + 1
