"""Tolerances fit the precision that a map computes in, and the answer says so."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from homotopy_deq import ImplicitLayer
from homotopy_deq.cells import ConvCell, DenseCell
from homotopy_deq.lipschitz import LBEN
from homotopy_deq.models import MonotoneDEQ
from solvers import (
    ODE,
    RK4,
    Anderson,
    ArcLength,
    DouglasRachford,
    Equilibrium,
    Flow,
    ForwardBackward,
    Implicit,
    InitialValue,
    NewtonKrylov,
    PeacemanRachford,
    Picard,
    Reversible,
    Robust,
    RungeKutta,
    Status,
    Then,
    Unroll,
    solve,
    solve_at,
)
from tests.contract.every import AnySolver, name
from tests.problems import (
    contractions,
    exact_gradient,
    inclusion,
    normal,
    relative_residual,
    rootless,
)

EPS = {torch.bfloat16: 2**-7, torch.float16: 2**-10}
SOLVERS: list[AnySolver] = [
    Picard(),
    Anderson(),
    NewtonKrylov(),
    ArcLength(),
    Then(Picard(max_steps=1), Anderson()),
    Robust(),
]


class Normalised(nn.Module):
    """Ends in single precision, as float inputs and normalisations do under autocast."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Linear(8, 8)
        nn.init.orthogonal_(self.w.weight, 0.6)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.w(z).float() + x)


CELLS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "dense": (lambda: DenseCell(8, 16), (32, 8)),
    "conv": (lambda: ConvCell(8, groups=2), (8, 8, 4, 4)),
    "single": (Normalised, (32, 8)),
}


@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize("kind", CELLS)
def test_layer_under_autocast_converges_without_a_warning_in_no_more_evaluations(
    kind: str, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    make, shape = CELLS[kind]
    layer, x = ImplicitLayer(make()), torch.randn(shape)
    plain = layer.solve(x)
    assert plain.raised_rtol is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with torch.autocast("cpu", dtype):
            found = layer.solve(x)
            layer(x)
        found.value.square().sum().backward()  # the products J^T u are rounded, too
    assert found.converged.all() and found.raised_rtol == EPS[dtype]
    assert (found.residual <= EPS[dtype]).all()
    assert int(found.evals.max()) <= int(plain.evals.max())


@pytest.mark.parametrize("solver", SOLVERS, ids=name)
def test_residual_is_that_of_the_map_as_autocast_computes_it(solver: AnySolver) -> None:
    w, x = contractions(1, 8, 0.6, 0)[0].float(), normal(1, 6, 8).float()
    problem = Equilibrium(lambda z, x: torch.tanh(nn.functional.linear(z, w) + x), (x,))
    with torch.autocast("cpu", torch.bfloat16):
        found = solve(problem, solver, torch.zeros_like(x))
        true = relative_residual(problem, found.value)
    assert found.converged.all() and found.raised_rtol == 2**-7
    torch.testing.assert_close(found.residual, true.float(), rtol=1e-4, atol=1e-6)
    assert (true <= 2**-7).all()


@pytest.mark.parametrize(
    "solver",
    [
        PeacemanRachford(),
        PeacemanRachford(accelerated=Anderson()),
        DouglasRachford(),
        ForwardBackward(),
        Then(ForwardBackward(max_steps=1), PeacemanRachford()),
    ],
    ids=name,
)
def test_splitting_that_calls_the_linear_map_alone_sees_its_precision(solver: AnySolver) -> None:
    w, x = contractions(1, 8, 0.6, 0)[0].float(), normal(1, 6, 8).float()
    problem = inclusion(w, x)
    with torch.autocast("cpu", torch.bfloat16):
        found = solve(problem, solver, torch.zeros_like(x)).check()
        true = relative_residual(problem, found.value)
    assert found.raised_rtol == 2**-7 and (true <= 2**-7).all()
    assert solve(problem, solver, torch.zeros_like(x)).check().raised_rtol is None


def test_monotone_equilibria_under_autocast_converge_by_their_own_solvers() -> None:
    torch.manual_seed(0)
    model, images = MonotoneDEQ((1, 8, 8), 10, hidden=16, kernel=0), torch.rand(8, 1, 8, 8)
    network, x = LBEN(8, 16, 3), torch.randn(8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with torch.autocast("cpu", torch.bfloat16):
            for found in (model.solve(images).solution, network.layer.solve(x)):
                assert found is not None and found.check().raised_rtol == 2**-7
            loss = model(images).float().square().sum() + network(x).float().square().sum()
        loss.backward()  # type: ignore[no-untyped-call]


def test_map_that_lowers_its_precision_itself_is_seen() -> None:
    x = normal(1, 6, 8).float()
    problem = Equilibrium(lambda z, x: (0.5 * z + x).bfloat16(), (x,))
    assert solve(problem, Anderson(), torch.zeros_like(x)).check().raised_rtol == 2**-7


@pytest.mark.parametrize("solver", [Anderson(), Then(Picard(), Anderson())], ids=name)
def test_map_that_stays_in_single_precision_keeps_its_tolerance(solver: AnySolver) -> None:
    """An elementwise map under autocast, and one that turns autocast off."""
    w, x = contractions(1, 8, 0.6, 0)[0].float(), normal(1, 6, 8).float()

    def off(z: Tensor, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return torch.tanh(z @ w.mT + x)

    for f in (lambda z, x: torch.tanh(0.5 * z + x), off):
        with torch.autocast("cpu", torch.bfloat16):
            found = solve(Equilibrium(f, (x,)), solver, torch.zeros_like(x)).check()
        assert found.raised_rtol is None and (found.residual <= 1e-4).all()


def test_tolerance_below_the_rounding_of_the_state_is_not_raised() -> None:
    """It cannot be met, and the answer says so: only what the map lowers is fitted."""
    x = normal(1, 6, 8).float()
    problem = Equilibrium(lambda z, x: torch.tanh(0.9 * z + x), (x,))
    found = solve(problem, Picard(rtol=1e-12, max_steps=50), torch.zeros_like(x))
    assert found.raised_rtol is None and not found.converged.all()


def test_looser_tolerance_of_the_user_stays_and_a_failure_says_what_was_used() -> None:
    x = normal(1, 6, 8).float()
    problem = Equilibrium(lambda z, x: (0.5 * z + x).bfloat16(), (x,))
    loose = solve(problem, Picard(rtol=0.1), torch.zeros_like(x))
    assert loose.raised_rtol is None and float(loose.residual.max()) > 2**-7
    half = rootless(2)
    lowered = Equilibrium(lambda z, one: half.map(z, one).half(), half.condition)
    failed = solve(lowered, Picard(max_steps=1), torch.zeros(2, 3))
    assert (failed.status == Status.MAX_STEPS).all()
    assert "rtol was raised to 9.8e-04" in failed.report()


def test_gradient_under_autocast_is_that_of_single_precision_to_its_rounding() -> None:
    w, x = contractions(1, 8, 0.6, 0)[0].float(), normal(1, 6, 8).float()
    w.requires_grad_()
    f: Any = lambda z, w, x: torch.tanh(nn.functional.linear(z, w) + x)  # noqa: E731
    with torch.autocast("cpu", torch.bfloat16):
        problem = Equilibrium(lambda z, x: f(z, w, x), (x,))
        value = Implicit().apply(problem, Anderson(), torch.zeros_like(x)).check().value
    (got,) = torch.autograd.grad(value.sum(), w)
    wanted = exact_gradient(f, value, (w, x), torch.ones_like(value))[0]
    # eps of bfloat16 in z* and in u, each times the condition 1 / (1 - .6) at most.
    assert float((got - wanted).norm() / wanted.norm()) <= 2 * 2**-7 / 0.4


def test_products_of_a_gradient_under_autocast_meet_their_tolerance() -> None:
    """They are rounded like f, so that none of them would have a residual of 1e-6."""
    torch.manual_seed(0)
    layer = ImplicitLayer(DenseCell(8, 64), Anderson(rtol=1e-2), Implicit(Anderson(rtol=1e-6)))
    x = torch.randn(8, 8, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a backward pass that does not converge warns
        with torch.autocast("cpu", torch.bfloat16):
            z = layer(x)
        (gradient,) = torch.autograd.grad(z.float().square().sum(), x)
    assert gradient.isfinite().all() and bool(gradient.any())


def test_flow_to_rest_under_autocast_ends_at_a_tolerance_that_it_meets() -> None:
    layer, x = ImplicitLayer(DenseCell(8, 16), Then(Flow(), Anderson())), torch.randn(32, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer.solve(x)
    assert found.converged.all() and found.raised_rtol == 2**-7


def test_steps_of_a_flow_do_not_chase_the_rounding_of_their_field() -> None:
    w, x = 2 * contractions(1, 8, 1.0, 0)[0], 5 * normal(1, 16, 8)

    def field(t: Tensor, z: Tensor, x: Tensor) -> Tensor:
        return nn.functional.linear(torch.tanh(z), w.to(z)) + x - z

    def lowered(t: Tensor, z: Tensor, x: Tensor) -> Tensor:
        minus = nn.functional.linear(z, -torch.eye(8))
        return minus + nn.functional.linear(torch.tanh(z), w.to(z)) + x

    def unseen(t: Tensor, z: Tensor, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return lowered(t, z, x).float()

    limits = {"rtol": 1e-9, "atol": 1e-9}
    flow = InitialValue(field, t1=5.0, condition=(x,), rowwise=True)
    exact = solve(flow, RungeKutta(**limits), 0 * x).check().value
    unaware, aware = (
        InitialValue(f, t1=5.0, condition=(x.float(),), rowwise=True) for f in (unseen, lowered)
    )
    z0 = torch.zeros(16, 8)
    chasing = solve(unaware, RungeKutta(), z0).check()
    with torch.autocast("cpu", torch.bfloat16):
        found = solve(aware, RungeKutta(), z0).check()
        equal = solve(aware, RungeKutta(RK4), z0).check()
    assert chasing.raised_rtol is None and found.raised_rtol == 2**-7
    assert found.evals.sum() < 0.95 * chasing.evals.sum()
    # Both err by the rounding of the slopes, whose unit is 2^-8, and by little else.
    error = (found.value - exact).norm(dim=1) / exact.norm(dim=1)
    assert (error <= 2**-7).all()
    assert equal.raised_rtol is None  # it has no tolerance


@pytest.mark.parametrize(
    ("solver", "rule"),
    [
        (ODE(), Unroll()),
        (ODE("rk4"), Unroll()),
        (RungeKutta(RK4), Unroll()),
        (RungeKutta(RK4), Reversible()),
    ],
    ids=name,
)
def test_flow_with_no_tolerance_to_raise_says_of_none_at_any_of_its_times(
    solver: AnySolver, rule: Any
) -> None:
    """Each way from one time to the next is that of a solve of its own, to the bit."""
    w, x = 2 * contractions(1, 8, 1.0, 0)[0].float(), normal(1, 4, 8).float()
    flow = InitialValue(
        lambda t, z, x: nn.functional.linear(torch.tanh(z), w) + x - z, condition=(x,)
    )
    with torch.autocast("cpu", torch.bfloat16):
        found = solve_at(flow, solver, 0 * x, [0.5, 1.0], rule).check()
        half = rule.apply(replace(flow, t1=0.5), solver, 0 * x)
        whole = rule.apply(replace(flow, t0=0.5), solver, half.value)
    assert found.raised_rtol is None
    assert found.value.equal(whole.value) and found.evals.equal(half.evals + whole.evals)


@pytest.mark.parametrize("own", ["high", torch.eye(2)])
def test_what_a_map_calls_its_precision_is_its_own(own: object) -> None:
    class Map:
        precision = own

        def __call__(self, z: Tensor, x: Tensor) -> Tensor:
            return 0.5 * z + x

    assert solve(Equilibrium(Map(), (torch.ones(2, 2),)), Anderson(), torch.zeros(2, 2)).check()
