from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from homotopy_deq import ConvergenceWarning, FlowLayer, ImplicitLayer
from homotopy_deq.cells import ConvCell, ConvField, DenseCell
from homotopy_deq.layers import Layer
from homotopy_deq.twin import twin
from solvers import (
    ODE,
    RK4,
    SHINE,
    Adjoint,
    Anderson,
    Broyden,
    Continuation,
    Flow,
    Implicit,
    NewtonKrylov,
    Phantom,
    Picard,
    PseudoTransient,
    Reversible,
    RungeKutta,
    SolveError,
    Solver,
    Then,
    Unroll,
)

TIGHT = Anderson(rtol=1e-12)
EXACT = Implicit(Anderson(rtol=1e-12))
ROOTS: list[Solver] = [
    Anderson(),
    Broyden(),
    Continuation(),
    NewtonKrylov(),
    Picard(),
    PseudoTransient(),
    Flow(),
]


class Bare(nn.Module):
    """A cell that defines nothing but the map."""

    def __init__(self, size: int = 5, gain: float = 0.5) -> None:
        super().__init__()
        self.linear = nn.Linear(size, size)
        nn.init.orthogonal_(self.linear.weight, gain)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.linear(z) + x)


class Exploding(nn.Module):
    """No sample of it has an equilibrium: z* = z* + 1."""

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return z + 1 + 0 * x


def dense(inputs: int = 3, hidden: int = 6) -> DenseCell:
    return DenseCell(inputs, hidden).double()


def exact(cell: DenseCell, z: Tensor, v: Tensor) -> dict[str, Tensor]:
    """The gradient of sum(v z*) by a linear solve with the Jacobian of each sample."""
    slope = 1 - z.square()
    eye = torch.eye(z.shape[1], dtype=z.dtype)
    jacobian = slope[:, :, None] * cell.recurrent.weight
    u = slope * torch.linalg.solve((eye - jacobian).mT, v)
    return {"x": u @ cell.inject.weight, "w": u.mT @ z, "b": u.sum(0)}


def test_gradient_is_that_of_the_exact_jacobian() -> None:
    cell, x = dense(), torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    z = ImplicitLayer(cell, TIGHT, EXACT)(x)
    v = torch.randn_like(z)
    z.backward(v)
    wanted = exact(cell, z.detach(), v)
    found = {"x": x.grad, "w": cell.recurrent.weight.grad, "b": cell.inject.bias.grad}
    for name, gradient in found.items():
        # Both residuals are 1e-12, and (I - J)^-1 has norm below 10.
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-9, atol=1e-10)


def test_gradient_is_there_in_eval_mode_and_absent_under_no_grad() -> None:
    layer = ImplicitLayer(dense()).eval()
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None and bool((x.grad != 0).any())
    with torch.no_grad():
        assert not layer(x).requires_grad


def test_a_layer_called_twice_before_backward_has_the_gradient_of_both_calls() -> None:
    layer = ImplicitLayer(dense(), TIGHT, EXACT)
    weight = layer.cell.recurrent.weight
    x, y = torch.randn(2, 4, 3, dtype=torch.float64)
    apart = [torch.autograd.grad(layer(each).sum(), weight)[0] for each in (x, y)]
    a, b = layer(x), layer(y)
    (a.sum() + b.sum()).backward(retain_graph=True)
    torch.testing.assert_close(weight.grad, apart[0] + apart[1], rtol=1e-9, atol=1e-10)
    once = weight.grad.clone()
    (a.sum() + b.sum()).backward()  # a second time through the kept graph: the same again
    torch.testing.assert_close(weight.grad, 2 * once)


@pytest.mark.parametrize("solver", ROOTS, ids=lambda s: type(s).__name__)
def test_every_path_to_the_root_has_the_same_answer_and_gradient(solver: Solver) -> None:
    layer = ImplicitLayer(dense(), TIGHT, EXACT)
    x = torch.randn(3, 3, dtype=torch.float64)
    (wanted,) = torch.autograd.grad(layer(x).sum(), layer.cell.recurrent.weight)
    z = layer(x)
    other = layer.with_solver(solver)
    found = other(x)
    (gradient,) = torch.autograd.grad(found.sum(), layer.cell.recurrent.weight)
    # A relative residual of 1e-4, through (I - J)^-1 of norm below 10.
    torch.testing.assert_close(found, z, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(gradient, wanted, rtol=1e-2, atol=1e-2)


def test_sample_does_not_see_its_batch_mates() -> None:
    cell = ConvCell(8, groups=4, gain=0.5).double()
    x = torch.randn(5, 8, 4, 4, dtype=torch.float64)
    x[3:] *= 1e-3  # hard mates: next to no condition, which leaves f far from contractive
    for layer in (ImplicitLayer(cell), FlowLayer(cell, ODE(method="rk4"))):
        layer.on_failure = "ignore"
        alone = torch.cat([layer(row) for row in x.split(1)])
        # Convolutions of another batch size may round differently.
        torch.testing.assert_close(layer(x)[:3], alone[:3], rtol=1e-9, atol=1e-9)


def test_a_bare_cell_starts_at_zero_and_is_conditioned_on_x() -> None:
    layer = ImplicitLayer(Bare().double(), TIGHT)
    x = torch.randn(2, 5, dtype=torch.float64)
    (condition,) = layer.condition(x)
    assert condition is x
    assert torch.equal(layer.initial(x), torch.zeros_like(x))
    z = layer(x)
    torch.testing.assert_close(layer.cell(z, x), z)


def test_layers_compose_in_sequential() -> None:
    net = nn.Sequential(nn.Linear(4, 3), ImplicitLayer(DenseCell(3, 6)), nn.Linear(6, 2))
    net(torch.randn(5, 4)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("change", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_of_a_layer_give_its_answers(change) -> None:
    x = torch.randn(2, 3)
    for layer in (ImplicitLayer(DenseCell(3, 4)), FlowLayer(DenseCell(3, 4), ODE(rtol=1e-4))):
        twin = change(layer)
        twin(x).sum().backward()
        assert torch.equal(twin(x), layer(x))
        assert all(p.grad is None for p in layer.parameters())


def test_state_dict_is_the_cell_alone_whatever_the_path() -> None:
    layer, x = ImplicitLayer(DenseCell(3, 4)), torch.randn(2, 3)
    flow = FlowLayer(DenseCell(3, 4))
    assert {k.split(".")[0] for k in layer.state_dict()} == {"cell"}
    flow.load_state_dict(layer.state_dict())
    torch.testing.assert_close(flow.with_solver(Anderson())(x), layer(x))


def test_with_solver_shares_the_weights() -> None:
    layer = ImplicitLayer(DenseCell(3, 4)).eval()
    flow = layer.with_solver(ODE(method="rk4"), t1=12.0)
    assert isinstance(flow, FlowLayer) and flow.rest_point and flow.t1 == 12.0
    back = flow.with_solver(Broyden())
    assert isinstance(back, ImplicitLayer) and isinstance(back.gradient, Implicit)
    for other in (flow, back):
        assert all(a is b for a, b in zip(layer.parameters(), other.parameters(), strict=True))
    assert not flow.training and not back.training
    with torch.no_grad():
        layer.cell.recurrent.weight.zero_()
    x = torch.randn(2, 3)
    torch.testing.assert_close(back(x), torch.tanh(layer.cell.inject(x)))
    assert isinstance(layer.solver, Anderson)  # the layer itself is as it was


def test_with_solver_keeps_a_gradient_that_fits_and_replaces_one_that_does_not() -> None:
    layer = ImplicitLayer(DenseCell(3, 4), gradient=Phantom())
    assert isinstance(layer.with_solver(Picard()).gradient, Phantom)
    assert isinstance(layer.with_solver(ODE()).gradient, Unroll)
    assert isinstance(layer.with_solver(Then(Flow(), Picard())).gradient, Phantom)
    flow = FlowLayer(DenseCell(3, 4), gradient=Adjoint())
    assert isinstance(flow.with_solver(ODE(method="rk4")).gradient, Adjoint)
    assert isinstance(flow.with_solver(Picard()).gradient, Implicit)
    assert isinstance(flow.with_solver(Picard(), Unroll()).gradient, Unroll)


def test_a_swap_there_and_back_keeps_the_rule_of_either_side() -> None:
    layer = ImplicitLayer(DenseCell(3, 4), gradient=Phantom(3))
    flow = layer.with_solver(ODE())
    assert flow.with_solver(Picard()).gradient == Phantom(3)
    assert flow.with_solver(ODE("rk4")).with_solver(Picard()).gradient == Phantom(3)
    assert layer.with_solver(ODE(), Adjoint()).with_solver(Picard()).gradient == Phantom(3)
    adjoint = FlowLayer(DenseCell(3, 4), gradient=Adjoint())
    assert adjoint.with_solver(Picard()).with_solver(ODE("rk4")).gradient == Adjoint()
    rest = adjoint.with_solver(Then(Flow(), Picard()), Phantom(2))
    assert rest.with_solver(ODE()).gradient == Adjoint()
    assert rest.with_solver(ODE()).with_solver(Picard()).gradient == Phantom(2)


def test_a_flow_that_is_swapped_to_its_root_and_back_answers_as_before_to_the_bit() -> None:
    x, rk4 = torch.randn(2, 3), RungeKutta(RK4, step_size=0.25)
    flow = FlowLayer(DenseCell(3, 4), rk4, t0=1.0, t1=4.0, times=[2.0, 3.5], interpolate=True)
    root = flow.with_solver(Anderson())
    assert root(x).shape == (2, 4) and "times" not in root.state_dict()
    for back in (root, root.with_solver(Picard()), copy.deepcopy(root)):
        assert torch.equal(back.with_solver(rk4)(x), flow(x))
    times = nn.Parameter(torch.tensor([2.0, 3.5]))
    learned = FlowLayer(DenseCell(3, 4), rk4, times=times, t1=4.0)
    back = learned.with_solver(Anderson()).with_solver(rk4)
    assert back.times is times and torch.equal(back(x), learned(x))


@pytest.mark.parametrize(
    ("swap", "said"),
    [
        (
            lambda cell: ImplicitLayer(cell, Broyden(), SHINE()).with_solver(Anderson()),
            r"Broyden\(\) ends with; got Anderson\(.*Use Implicit\(\)",
        ),
        (
            lambda cell: FlowLayer(cell, ODE(), Adjoint()).with_solver(RungeKutta()),
            r"integrated by ODE\(\); got InitialValue and RungeKutta. Use Unroll\(\)",
        ),
        (
            lambda cell: ImplicitLayer(cell, Picard(damping=0.5), Reversible()).with_solver(
                Anderson()
            ),
            r"got Anderson\(.*Use another gradient",
        ),
        (
            lambda cell: FlowLayer(cell, RungeKutta(RK4), Reversible()).with_solver(RungeKutta()),
            r"RungeKutta\(RK4\); got RungeKutta\(.*Use another gradient",
        ),
        (lambda cell: ImplicitLayer(cell, gradient=Adjoint()), r"got Equilibrium.*Use Implicit"),
        (lambda cell: FlowLayer(cell, gradient=Implicit()), r"Use Unroll\(\) or Adjoint\(\)"),
    ],
)
def test_a_rule_that_does_not_fit_the_new_solver_is_told_at_the_swap(
    swap: Callable[[nn.Module], Layer], said: str
) -> None:
    with pytest.raises(TypeError, match=said) as told:
        swap(DenseCell(3, 4))
    assert "\n" not in str(told.value)


def test_old_polish_is_the_flow_to_rest_and_says_what_to_write() -> None:
    cell, x = dense(), torch.randn(4, 3, dtype=torch.float64)
    new = ImplicitLayer(cell, Then(Flow(rtol=1e-12), TIGHT), EXACT)
    with pytest.warns(DeprecationWarning, match=r"Then\(Flow\(\), Anderson\(\)\)"):
        old = FlowLayer(cell, ODE("rk4"), EXACT, polish=TIGHT, on_failure="raise")  # type: ignore[call-arg]
    with pytest.warns(DeprecationWarning, match="polish= goes"):
        swapped = FlowLayer(cell).with_solver(ODE("rk4"), EXACT, polish=TIGHT)
    for layer in (old, swapped):
        assert isinstance(layer, ImplicitLayer)
        assert layer.solver == new.solver and layer.gradient == EXACT
        assert torch.equal(layer(x), new(x))
    assert old.on_failure == "raise" and old.cell is cell
    plain = old.with_solver(ODE("rk4"))  # what is named is what is run
    assert torch.equal(plain(x), FlowLayer(cell, ODE("rk4"))(x))
    with pytest.raises(TypeError, match="rest_point=True"), pytest.warns(DeprecationWarning):
        FlowLayer(ConvField(4, groups=2), rest_point=False, polish=Anderson())  # type: ignore[call-arg]


class Normed(Bare):
    """A cell whose answer depends on its mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(5)

    def condition(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.norm(x),)


def test_the_mode_of_a_swapped_layer_is_its_own_and_its_weights_and_statistics_are_shared() -> None:
    layer = ImplicitLayer(Normed())
    other = layer.with_solver(Picard()).eval()
    assert all(module.training for module in layer.modules())
    assert not any(module.training for module in other.modules())
    layer(torch.randn(8, 5))
    assert int(other.cell.norm.num_batches_tracked) == 1  # type: ignore[union-attr]
    layer.eval()
    other.train()
    assert not any(module.training for module in layer.modules())
    with torch.no_grad():
        layer.cell.linear.weight.zero_()  # type: ignore[union-attr]
    assert not other.cell.linear.weight.any()  # type: ignore[union-attr]
    assert set(other.state_dict()) == set(layer.state_dict())


def test_a_parametrized_and_a_compiled_cell_have_twins_with_modes_of_their_own() -> None:
    plain = nn.Sequential(spectral_norm(nn.Linear(3, 3)), nn.Dropout(0.5))
    for module in (plain, torch.compile(plain, backend="eager")):
        other = twin(module).eval()
        assert plain[1].training
        x = torch.ones(1, 3)
        assert torch.equal(other(x), other(x))  # no dropout is drawn
        assert [id(p) for p in other.parameters()] == [id(p) for p in module.parameters()]
    shared = nn.Linear(2, 2)
    pair = twin(nn.Sequential(shared, shared))
    assert pair[0] is pair[1] and pair[0] is not shared


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


def test_flow_without_rest_point_refuses_a_solver_of_equilibria_and_says_why() -> None:
    flow = FlowLayer(ConvField(4, groups=2), rest_point=False)
    for solver in ROOTS:
        with pytest.raises(TypeError, match="rest_point=True"):
            flow.with_solver(solver)
    assert flow.with_solver(ODE(method="rk4")).rest_point is False


def test_a_warm_start_at_the_answer_costs_one_evaluation() -> None:
    layer, x = ImplicitLayer(DenseCell(3, 4)), torch.randn(2, 3)
    found = layer.solve(x)
    for start in (found, found.value):
        again = layer.solve(x, z0=start)
        assert torch.equal(again.evals, torch.ones(2, dtype=torch.int64))
        assert torch.equal(again.value, found.value)


def test_failures_warn_raise_or_pass_as_asked() -> None:
    x = torch.zeros(3, 2)
    settings = {"solver": Picard(max_steps=3), "gradient": Phantom()}
    with pytest.warns(ConvergenceWarning, match="3 of 3 samples did not converge.*max_steps"):
        ImplicitLayer(Exploding(), **settings)(x)
    with pytest.raises(SolveError) as caught:
        ImplicitLayer(Exploding(), on_failure="raise", **settings)(x)
    assert caught.value.solution.value.shape == x.shape
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ImplicitLayer(Exploding(), on_failure="ignore", **settings)(x)
        solution = ImplicitLayer(Exploding(), on_failure="raise", **settings).solve(x)
    assert not bool(solution.converged.any())  # solve leaves it to the caller


@pytest.mark.parametrize(
    ("named", "wrong"),
    [
        ("on_failure", lambda cell: ImplicitLayer(cell, on_failure="warning")),
        ("FlowLayer", lambda cell: ImplicitLayer(cell, ODE())),
        ("ImplicitLayer", lambda cell: FlowLayer(cell, Anderson())),
        ("solver must", lambda cell: ImplicitLayer(cell, "anderson")),
        ("cell must", lambda cell: ImplicitLayer(lambda z, x: z)),
        ("above 0", lambda cell: FlowLayer(cell, t1=-1)),
        ("finite", lambda cell: FlowLayer(cell, t1=float("inf"))),
        ("one floating", lambda cell: FlowLayer(cell, t1=nn.Parameter(torch.ones(2)))),
        ("polish", lambda cell: ImplicitLayer(cell).with_solver(Picard(), polish=Picard())),
    ],
)
def test_wrong_arguments_are_named(named: str, wrong: Callable[[Any], Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=named):
        wrong(DenseCell(3, 4))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_cell_gives_the_same_answer_and_gradient(backend: str) -> None:
    cell, x = DenseCell(3, 4), torch.randn(4, 3)
    compiled = torch.compile(cell, backend=backend)
    pairs: list[tuple[Layer, Layer]] = [
        (ImplicitLayer(cell), ImplicitLayer(compiled)),
        (FlowLayer(cell), FlowLayer(compiled)),
    ]
    for plain, other in pairs:
        assert len(other.condition(x)) == 2  # the compiled cell's own condition is found
        found = []
        for layer in (plain, other):
            z = layer(x)
            found.append((z, *torch.autograd.grad(z.sum(), list(cell.parameters()))))
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_autocast_linearises_the_map_that_it_solved() -> None:
    torch.manual_seed(0)
    cell, x = DenseCell(8, 16), torch.randn(4, 8)
    layer = ImplicitLayer(cell, Anderson(rtol=1e-2), Implicit(Anderson(rtol=1e-2)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = layer(x)
        condition = layer.condition(x)
    assert z.dtype == torch.float32  # the state stays in single precision
    (found,) = torch.autograd.grad(z.sum(), cell.recurrent.weight)
    # The same by hand, on the map as autocast computes it.
    root = z.detach().requires_grad_()
    seen: list[torch.dtype] = []
    cell.recurrent.register_forward_hook(lambda *a: seen.append(a[2].dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        image = cell(root, *condition)
    assert seen == [torch.bfloat16]
    u = torch.ones_like(z)
    for _ in range(60):
        (pulled,) = torch.autograd.grad(image, root, u.to(image.dtype), retain_graph=True)
        u = 1 + pulled.float()
    (wanted,) = torch.autograd.grad(image, cell.recurrent.weight, u.to(image.dtype))
    # The backward solver's 1e-2, through (I - J)^-1, and the rounding of bf16 sums (2^-8).
    assert float((found - wanted).norm() / wanted.norm()) < 3e-2


def test_autocast_of_the_stem_does_not_lower_the_state() -> None:
    layer = ImplicitLayer(ConvCell(4, groups=2, gain=0.5), Anderson(rtol=1e-2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = nn.Conv2d(4, 4, 1)(torch.randn(2, 4, 4, 4))
        assert x.dtype == torch.bfloat16
        assert layer.initial(x).dtype == torch.float32
        assert layer(x).dtype == torch.float32


def test_recorded_solve_keeps_its_path() -> None:
    cell, x = DenseCell(3, 4), torch.randn(2, 3)
    solution = ImplicitLayer(cell).solve(x, record=True)
    assert solution.trajectory is not None
    assert torch.equal(solution.trajectory.z[-1], solution.value)
    flow = FlowLayer(cell).solve(x, record=True)
    assert flow.trajectory is not None and flow.trajectory.time is not None
    assert float(flow.trajectory.time[-1, 0]) == pytest.approx(5.0)


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
