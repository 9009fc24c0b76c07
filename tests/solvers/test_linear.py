from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from solvers import ArcLength, Equilibrium, NewtonKrylov, PseudoTransient, Unroll, solve
from solvers.jacobian import Linearization, jvp
from solvers.linear import GMRES, BySize, Dense, LinearSolver, gmres
from tests.homotopy.suite import tanh_suite
from tests.problems import DOUBLE, contractions, normal

EYE6 = torch.eye(6, dtype=DOUBLE)


def times(a: Tensor) -> Any:
    return lambda v: (a @ v.flatten(1)[..., None]).view_as(v)


def missed(a: Tensor, d: Tensor, b: Tensor) -> Tensor:
    return (times(a)(d) - b).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)


@given(
    batch=st.integers(1, 4), n=st.integers(1, 9), norm=st.floats(0, 0.95), seed=st.integers(0, 999)
)
def test_gmres_solves_what_a_dense_solver_solves(
    batch: int, n: int, norm: float, seed: int
) -> None:
    a = torch.eye(n, dtype=DOUBLE) - contractions(batch, n, norm, seed)
    b = normal(seed + 1, batch, n)
    d, residual = gmres(times(a), b, rtol=1e-13, max_steps=n)
    # The condition number is below (1 + .95) / (1 - .95) = 39.
    torch.testing.assert_close(d, torch.linalg.solve(a, b), rtol=0, atol=1e-10 * float(b.norm()))
    assert (residual <= 1e-12).all()


@given(n=st.integers(2, 8), steps=st.integers(1, 7), seed=st.integers(0, 999))
def test_gmres_minimises_the_residual_over_the_krylov_space(n: int, steps: int, seed: int) -> None:
    a = torch.eye(n, dtype=DOUBLE) - contractions(1, n, 0.9, seed)
    b = normal(seed + 1, 1, n)
    d, residual = gmres(times(a), b, rtol=0.0, max_steps=steps)
    powers = [b[0]]
    for _ in range(min(steps, n) - 1):
        powers.append(a[0] @ powers[-1])
    space, _ = torch.linalg.qr(torch.stack(powers, 1))
    best = torch.linalg.lstsq(a[0] @ space, b[0][:, None]).solution
    least = (a[0] @ space @ best - b[0][:, None]).norm() / b.norm()
    # The powers of A that span the space here are ill-conditioned; the space of gmres is not.
    torch.testing.assert_close(missed(a, d, b)[0], least, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(residual[0], missed(a, d, b)[0], rtol=1e-6, atol=1e-12)


def test_each_sample_stops_at_its_own_tolerance() -> None:
    a = EYE6 - contractions(3, 6, 0.8, 0)
    b, rtol = normal(1, 3, 6), torch.tensor([0.3, 1e-2, 1e-11], dtype=DOUBLE)
    d, residual = gmres(times(a), b, rtol=rtol, max_steps=6)
    assert (missed(a, d, b) <= rtol).all()
    torch.testing.assert_close(residual, missed(a, d, b), rtol=1e-6, atol=1e-13)
    assert residual[0] > 1e-4  # it went no farther than it had to


def test_sample_does_not_see_its_batch_mates_in_gmres() -> None:
    """A sample that has stopped keeps its answer while others go on, to the last digit or so."""
    a = EYE6 - contractions(4, 6, 0.8, 0)
    a[2] = float("nan")
    b = normal(1, 4, 6)
    b[3] = 0
    rtol = torch.tensor([0.3, 1e-11, 1e-3, 1e-3], dtype=DOUBLE)
    together, residual = gmres(times(a), b, rtol=rtol, max_steps=6)
    for k in (0, 1, 3):
        alone, own = gmres(times(a[k : k + 1]), b[k : k + 1], rtol=rtol[k : k + 1], max_steps=6)
        torch.testing.assert_close(together[k], alone[0], rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(residual[k], own[0], rtol=1e-10, atol=1e-14)


def test_breakdown_is_the_exact_answer() -> None:
    """An operator whose minimal polynomial has degree k spans the answer in k vectors."""
    a = torch.diag(torch.tensor([2.0, 2, 2, 5, 5, 5], dtype=DOUBLE))[None]
    b, products = normal(0, 1, 6), 0

    def counted(v: Tensor) -> Tensor:
        nonlocal products
        products += 1
        return times(a)(v)

    d, residual = gmres(counted, b, rtol=0.0, max_steps=6)
    assert products <= 3  # 2, and one whose remainder is rounding
    torch.testing.assert_close(d[0], b[0] / a[0].diagonal(), rtol=1e-13, atol=0)
    assert residual[0] < 1e-14


def test_zero_right_side_has_the_answer_zero() -> None:
    d, residual = gmres(times(EYE6[None]), torch.zeros(1, 6, dtype=DOUBLE), rtol=0.1, max_steps=5)
    assert (d == 0).all() and (residual == 0).all()


def test_no_step_is_no_progress() -> None:
    d, residual = gmres(times(EYE6[None]), torch.ones(1, 6, dtype=DOUBLE), rtol=0.1, max_steps=0)
    assert (d == 0).all() and (residual == 1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_singular_operator_gives_no_huge_answer(dtype: torch.dtype) -> None:
    zero, b = torch.zeros(1, 6, 6, dtype=dtype), normal(0, 1, 6, dtype=dtype)
    d, residual = gmres(times(zero), b, rtol=1e-3, max_steps=6)
    assert (d == 0).all() and (residual == 1).all()
    # With a kernel, but a right side in the range, it is solved.
    diagonal = torch.tensor([1.0, 2, 3, 4, 5, 0], dtype=dtype)
    b[0, 5] = 0
    d, residual = gmres(times(torch.diag(diagonal)[None]), b, rtol=0.0, max_steps=6)
    torch.testing.assert_close(d[0, :5], b[0, :5] / diagonal[:5], rtol=1e-4, atol=1e-5)
    assert d[0, 5] == 0 and residual[0] < 1e-4


def test_reported_residual_of_a_singular_system_is_the_true_one() -> None:
    shift = torch.diag(torch.ones(2, dtype=torch.float64), 1)  # nilpotent: breaks down at once
    rhs = torch.tensor([[0.0, 0.0, 1.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    d, relative = gmres(lambda v: v @ shift.T, rhs, rtol=1e-12, max_steps=3)
    true = (rhs - d @ shift.T).norm(dim=1) / rhs.norm(dim=1)
    torch.testing.assert_close(relative, true)  # up to rounding
    assert (relative > 0.5).all()


def test_state_of_any_shape_is_one_vector_to_gmres() -> None:
    a = EYE6 - contractions(2, 6, 0.5, 0)
    b = normal(1, 2, 1, 2, 3)
    d, _ = gmres(times(a), b, rtol=1e-13, max_steps=6)
    assert d.shape == b.shape
    torch.testing.assert_close(d.flatten(1), torch.linalg.solve(a, b.flatten(1)))


class Cubed(torch.autograd.Function):
    """z^3 with a backward pass alone: forward-mode differentiation has no rule for it."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return z**3

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return 3 * z**2 * cotangents[0]


W = contractions(1, 5, 0.9, 3)[0]
MAPS = {
    "tanh": lambda z: torch.tanh(z @ W + 1),
    "product": lambda z: z * z.sum(1, keepdim=True),
    "constant": lambda z: torch.ones_like(z),
    "no forward rule": lambda z: Cubed.apply(z @ W),
    "half of it has no rule": lambda z: torch.sin(z) + Cubed.apply(z),
}


@pytest.mark.parametrize("f", MAPS.values(), ids=MAPS)
@pytest.mark.parametrize("grad", [False, True])
def test_products_are_exact(f: Any, grad: bool) -> None:
    z, v = normal(0, 3, 5), normal(1, 3, 5)
    value, exact = torch.autograd.functional.jvp(f, z, v)
    with torch.set_grad_enabled(grad):
        jacobian = Linearization(f, z)
        tangent = jacobian(v)
    assert jacobian.value.equal(value)
    torch.testing.assert_close(tangent, exact, rtol=1e-13, atol=1e-13)
    assert grad or not tangent.requires_grad


@pytest.mark.parametrize("f", MAPS.values(), ids=MAPS)
def test_many_products_at_one_point_are_exact(f: Any) -> None:
    z = normal(0, 3, 5)
    with torch.no_grad():
        push = Linearization(f, z)
    value = push.value
    for seed in (1, 2):
        exact = torch.autograd.functional.jvp(f, z, normal(seed, 3, 5))
        assert value.equal(exact[0])
        with torch.no_grad():
            tangent = push(normal(seed, 3, 5))
        torch.testing.assert_close(tangent, exact[1], rtol=1e-13, atol=1e-13)
        assert not tangent.requires_grad and not value.requires_grad


@pytest.mark.parametrize("name", ["tanh", "no forward rule"])
def test_products_are_differentiable_under_unroll(name: str) -> None:
    z, v = normal(0, 2, 5).requires_grad_(), normal(1, 2, 5)
    (found,) = torch.autograd.grad(Linearization(MAPS[name], z)(v).square().sum(), z)
    _, exact = torch.autograd.functional.jvp(MAPS[name], z, v, create_graph=True)
    (wanted,) = torch.autograd.grad(exact.square().sum(), z)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_error_of_the_map_is_not_swallowed() -> None:
    def broken(z: Tensor) -> Tensor:
        raise RuntimeError("my own mistake")

    with pytest.raises(RuntimeError, match="my own mistake"):
        Linearization(broken, normal(0, 1, 2))


def test_map_that_hides_its_graph_still_has_a_jacobian() -> None:
    """A map that runs under no_grad looks constant to reverse mode: J v = 0, without a word."""
    z, v = normal(0, 3, 5), normal(1, 3, 5)
    _, exact = torch.autograd.functional.jvp(MAPS["tanh"], z, v)
    hidden = torch.no_grad()(MAPS["tanh"])
    torch.testing.assert_close(Linearization(hidden, z)(v), exact, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(jvp(hidden, z, v), exact, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("linear", [GMRES(6), Dense(), BySize(), BySize(krylov=6, dense=0)])
@pytest.mark.parametrize("method", [NewtonKrylov, PseudoTransient])
def test_every_linear_solver_leads_newton_to_the_root(method: Any, linear: LinearSolver) -> None:
    problem, z0 = tanh_suite(0.9, n=6, draws=4)
    found = solve(problem, method(linear=linear, rtol=1e-12), z0).check()
    # ||f(z) - z|| <= 1e-12 ||f(z)||, and (I - J)^-1 of these draws is below 1e3.
    exact = solve(problem, NewtonKrylov(rtol=1e-14, max_steps=100), z0)
    assert torch.allclose(found.value, exact.value, rtol=0, atol=1e-9)


@pytest.mark.parametrize("f", MAPS.values(), ids=MAPS)
def test_whole_jacobian_is_made_of_products(f: Any) -> None:
    z = normal(0, 3, 5)
    jacobian = Linearization(f, z)
    columns = [jacobian(e.expand(3, 5)) for e in torch.eye(5, dtype=DOUBLE)]
    torch.testing.assert_close(
        jacobian.matrix(), torch.stack(columns, dim=2), rtol=1e-13, atol=1e-13
    )


def test_settings_that_moved_to_the_linear_solver_are_taken_for_one_version() -> None:
    with pytest.warns(DeprecationWarning, match=r"linear=GMRES\(krylov=7\)"):
        assert NewtonKrylov(krylov=7) == NewtonKrylov(linear=GMRES(7))
    with pytest.warns(DeprecationWarning, match=r"linear=BySize\(krylov=7, dense=0\)"):
        assert ArcLength(krylov=7, dense=0) == ArcLength(linear=BySize(7, 0))
    with pytest.warns(DeprecationWarning):
        kept = NewtonKrylov(krylov=7)
    assert replace(kept, rtol=1e-9).linear == GMRES(7)


@pytest.mark.parametrize("linear", [GMRES(6), Dense()])
def test_every_linear_solver_can_be_unrolled(linear: LinearSolver) -> None:
    problem, z0 = tanh_suite(0.9, n=6, draws=3)
    w, b = problem.inputs
    bias = b.clone().requires_grad_()
    newton = NewtonKrylov(linear=linear, rtol=1e-13, halvings=0)
    found = Unroll().apply(Equilibrium(problem.map, (w, bias)), newton, z0)
    (got,) = torch.autograd.grad(found.value.sum(), bias)
    slope = 1 - found.value.detach() ** 2  # z = tanh(W z + b): dz = (I - S W)^-1 S db
    system = torch.eye(6, dtype=DOUBLE) - slope[:, :, None] * w
    exact = slope * torch.linalg.solve(system.mT, torch.ones_like(b))
    torch.testing.assert_close(got, exact, rtol=0, atol=1e-8)


@pytest.mark.parametrize("method", [NewtonKrylov, ArcLength, PseudoTransient])
def test_class_in_the_place_of_a_linear_solver_is_refused(method: Any) -> None:
    with pytest.raises(TypeError, match=r"got the class Dense, not an object of it; write Dense"):
        method(linear=Dense)


class AsksForANumber(torch.autograd.Function):
    """2 z, whose backward needs one number of its gradient, which a batch of them has not."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        return 2 * z

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * gradient if float(gradient.abs().sum()) >= 0 else gradient


class WritesInItsOwn(AsksForANumber):
    """2 z, whose backward adds its gradient to a tensor of one gradient's size."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return torch.zeros(gradient.shape, dtype=gradient.dtype).add_(2 * gradient)


@pytest.mark.parametrize("function", [AsksForANumber, WritesInItsOwn])
def test_map_that_takes_one_product_at_a_time_has_its_matrix_row_by_row(function: Any) -> None:
    z = normal(0, 2, 3)
    found = Linearization(lambda z: function.apply(torch.sin(z)), z).matrix()
    torch.testing.assert_close(found, torch.diag_embed(2 * torch.cos(z)), rtol=1e-14, atol=1e-14)
