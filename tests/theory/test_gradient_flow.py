"""Gradient flow of scalar DEQs: conserved quantities, rates, and the runs that are on record."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from homotopy_deq.theory import (
    ExplicitSingleIndex,
    LinearDEQ,
    SingleIndexDEQ,
    singular_distance,
    truncated,
)

X = torch.from_numpy(np.random.default_rng(42).uniform(0, 1, 1000))[:, None]
START = torch.from_numpy(np.random.default_rng(43).normal(0, 0.1, 2))
LINEAR = SingleIndexDEQ(X, 2 * X[:, 0])
SIGMOID = SingleIndexDEQ(X, torch.sigmoid(2 * X[:, 0]), torch.sigmoid)


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_linear_run_ends_at_the_recorded_digits() -> None:
    path = LINEAR.descend(START, 0.01, 200)
    assert torch.allclose(path[-1], vector(0.8402617, 0.5798692), rtol=0, atol=6e-8)
    assert LINEAR.risk(path[-1]) == pytest.approx(5.4535e-25, rel=1e-2)  # a rounding's worth left
    c = LINEAR.conserved(path).sqrt()
    assert torch.allclose(c[[0, -1]], vector(0.932502, 0.939441), rtol=0, atol=6e-7)
    late = LINEAR.risk(path[120]) / LINEAR.risk(path[119])
    assert late == pytest.approx(0.65908, abs=1e-4)
    assert late == pytest.approx(LINEAR.late_factor(path[-1], 0.01), abs=1e-4)


def test_the_sigmoid_run_passes_the_recorded_digits() -> None:
    end = SIGMOID.descend(START, 0.1, 4000)[-1]
    assert torch.allclose(end, vector(1.63276, 0.23598), rtol=0, atol=6e-6)
    assert SIGMOID.risk(end) == pytest.approx(2.3665e-4, abs=6e-9)


@pytest.mark.slow
def test_the_long_sigmoid_run_ends_at_the_recorded_digits() -> None:
    end = SIGMOID.descend(START, 0.1, 40_000)[-1]
    assert torch.allclose(end, vector(1.999887, 7.19e-5), rtol=0, atol=6e-7)
    assert SIGMOID.risk(end) == pytest.approx(1.9633e-11, rel=1e-3)


def test_descent_leaves_the_sphere_by_its_steps_squared_and_in_proportion_to_them() -> None:
    theta, rate = START, 0.02
    step = LINEAR.gradient(theta)
    grown = LINEAR.conserved(theta - rate * step) - LINEAR.conserved(theta)
    assert float(grown) == pytest.approx(rate**2 * float(step.square().sum()), rel=1e-12)
    drifts = []
    for eta in (0.02, 0.01, 0.005, 0.0025):
        c = LINEAR.conserved(LINEAR.descend(START, eta, round(2 / eta))).sqrt()
        drifts.append(float(c[-1] - c[0]))
    assert drifts == pytest.approx([0.01388, 0.00694, 0.00347, 0.00173], abs=6e-6)


def test_the_flow_of_the_linear_model_stays_on_its_sphere() -> None:
    end = LINEAR.flow(START, 2.0)
    assert float((LINEAR.conserved(end) - LINEAR.conserved(START)).abs()) <= 1e-10
    bound = LINEAR.risk(START) * np.exp(-LINEAR.rate(START) * 2.0)
    assert 0 < LINEAR.risk(end) <= bound
    c2 = float(LINEAR.conserved(START))
    assert float(singular_distance(end, c2)) == pytest.approx(float((1 - end[-1]).abs()), rel=1e-9)


def test_the_flow_is_the_limit_of_descent() -> None:
    end = LINEAR.flow(START, 1.0)
    errors = [float((LINEAR.descend(START, 1 / n, n)[-1] - end).norm()) for n in (500, 1000)]
    assert errors[1] / errors[0] == pytest.approx(0.5, abs=0.02)


def test_a_nonlinear_model_has_no_such_law() -> None:
    model = SingleIndexDEQ(X, torch.tanh(2 * X[:, 0]), torch.tanh)
    c2 = model.conserved(model.descend(vector(0.3, 0.3), 0.1, 1000))
    assert float(c2[0]) == pytest.approx(0.58, abs=1e-12)
    assert float(c2[-1]) > 1.44  # on record without its time, which is about 640 steps here
    end = model.flow(START, 20.0)
    assert float((model.conserved(end) - model.conserved(START)).abs()) > 0.1


@pytest.mark.parametrize(
    "phi",
    [None, torch.tanh, torch.sigmoid, torch.relu, torch.nn.functional.leaky_relu,
     torch.nn.functional.gelu],
)  # fmt: skip
def test_the_gradient_is_that_of_the_risk(phi: object) -> None:
    x = torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    xi = vector(1.0, -0.5, 0.3)
    target = x @ xi if phi is None else phi(x @ xi)  # type: ignore[operator]
    model = SingleIndexDEQ(x, target, phi)  # type: ignore[arg-type]
    theta = vector(0.3, 0.1, -0.2, 0.4)
    step = 1e-6
    numeric = torch.stack(
        [
            vector((model.risk(theta + step * e) - model.risk(theta - step * e)) / 2 / step)[0]
            for e in torch.eye(4, dtype=torch.float64)
        ]
    )
    assert torch.allclose(model.gradient(theta), numeric, rtol=1e-5, atol=1e-8)
    assert model.risk(torch.cat((xi, vector(0.0)))) < 1e-28


def test_a_step_below_the_bound_is_stable_and_one_above_is_not() -> None:
    x = vector(1.0, -1.0)[:, None]
    model = SingleIndexDEQ(x, 2 * x[:, 0])
    solution = vector(1.0, 0.5)  # beta = 2
    bound = model.largest_step(solution, vector(2.0))
    near = solution + vector(1e-6, 0.0)
    assert model.risk(model.descend(near, 0.95 * bound, 400)[-1]) < model.risk(near) * 1e-6
    assert model.risk(model.descend(near, 1.05 * bound, 60)[-1]) > model.risk(near) * 10


def test_a_truncated_gradient_is_the_exact_one_times_its_factor() -> None:
    exact = LINEAR.gradient(START)
    for terms in (1, 2, 3):
        factor = 1 - START[-1] ** terms
        assert torch.allclose(truncated(LINEAR, terms).gradient(START), factor * exact)


def test_two_terms_stall_where_one_three_and_all_reach_the_solution() -> None:
    x = vector(1.0, -1.0)[:, None]
    model = SingleIndexDEQ(x, x[:, 0])
    start = vector(8**0.5, 0.0)
    stalled = truncated(model, 2).descend(start, 0.02, 5000)[-1]
    assert torch.allclose(stalled, vector(2.25305, -1.0), rtol=0, atol=6e-6)
    assert truncated(model, 2).risk(stalled) == pytest.approx(0.0160086, abs=6e-8)
    for terms in (1, 3, None):
        assert model.risk(truncated(model, terms).descend(start, 0.02, 5000)[-1]) < 1e-28


def test_the_matrix_flow_conserves_both_products() -> None:
    g = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return 0.4 * torch.randn(*shape, generator=g, dtype=torch.float64)

    x = 2 * normal(30, 3)
    model = LinearDEQ(x, x @ normal(3, 2))
    start = normal(4, 4), normal(4, 3), normal(2, 4)
    end = model.flow(*start, time=3.0)
    assert float(model.loss(*end)) < 0.5 * float(model.loss(*start))
    for before, after in zip(model.conserved(*start), model.conserved(*end), strict=True):
        assert float((before - after).abs().max()) <= 1e-13


def test_the_explicit_peer_learns_the_same_target() -> None:
    model = ExplicitSingleIndex(X, torch.tanh(2 * X[:, 0]), torch.tanh)
    path = model.descend(vector(0.1), 1.0, 2000)
    assert model.risk(path[-1]) < 1e-8
    assert float(path[-1]) == pytest.approx(2, abs=1e-2)


def test_an_intercept_is_learnt() -> None:
    model = SingleIndexDEQ(X, 2 * X[:, 0] + 0.5, intercept=True)
    end = model.descend(vector(0.1, 0.0, 0.1), 0.1, 3000)[-1]
    beta = end[:-1] / (1 - end[-1])
    assert torch.allclose(beta, vector(2.0, 0.5), atol=1e-3)


def test_an_equation_without_a_solution_is_refused() -> None:
    model = SingleIndexDEQ(X, X[:, 0], lambda u: u + 1 + u.square())
    with pytest.raises(ValueError, match="no equilibrium"):
        model.output(vector(1.0, 1.0))
    for singular in (LINEAR, SingleIndexDEQ(X, X[:, 0], torch.relu)):
        with pytest.raises(ValueError, match="no equilibrium"):
            singular.risk(vector(0.1, 1.0))
    for x in (X[:, 0], X.float(), X[:0]):
        with pytest.raises(ValueError, match="x must be"):
            SingleIndexDEQ(x, x.flatten())
    with pytest.raises(ValueError, match="terms must be"):
        truncated(LINEAR, 0)


@pytest.mark.parametrize("th2", [0.99, 1.0, 1.0001, 1.5, -3.0])
def test_an_equilibrium_is_found_on_both_sides_of_the_singular_point(th2: float) -> None:
    theta = vector(0.1, th2)
    y = SingleIndexDEQ(X, X[:, 0], torch.tanh).output(theta)
    assert float((torch.tanh(0.1 * X[:, 0] + th2 * y) - y).abs().amax()) < 1e-12
