"""A layer that is a flow: its rest point, its gradients, its state."""

from __future__ import annotations

import pytest
import torch

from homotopy_deq import FlowLayer, ImplicitLayer
from solvers import (
    ODE,
    Adjoint,
    Flow,
    RungeKutta,
    Solver,
    Then,
    Unroll,
)
from tests.test_layers import EXACT, TIGHT, Bare, dense


def test_rest_point_flow_nears_the_equilibrium_at_the_rate_of_its_horizon() -> None:
    cell, x = dense(), torch.randn(4, 3, dtype=torch.float64)
    root = ImplicitLayer(cell, TIGHT)(x)
    fine = ODE(method="dopri5", rtol=1e-9, atol=1e-9)
    miss = [(FlowLayer(cell, fine, t1=t)(x) - root).norm() for t in (5.0, 10.0, 15.0)]
    # Re(eigenvalue) of J is at most 0.4 or so: each 5 more divide by about e^(0.6 * 5) = 20.
    assert miss[1] < miss[0] / 10 and miss[2] < miss[1] / 10


def test_flow_to_rest_is_the_equilibrium_with_its_gradient() -> None:
    cell, x = dense(), torch.randn(4, 3, dtype=torch.float64)
    layer = ImplicitLayer(cell, TIGHT, EXACT)
    flow = FlowLayer(cell).with_solver(Then(Flow(rtol=1e-12, max_steps=9), TIGHT), EXACT)
    wanted, found = layer.solve(x), flow.solve(x)
    torch.testing.assert_close(found.value, wanted.value, rtol=1e-10, atol=1e-10)
    weight = cell.recurrent.weight
    pair = [torch.autograd.grad(s.value.sum(), weight)[0] for s in (wanted, found)]
    torch.testing.assert_close(pair[0], pair[1], rtol=1e-9, atol=1e-9)
    assert bool((found.evals > flow.with_solver(TIGHT).solve(x, z0=found).evals).all())
    assert bool(found.converged.all())


def test_unrolled_and_adjoint_gradients_of_a_flow_agree() -> None:
    cell, x = dense(), torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    fine = ODE(rtol=1e-9, atol=1e-9)
    wanted = [x, *cell.parameters()]
    found = [
        torch.autograd.grad(FlowLayer(cell, fine, rule)(x).sum(), wanted)
        for rule in (Unroll(), Adjoint())
    ]
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)  # both integrate at 1e-9


def test_flow_says_how_far_from_rest_it_ends() -> None:
    cell, x = dense(), torch.randn(4, 3, dtype=torch.float64)
    flow = FlowLayer(cell, ODE(rtol=1e-9, atol=1e-9))
    condition = flow.condition(x)
    near = flow.residual(flow(x), condition)
    z = flow.equation(condition)(flow(x))
    torch.testing.assert_close(near, (z - flow(x)).norm(dim=1) / z.norm(dim=1))
    assert bool((flow.residual(ImplicitLayer(cell, TIGHT)(x), condition) <= 1e-12).all())
    assert bool((near > 1e-4).all()) and not near.requires_grad
    restless = FlowLayer(cell, rest_point=False)
    assert bool(restless.residual(restless(x), condition).isnan().all())


@pytest.mark.parametrize("solver", [ODE(rtol=1e-7, atol=1e-7), RungeKutta(rtol=1e-7, atol=1e-7)])
def test_flow_of_a_tuple_state_is_that_of_its_parts_joined(solver: Solver) -> None:
    class Pair(Bare):
        def forward(self, z, x):  # type: ignore[no-untyped-def, override]
            return tuple(super().forward(torch.cat(z, 1), x).split([2, 3], 1))

    cell, x = Bare().double(), torch.randn(3, 5, dtype=torch.float64)
    pair = Pair().double()
    pair.load_state_dict(cell.state_dict())
    start = torch.zeros(3, 2, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64)
    flow, joined = FlowLayer(pair, solver), FlowLayer(cell, solver)
    x[1, 0] = float("nan")
    found, wanted = flow.solve(x, start), joined.solve(x)  # type: ignore[arg-type]
    assert torch.equal(torch.cat(found.value, 1), wanted.value)  # type: ignore[arg-type]
    assert found.status.equal(wanted.status) and found.status.tolist() == [1, 3, 1]
    rows, condition = torch.tensor([0, 2]), flow.condition(x[::2])
    parts = tuple(part[rows] for part in found.value)
    near = joined.residual(wanted.value[rows], condition)
    assert torch.equal(flow.residual(parts, condition), near)
    sum(part.sum() for part in found.value).backward()  # type: ignore[union-attr]
    wanted.value.sum().backward()
    torch.testing.assert_close(pair.linear.weight.grad, cell.linear.weight.grad)  # other sums
