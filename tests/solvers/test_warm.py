"""Starts near a solved problem, and solves that stop once something is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from solvers import Anderson, Equilibrium, MonotoneInclusion, Picard, Status, solve
from solvers.linear import INVERSE
from solvers.solver import State
from solvers.until import Until
from solvers.warm import Anchor

N = 12


def weights(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(N, N, generator=generator, dtype=torch.float64)
    return 0.8 * w / torch.linalg.matrix_norm(w, 2)


def problem(x: Tensor) -> Equilibrium:
    w = weights()
    return Equilibrium(lambda z, x: torch.tanh(z @ w.mT + x), (x,), rowwise=True)


def linear(x: Tensor) -> Equilibrium:
    w = weights()
    return Equilibrium(lambda z, x: z @ w.mT + x, (x,))


def point(seed: int = 1, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, N, generator=generator, dtype=torch.float64)


def root(equation: Equilibrium) -> Tensor:
    assert equation.condition is not None
    exact = solve(equation, Anderson(rtol=1e-13), torch.zeros_like(equation.condition[0]))
    return exact.check().value


def anchor(tangent: bool = True) -> tuple[Tensor, Anchor]:
    x = point()
    found = solve(problem(x), Anderson(rtol=1e-13), torch.zeros_like(x)).check()
    return x, Anchor.at(problem(x), found, tangent=tangent)


def test_tangent_start_is_wrong_by_the_square_of_the_shift() -> None:
    x, near = anchor()
    shift = point(2, 5)
    wrong = []
    for size in (1e-2, 5e-3):
        moved = problem(x + size * shift)
        wrong.append((near.tangent(moved) - root(moved)).norm(dim=1))
    # Halving the shift divides a second-order error by 4; a third-order part leaves 5%.
    assert torch.allclose(wrong[0] / wrong[1], torch.full((5,), 4.0, dtype=torch.float64), rtol=0.1)


def test_constant_start_is_wrong_by_the_shift_itself() -> None:
    x, near = anchor(tangent=False)
    shift = point(2, 5)
    wrong = [
        (near.constant(5) - root(problem(x + size * shift))).norm(dim=1) for size in (1e-2, 5e-3)
    ]
    assert torch.allclose(wrong[0] / wrong[1], torch.full((5,), 2.0, dtype=torch.float64), rtol=0.1)


def test_tangent_start_of_a_linear_map_is_its_equilibrium() -> None:
    x = point()
    found = solve(linear(x), Anderson(rtol=1e-13), torch.zeros_like(x)).check()
    moved = linear(x + point(2, 5))
    start = Anchor.at(linear(x), found, tangent=True).tangent(moved)
    eye = torch.eye(N, dtype=torch.float64)
    assert moved.condition is not None
    exact = torch.linalg.solve(eye - weights(), moved.condition[0].mT).mT
    assert torch.allclose(start, exact, atol=1e-11)


def test_anchor_is_one_converged_sample_of_a_size_that_can_be_inverted() -> None:
    x = point(batch=2)
    with pytest.raises(ValueError, match="one solved sample; got 2"):
        Anchor.at(problem(x), solve(problem(x), Picard(rtol=1e-3), x))
    short = solve(problem(x[:1]), Picard(rtol=1e-9, max_steps=1), x[:1])
    with pytest.raises(ValueError, match="reached max_steps"):
        Anchor.at(problem(x[:1]), short)
    large = torch.zeros(1, INVERSE + 1)
    flat = Equilibrium(lambda z, x: 0 * z + x, (large,))
    with pytest.raises(ValueError, match=f"has {INVERSE + 1}"):
        Anchor.at(flat, solve(flat, Picard(), large), tangent=True)


def test_stored_path_gives_the_last_state_before_a_time() -> None:
    from solvers import ODE, InitialValue

    z0 = torch.ones(1, 2)
    decay = InitialValue(lambda t, z: -z, 0.0, 2.0, ())
    near = Anchor(z0, path=solve(decay, ODE("rk4"), z0, record=True).trajectory)
    states = near.along(1.0, 3)
    assert states.shape == (3, 2)
    # 32 stored states over 2 units of time; rk4 at a step of 1/16 errs by far less than 1e-5.
    assert torch.allclose(states, torch.full((3, 2), math.exp(-1.0)), atol=1e-5)
    with pytest.raises(ValueError, match="record=True"):
        Anchor(z0).along(1.0, 3)


def test_until_returns_the_image_that_decided() -> None:
    x = point(3, 6)
    solver = Until(Picard(rtol=1e-12), lambda equation, state: state.residual <= 0.05)
    found = solve(problem(x), solver, torch.zeros_like(x))
    assert bool(found.converged.all())
    plain = solve(problem(x), Picard(rtol=0.05), torch.zeros_like(x))
    assert torch.allclose(found.value, problem(x)(plain.value), atol=1e-14)  # rows are compacted
    assert torch.equal(found.steps, plain.steps)


def test_until_stops_each_sample_by_itself_and_sees_the_rows_of_its_condition() -> None:
    x = point(3, 40) * torch.linspace(0.01, 3, 40, dtype=torch.float64)[:, None]

    def decision(equation: Equilibrium, state: State) -> Tensor:
        assert equation.condition is not None
        assert len(equation.condition[0]) == len(state.z)
        return (state.fz - state.z).norm(dim=1) < 1e-3 * equation.condition[0].norm(dim=1)

    solver = Until(Anderson(rtol=1e-12), decision)
    found = solve(problem(x), solver, torch.zeros_like(x))
    alone = [solve(problem(row), solver, torch.zeros_like(row)) for row in x.split(1)]
    assert len(set(found.steps.tolist())) > 1
    assert torch.equal(found.evals, torch.cat([each.evals for each in alone]))
    assert torch.allclose(found.value, torch.cat([each.value for each in alone]), atol=1e-12)


def test_until_decides_what_is_asked_of_each_sample() -> None:
    x = point(3, 12)
    near = torch.logspace(-6, -1, 12, dtype=torch.float64)[torch.randperm(12)]

    def decision(equation: Equilibrium, state: State, near: Tensor) -> Tensor:
        return state.residual <= near

    found = solve(problem(x), Until(Picard(rtol=1e-12), decision, near), torch.zeros_like(x))
    alone = [
        solve(problem(row), Picard(rtol=float(r)), row * 0)
        for row, r in zip(x.split(1), near, strict=True)
    ]
    assert torch.equal(found.steps, torch.cat([each.steps for each in alone]))
    with pytest.raises(ValueError, match="about has 11 rows, and the state 12"):
        solve(problem(x), Until(Picard(), decision, near[1:]), torch.zeros_like(x))


def test_until_never_calls_an_undecided_sample_converged() -> None:
    x = point(3, 2)
    never = Until(Picard(rtol=1e-3), lambda equation, state: state.residual < 0)
    assert solve(problem(x), never, torch.zeros_like(x)).status.tolist() == [Status.MAX_STEPS] * 2
    always = Until(Picard(), lambda equation, state: state.residual == state.residual)
    broken = torch.full_like(x, math.nan)
    assert solve(problem(broken), always, broken).status.tolist() == [Status.NONFINITE] * 2


def test_an_anchor_of_an_inclusion_evaluates_its_map_anywhere_without_a_product() -> None:
    w = weights()
    products = 0

    def linear_map(z: Tensor) -> Tensor:
        nonlocal products
        products += 1
        return z @ w.mT

    def inclusion(x: Tensor) -> MonotoneInclusion:
        return MonotoneInclusion(condition=(x,), linear=linear_map)

    x, moved = point(), point(2, 5)
    found = solve(inclusion(x), Anderson(rtol=1e-13), torch.zeros_like(x)).check()
    near = Anchor.at(inclusion(x), found, tangent=True)
    before = products
    first, second = near.image(inclusion(moved)), near.tangent(inclusion(moved))
    assert products == before
    plain = Anchor(near.value, near.inverse)
    assert torch.allclose(first, plain.image(inclusion(moved)), atol=1e-14)
    assert torch.allclose(second, plain.tangent(inclusion(moved)), atol=1e-14)
    assert (near.evaluations, plain.evaluations) == (0, 1)
