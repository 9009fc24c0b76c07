"""Steps taken back one by one: the gradient of what was computed, or a refusal."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.nn import functional as F

from experiments.memory import peak_bytes
from homotopy_deq import FlowLayer, HomoODE, ImplicitLayer
from homotopy_deq.cells import DenseCell
from solvers import (
    DOPRI5,
    DOPRI8,
    EULER,
    HEUN,
    RK4,
    Anderson,
    Equilibrium,
    InitialValue,
    Picard,
    Reversible,
    RungeKutta,
    Status,
    Unroll,
    solve,
)
from solvers.gradient.coupled import CoupledFlow, CoupledPicard
from tests.contract.every import name
from tests.problems import DOUBLE, contractions, normal

FLOW = RungeKutta(RK4, step_size=0.2)
FEW = Picard(damping=0.5, rtol=1e-2)


def leaves(dtype: torch.dtype = DOUBLE) -> tuple[Tensor, Tensor, Tensor]:
    """Return W, x whose rows take different numbers of steps, and z0."""
    scale = torch.tensor([0.1, 1.0, 2.0, 0.5, 4.0], dtype=DOUBLE)[:, None]
    found = contractions(1, 8, 0.7, 0)[0], scale * normal(1, 5, 8), normal(2, 5, 8)
    return tuple(t.to(dtype).requires_grad_() for t in found)  # type: ignore[return-value]


def posed(kind: str, w: Tensor, x: Tensor) -> Any:
    """Pose an equation by its inputs, as one that closes over them, as coupled rows, or a flow."""
    if kind == "flow":
        return InitialValue(lambda t, z, x: torch.tanh(z @ w.mT + x) - t * z, 0.5, 1.5, (x,))
    if kind == "closed":
        return Equilibrium(lambda z: torch.tanh(z @ w.mT + x))
    if kind == "coupled":
        mixes = lambda z, x: torch.tanh((z - 0.2 * z.mean(0)) @ w.mT + x)  # noqa: E731
        return Equilibrium(mixes, (x,), coupled=True)
    return Equilibrium(lambda z, x: torch.tanh(z @ w.mT + x), (x,))


def in_pairs(solver: Any) -> Any:
    """Return the solver whose steps Reversible takes, to be unrolled."""
    if isinstance(solver, Picard):
        return CoupledPicard.of(solver)
    return CoupledFlow.of(solver, Reversible().coupling)


@pytest.mark.parametrize("kind", ["root", "closed", "coupled", "flow"])
def test_gradient_is_that_of_unrolling_the_same_steps(kind: str) -> None:
    """To rounding, times 4 a step of damping 1/2: of 13 at most, 7e7 units."""
    w, x, z0 = leaves()
    solver: Any = FLOW if kind == "flow" else FEW
    found = Reversible().apply(posed(kind, w, x), solver, z0)
    wanted = Unroll().apply(posed(kind, w, x), in_pairs(solver), z0)
    assert found.value.equal(wanted.value) and found.evals.equal(wanted.evals)
    assert int(found.steps.max()) <= 13 and found.converged.all()
    assert kind in ("flow", "coupled") or len(found.steps.unique()) > 1
    got, exact = (grad(each.value.sin().sum(), (w, x, z0)) for each in (found, wanted))
    torch.testing.assert_close(got, exact, rtol=1e-9, atol=1e-9)


def test_a_flow_one_copy_of_which_is_not_finite_has_not_converged() -> None:
    """y = 2 is finite, and z, which is taken on by the slope there, is not."""
    problem = InitialValue(lambda t, z: torch.where(z > 1.5, math.nan, 1.0 + 0 * z), 0.0, 1.0)
    found = solve(problem, in_pairs(RungeKutta(EULER, step_size=1.0)), torch.ones(2, 1))
    assert found.status.tolist() == [Status.NONFINITE] * 2


def test_roots_are_those_of_every_solver() -> None:
    """Both copies come to rest where f(z) = z."""
    w, x, z0 = leaves()
    problem = posed("root", w, x)
    found = Reversible().apply(problem, Picard(damping=0.2, rtol=1e-3), z0).check()
    root = solve(problem, Anderson(rtol=1e-10), z0).value
    # ||z - z*|| <= residual / (1 - 0.7)
    assert (found.value - root).norm() <= 1e-3 / 0.3 * root.norm()
    with torch.no_grad():  # the same steps, whether or not they are to be taken back
        unwatched = Reversible().apply(problem, Picard(damping=0.2, rtol=1e-3), z0)
    assert unwatched.value.equal(found.value) and unwatched.steps.equal(found.steps)


@pytest.mark.parametrize(("tableau", "order"), [(EULER, 1), (HEUN, 2), (RK4, 4)], ids=name)
def test_coupled_steps_have_the_order_of_their_method(tableau: Any, order: int) -> None:
    w, x, z0 = (t.detach() for t in leaves())
    problem = posed("flow", w, x)
    exact = solve(problem, RungeKutta(DOPRI8, rtol=1e-12, atol=1e-12), z0).value
    errors = [
        (Reversible().apply(problem, RungeKutta(tableau, step_size=h), z0).value - exact).norm()
        for h in (0.1, 0.05)
    ]
    assert errors[0] / errors[1] > 0.75 * 2**order  # of steps that are not yet small


def test_memory_does_not_grow_with_the_steps() -> None:
    """Constant to 2%, forward and backward, of 10 and of 200 steps."""
    w = torch.tensor(0.5, requires_grad=True)
    x = torch.linspace(-1, 1, 20_000, dtype=torch.float32).view(2, -1)
    field = lambda t, z, x: torch.tanh(w * z + x)  # noqa: E731

    def of(steps: int) -> int:
        problem = InitialValue(field, condition=(x,), rowwise=True)
        solver = RungeKutta(RK4, step_size=1 / steps)
        rule = Reversible(coupling=0.02)  # 200 steps amplify by 0.98^-200 = 57
        return peak_bytes(lambda: rule.apply(problem, solver, x).value.sum().backward())

    of(2)
    few, many = of(10), of(200)
    assert abs(many - few) <= 0.02 * few


@pytest.mark.parametrize(
    ("damping", "steps", "dtype", "holds"),
    [
        (0.5, 5, torch.float32, True),  # 4^5 units of 6e-8
        (0.8, 10, torch.float32, False),  # 25^10
        (0.8, 5, DOUBLE, True),
        (0.8, 30, DOUBLE, False),
        (0.05, 30, torch.float32, True),
    ],
)
def test_a_start_that_is_missed_is_refused_in_one_line(
    damping: float, steps: int, dtype: torch.dtype, holds: bool
) -> None:
    w, x, z0 = leaves(dtype)
    solver = Picard(damping=damping, rtol=1e-15 if dtype == DOUBLE else 1e-7, max_steps=steps)
    value = Reversible().apply(posed("root", w, x), solver, z0).value
    if holds:
        value.sum().backward()
        return
    with pytest.raises(RuntimeError, match="missed the start by .* float64") as refused:
        value.sum().backward()
    assert "\n" not in str(refused.value)


def test_maps_that_draw_at_random_are_refused() -> None:
    w, x, z0 = leaves()
    problem = InitialValue(lambda t, z, x: F.dropout(z @ w.mT + x, 0.2), condition=(x,))
    with pytest.raises(RuntimeError, match="draws at random"):
        Reversible().apply(problem, FLOW, z0).value.sum().backward()


def test_maps_that_write_into_their_argument_are_differentiated() -> None:
    w, x, z0 = leaves()

    def plain(z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh((0.5 * z) @ w.mT + x)

    def writes(z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(z.mul_(0.5) @ w.mT + x)

    one, other = (
        grad(Reversible().apply(Equilibrium(f, (x,)), FEW, z0).value.sum(), (w, x, z0))
        for f in (plain, writes)
    )
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_under_autocast_the_same_few_steps_are_taken_back() -> None:
    """A step back meets the f of its step to the bit, unless it lands on another bfloat16."""
    torch.manual_seed(0)
    layer = FlowLayer(DenseCell(3, 8), FLOW, Reversible(), rest_point=False)
    pairs = FlowLayer(layer.cell, in_pairs(FLOW), rest_point=False)
    weights, x = list(layer.parameters()), torch.randn(4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        got, exact = (grad(each(x).square().sum(), weights) for each in (layer, pairs))
    for a, b in zip(got, exact, strict=True):
        assert (a - b).norm() <= 3e-2 * b.norm()  # a few eps of bfloat16, 8e-3


@pytest.mark.filterwarnings("ignore:.*did not converge")
@pytest.mark.parametrize("solver", [FEW, FLOW], ids=name)
def test_samples_that_are_not_finite_and_empty_batches_are_left_out(solver: Any) -> None:
    cell = DenseCell(3, 4).double()
    weights = list(cell.parameters())
    kind: Any = ImplicitLayer if solver is FEW else FlowLayer
    layer = kind(cell, solver, Reversible())
    x = normal(0, 4, 3)
    spoilt = x.index_fill(0, torch.tensor([1]), float("nan"))
    got = grad(layer(spoilt).sum(), weights)
    torch.testing.assert_close(got, grad(layer(x[[0, 2, 3]]).sum(), weights), rtol=1e-9, atol=1e-9)
    for some in (x[:0], spoilt[1:2]):
        assert all(g is not None and not g.any() for g in grad(layer(some).sum(), weights))


def test_sample_that_diverged_has_no_gradient() -> None:
    """dz/dt = a x z^2 from 1 reaches 1 / (1 - a x), or infinity; dz1/da = x / (1 - a x)^2."""
    a = torch.ones((), dtype=DOUBLE, requires_grad=True)
    x = torch.tensor([[0.5], [50.0]], dtype=DOUBLE)
    problem = InitialValue(lambda t, z, x: a * x * z * z, condition=(x,))
    found = Reversible().apply(problem, RungeKutta(RK4, step_size=0.01), torch.ones_like(x))
    assert found.status.tolist() == [Status.CONVERGED, Status.NONFINITE]
    assert abs(float(grad(found.value.sum(), a)[0]) - 2) < 1e-6


def test_flow_whose_copies_part_has_lost_its_path() -> None:
    """dz/dt = -4 z in steps of 1/2: the copies of a coupling of 0.1 swing apart."""
    problem = InitialValue(lambda t, z: -4 * z, 0, 5)
    found = Reversible().apply(problem, RungeKutta(EULER, step_size=0.5), torch.ones(2, 1))
    assert found.status.tolist() == [Status.LOST_PATH] * 2


def test_first_derivative_only_and_torch_s_own_error_at_a_second_backward() -> None:
    layer = ImplicitLayer(DenseCell(3, 4).double(), FEW, Reversible())
    weights, out = list(layer.parameters()), layer(normal(0, 2, 3)).sum()
    first = grad(out, weights, create_graph=True)
    with pytest.raises(RuntimeError, match=r"Reversible has no derivative itself; use Unroll\(\)"):
        first[0].sum().backward()
    second = grad(out, weights)
    assert all(a.equal(b) for a, b in zip(first, second, strict=True))
    with pytest.raises(RuntimeError, match="second time"):
        out.backward()


def test_swapped_solvers_are_taken_back_or_refused_in_one_line() -> None:
    layer = ImplicitLayer(DenseCell(3, 4).double(), FEW, Reversible())
    x = normal(0, 2, 3)
    flow = layer.with_solver(FLOW, Reversible())
    flow(x).sum().backward()
    assert flow.with_solver(RungeKutta(HEUN)).gradient == Reversible()
    for solver in (Anderson(), RungeKutta(DOPRI5)):
        with pytest.raises(TypeError, match=r"Reversible takes back the steps of Picard.*got"):
            layer.with_solver(solver, Reversible())(x)
    with pytest.raises(ValueError, match=r"damping 1 keeps nothing.*Picard\(damping=0.5\)"):
        layer.with_solver(Picard())(x)
    for settings in ({"coupling": 1.0}, {"coupling": 0.0}, {"tolerance": 0.0}):
        with pytest.raises(ValueError, match="Reversible needs a coupling"):
            Reversible(**settings)


def test_homoode_as_published_trains_by_it() -> None:
    torch.manual_seed(0)
    model = HomoODE(rest_point=False, solver=FLOW, gradient=Reversible())
    model.eval()  # one mask a solve is drawn in training
    twin = model.with_solver(in_pairs(FLOW), Unroll())
    x, weights = torch.rand(1, 3, 32, 32), list(model.layer.cell.parameters())
    got, exact = (grad(each(x).square().sum(), weights) for each in (model, twin))
    for a, b in zip(got, exact, strict=True):
        assert (a - b).norm() <= 1e-3 * b.norm()  # 1e-6, but for what is at a kink of ReLU


def test_batch_norm_in_a_coupled_cell_is_differentiated() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.norm = nn.Linear(8, 8).double(), nn.BatchNorm1d(8).double()

        def forward(self, z: Tensor, x: Tensor) -> Tensor:
            return 0.3 * self.norm(self.linear(z) + x)

    cell, x = Normed(), normal(0, 5, 8)
    got, exact = (
        grad(ImplicitLayer(cell, solver, rule, coupled=True)(x).sin().sum(), cell.linear.weight)
        for solver, rule in ((FEW, Reversible()), (in_pairs(FEW), Unroll()))
    )
    torch.testing.assert_close(got, exact, rtol=1e-9, atol=1e-9)
