"""Defects of other libraries, each of which was run: none may appear here.

One test or a few for each, numbered in their names. The docstrings say which library does what;
none of them has to be installed.
"""

from __future__ import annotations

import copy
import pickle
import warnings
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from homotopy_deq import ConvergenceWarning, FlowLayer, HomoODE, ImplicitLayer
from homotopy_deq.cells import DenseCell
from solvers import (
    ODE,
    Adjoint,
    Anderson,
    Broyden,
    Equilibrium,
    Flow,
    Implicit,
    InitialValue,
    NewtonKrylov,
    Picard,
    SolveError,
    Solver,
    Status,
    Unroll,
    solve,
)
from tests.problems import (
    DOUBLE,
    affine,
    contractions,
    exact_gradient,
    linear,
    normal,
    psd,
    symmetric,
)

TIGHT = Anderson(rtol=1e-13, max_steps=500)
ITERATIONS = [Picard(), Anderson(), Broyden(), NewtonKrylov(), Flow()]
every_iteration = pytest.mark.parametrize("solver", ITERATIONS, ids=lambda s: type(s).__name__)


def scalars(*slopes: float) -> Equilibrium:
    """z = s z + 1, a slope a sample."""
    return Equilibrium(lambda z, s: s * z + 1, (torch.tensor(slopes, dtype=DOUBLE)[:, None],))


def layer(**settings: object) -> ImplicitLayer:
    return ImplicitLayer(DenseCell(3, 5), **settings).double()  # type: ignore[arg-type]


@every_iteration
def test_01_nan_neighbour_leaves_a_finite_answer_alone(solver: Solver) -> None:
    """torchdeq masks by multiplication: 0 * nan overwrites the best iterate of a healthy sample."""
    found = solve(scalars(0.5, float("nan"), 0.9), solver, torch.zeros(3, 1, dtype=DOUBLE))
    assert found.status[[0, 2]].tolist() == [Status.CONVERGED] * 2
    assert (found.value[[0, 2], 0] - torch.tensor([2.0, 10.0])).abs().max() < 1e-2
    assert found.status[1] == Status.NONFINITE


def test_01_nan_neighbour_does_not_cancel_the_integration_of_the_batch() -> None:
    """torchode stops all at one NaN, and the healthy sample reports success with garbage."""
    rate = torch.tensor([[-1.0], [float("nan")]], dtype=DOUBLE)
    problem = InitialValue(lambda t, z, r: r * z, condition=(rate,))
    found = solve(problem, ODE(rtol=1e-6, atol=1e-6), torch.ones(2, 1, dtype=DOUBLE))
    assert found.status[0] == Status.CONVERGED and found.status[1] != Status.CONVERGED
    assert abs(float(found.value[0]) - 0.36787944) < 1e-5


def test_02_divergence_is_said() -> None:
    """torchdeq returns an early iterate, 13.0 with a NaN residual in one case, without a word."""
    found = solve(scalars(-1.5), Picard(), torch.zeros(1, 1, dtype=DOUBLE))
    assert found.status.tolist() == [Status.MAX_STEPS]
    assert found.residual > 1
    with pytest.raises(SolveError):
        found.check()
    expanding = layer(solver=Picard(max_steps=5, rtol=1e-9))
    with pytest.warns(ConvergenceWarning):
        expanding(normal(0, 2, 3))


@pytest.mark.parametrize("solver", [Picard(max_steps=2000), Anderson(), Broyden(), Flow()])
def test_02_easy_sample_pays_nothing_for_a_hard_one(solver: Solver) -> None:
    """torchdeq: 918 iterations for 20; torchdiffeq: 488 evaluations for 20."""
    start = torch.zeros(2, 1, dtype=DOUBLE)
    pair = solve(scalars(0.5, 0.99), solver, start)
    alone = solve(scalars(0.5), solver, start[:1])
    assert pair.evals[0] == alone.evals[0]
    torch.testing.assert_close(pair.value[0], alone.value[0], rtol=1e-12, atol=0)


def test_03_second_derivatives_are_right() -> None:
    """torchdeq's are silently wrong by 1.4 relative."""
    w, x = contractions(1, 3, 0.6, 0)[0].requires_grad_(), normal(1, 2, 3).requires_grad_()

    def root(w: Tensor, x: Tensor) -> Tensor:
        problem = Equilibrium(lambda z, x: torch.tanh(z @ w.mT + x), (x,))
        return Implicit(TIGHT).apply(problem, TIGHT, torch.zeros_like(x)).value

    assert torch.autograd.gradgradcheck(root, (w, x))


def test_04_layer_called_twice_and_backward_called_twice() -> None:
    """With a backward hook the first recurses for ever, and the second differs."""
    twice, x = layer(gradient=Implicit(TIGHT)), normal(0, 2, 3)
    loss = (twice(x) + twice(2 * x)).square().sum()
    first = torch.autograd.grad(loss, list(twice.parameters()), retain_graph=True)
    second = torch.autograd.grad(loss, list(twice.parameters()))
    assert all(a.equal(b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("scale", [1.0, 1e-2, 1e-4])
def test_05_regularisation_is_relative(scale: float) -> None:
    """torchdeq's Anderson, absolute 1e-4: 245, 327, 346 evaluations; plain iteration: 331."""
    case = linear(1, a=symmetric(50, 0.95))
    a, x = case.problem.condition or ()
    found = solve(Equilibrium(affine, (a, scale * x)), Anderson(rtol=1e-8), case.z0).check()
    assert int(found.evals) <= 70


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-6])
def test_06_backward_tolerance_is_relative_to_the_cotangent(scale: float) -> None:
    """torchdeq's is absolute, 1e-6: a mean loss leaves an error of 5e-3, a small one of 1."""
    case = linear(2, a=psd(20, 0.95))
    a, x = case.problem.condition or ()
    x.requires_grad_()
    rule = Implicit(Anderson(rtol=1e-6))
    value = rule.apply(Equilibrium(affine, (a, x)), TIGHT, case.z0).value
    v = scale * normal(3, 2, 20)
    (got,) = torch.autograd.grad(value, x, v)
    (want,) = exact_gradient(lambda z, x: affine(z, a, x), value, (x,), v)
    assert (got - want).norm() <= 20 * 1e-6 * want.norm()  # 1 / (1 - .95)


def test_07_attack_on_a_trained_model_needs_no_work_around() -> None:
    """torchdeq gives no gradient in eval mode."""
    model = nn.Sequential(layer(), nn.Linear(5, 2).double()).eval()
    x = normal(0, 4, 3).requires_grad_()
    loss = nn.functional.cross_entropy(model(x), torch.tensor([0, 1, 0, 1]))
    (gradient,) = torch.autograd.grad(loss, x)
    attacked = nn.functional.cross_entropy(
        model(x + 0.1 * gradient.sign()), torch.tensor([0, 1, 0, 1])
    )
    assert attacked > loss


def test_08_state_without_batch_is_refused_with_a_reason() -> None:
    """torchdeq reads a 1-D state as D scalar problems; torchdiffeq's AssertionError is empty."""
    with pytest.raises(ValueError, match="batch first"):
        solve(Equilibrium(lambda z: 0.5 * z), Anderson(), torch.zeros(7))


def test_08_misspelt_option_is_an_error_and_settings_are_not_changed() -> None:
    """torchdeq takes any option silently and writes into the caller's dict."""
    with pytest.raises(TypeError, match="max_step"):
        Anderson(max_step=3)  # type: ignore[call-arg]
    settings = {"rtol": 1e-3, "memory": 3}
    before = dict(settings)
    chosen = Anderson(**settings)  # type: ignore[arg-type]
    solve(scalars(0.5), chosen, torch.zeros(1, 1, dtype=DOUBLE))
    assert settings == before and chosen == Anderson(**before)  # type: ignore[arg-type]
    with pytest.raises(FrozenInstanceError):
        chosen.memory = 5  # type: ignore[misc]


@every_iteration
def test_09_warm_start_at_the_solution_costs_one_evaluation(solver: Solver) -> None:
    """torchdeq: 3."""
    first = solve(scalars(0.5, 0.9), TIGHT, torch.zeros(2, 1, dtype=DOUBLE))
    assert (solve(scalars(0.5, 0.9), solver, first).evals == 1).all()


@pytest.mark.parametrize("steps", [1, 2])
def test_09_two_steps_are_two_steps(steps: int) -> None:
    """torchdeq's Anderson with max_iter <= 2 returns the start with a huge residual."""
    start = torch.zeros(1, 1, dtype=DOUBLE)
    found = solve(scalars(0.5), Anderson(max_steps=steps, rtol=1e-15, period=99), start)
    assert found.value.tolist() == [[sum(0.5**k for k in range(steps))]]
    assert found.residual < 1


def test_10_layers_are_copied_pickled_and_saved(tmp_path: Path) -> None:
    """torchdeq's normalisation breaks deepcopy, pickle and torch.save of a module."""
    first, x = layer(), normal(0, 2, 3)
    torch.save(first, tmp_path / "layer.pt")
    copies = (
        copy.deepcopy(first),
        pickle.loads(pickle.dumps(first)),
        torch.load(tmp_path / "layer.pt", weights_only=False),
    )
    for each in copies:
        assert each(x).equal(first(x))


def test_10_weights_in_use_are_the_weights_trained() -> None:
    """torchdeq without its reset hook goes on with frozen weights."""
    trained, x = layer(), normal(0, 2, 3)
    before = trained(x)
    optimiser = torch.optim.SGD(trained.parameters(), lr=0.1)
    before.square().sum().backward()
    optimiser.step()
    assert not trained(x).allclose(before)
    cell = trained.cell
    root = trained(x)
    torch.testing.assert_close(cell(root, x), root, rtol=1e-3, atol=1e-3)


def test_11_parameters_hidden_in_a_closure_get_their_gradient() -> None:
    """torchdiffeq's adjoint misses what is no parameter of the module that it is given."""
    hidden = torch.tensor(-0.5, dtype=DOUBLE, requires_grad=True)
    start = torch.ones(2, 1, dtype=DOUBLE)
    flow = InitialValue(lambda t, z: hidden * z)
    value = Adjoint().apply(flow, ODE(rtol=1e-9, atol=1e-9), start).value
    (got,) = torch.autograd.grad(value.sum(), hidden)
    assert abs(float(got) - 2 * 0.60653066) < 1e-6  # 2 e^-0.5

    value = Implicit(TIGHT).apply(Equilibrium(lambda z: hidden * z + 1), TIGHT, start).value
    (got,) = torch.autograd.grad(value.sum(), hidden)
    assert abs(float(got) - 2 / 1.5**2) < 1e-10  # d/dh 1 / (1 - h)


def test_11_learnable_start_learns_although_the_task_says_nothing_of_it() -> None:
    """dL/dz0 is 0 at an equilibrium: elsewhere a learnable start never moves."""
    model = HomoODE((1, 8, 8), 3, hidden=4, head=4, groups=2)
    start = model.initial_point
    assert start is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model(torch.rand(2, 1, 8, 8)).sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in start.parameters())
    assert not {id(p) for p in start.parameters()} & {id(p) for p in model.task_parameters()}
    start.loss(torch.zeros(2, 4, 4, 4), torch.randn(2, 4, 4, 4)).backward()
    assert any(p.grad is not None and p.grad.any() for p in start.parameters())


def test_12_functional_calls_and_compiled_maps_work_within_a_solve() -> None:
    """torchdeq: 2 to 6 graph breaks or a failure. A map may be compiled; the loop is not."""
    cell = nn.Linear(4, 4).double()
    nn.init.orthogonal_(cell.weight, 0.5)
    compiled = torch.compile(lambda z: torch.tanh(cell(z)), backend="eager", fullgraph=True)
    start = normal(0, 2, 4)
    one = Implicit(TIGHT).apply(Equilibrium(lambda z: torch.tanh(cell(z))), TIGHT, start).value
    two = Implicit(TIGHT).apply(Equilibrium(compiled), TIGHT, start).value
    torch.testing.assert_close(one, two)
    grads = [torch.autograd.grad(z.sum(), cell.weight)[0] for z in (one, two)]
    torch.testing.assert_close(grads[0], grads[1])


def test_12_autocast_linearises_the_map_that_was_solved() -> None:
    """torchdeq solves in bfloat16 and linearises in float32."""
    seen = []
    weight = 0.5 * torch.eye(4)

    def f(z: Tensor, x: Tensor) -> Tensor:
        product = z @ weight
        seen.append(product.dtype)
        return product + x

    x = normal(0, 2, 4, dtype=torch.float32).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        rule, solver = Implicit(Anderson(rtol=1e-2)), Anderson(rtol=1e-2)
        value = rule.apply(Equilibrium(f, (x,)), solver, torch.zeros(2, 4)).value
    value.sum().backward()
    assert set(seen) == {torch.bfloat16}
    assert x.grad is not None and (x.grad - 2).abs().max() < 0.05


def test_13_step_that_underflows_is_a_status_of_one_sample() -> None:
    """torchdiffeq fails by an assertion, "underflow in dt", for the whole batch."""
    rate = torch.tensor([[0.5], [3.0]], dtype=DOUBLE)  # z = 1 / (1 - rate t)
    problem = InitialValue(lambda t, z, r: r * z * z, condition=(rate,))
    found = solve(problem, ODE(rtol=1e-6, atol=1e-6), torch.ones(2, 1, dtype=DOUBLE))
    assert found.status[0] == Status.CONVERGED and found.status[1] != Status.CONVERGED
    assert abs(float(found.value[0]) - 2) < 1e-3


def test_13_reaching_a_steady_state_is_success() -> None:
    """Elsewhere an integration that comes to rest is reported as an error."""
    start = torch.zeros(2, 1, dtype=DOUBLE)
    assert solve(scalars(0.5, -3.0), Flow(), start).converged.all()
    at_rest = InitialValue(lambda t, z: 0 * z, 0.0, 100.0)
    assert solve(at_rest, ODE(), start + 1).check().value.equal(start + 1)
    rest_point = FlowLayer(DenseCell(3, 5), t1=20.0, rest_point=True, gradient=Unroll()).double()
    assert torch.isfinite(rest_point(normal(0, 2, 3))).all()
