"""A layer under another solver: what it shares, what it keeps, and what it refuses."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from homotopy_deq import FlowLayer, ImplicitLayer
from homotopy_deq.cells import ConvField, DenseCell
from homotopy_deq.layers import Layer
from homotopy_deq.twin import twin
from solvers import (
    ODE,
    RK4,
    SHINE,
    Adjoint,
    Anderson,
    Broyden,
    Flow,
    Implicit,
    Phantom,
    Picard,
    Reversible,
    RungeKutta,
    Then,
    Unroll,
)
from tests.test_layers import EXACT, ROOTS, TIGHT, Bare, dense


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


def test_flow_without_rest_point_refuses_a_solver_of_equilibria_and_says_why() -> None:
    flow = FlowLayer(ConvField(4, groups=2), rest_point=False)
    for solver in ROOTS:
        with pytest.raises(TypeError, match="rest_point=True"):
            flow.with_solver(solver)
    assert flow.with_solver(ODE(method="rk4")).rest_point is False
