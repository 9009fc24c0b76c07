"""CPL, SLL, AOL, Sandwich and monDEQ are equilibrium networks with the same constant."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from homotopy_deq.lipschitz import (
    LBEN,
    EquilibriumNetwork,
    Form,
    LBENCell,
    MonDEQ,
    certify_lipschitz,
    to_lben,
)
from homotopy_deq.lipschitz.blocks import Grid
from solvers import PeacemanRachford, Picard

from .nets import KINDS, batch, stack

EXACT = PeacemanRachford(step_size=1.0, rtol=1e-14)
GRIDS = st.sampled_from([None, None, (3, 3), (4, 3), (5, 6)])


def composed(network: torch.nn.Sequential) -> Form:
    first, *others = (each.form() for each in network)
    for form in others:
        first = first.then(form)
    return first


def check_equal_and_positive(kinds: list[str], sizes: list[int], grid: Grid, seed: int) -> None:
    """The map is equal to 1e-12 and the inequality holds, at once and after 50 steps of Adam."""
    network = stack(kinds, sizes, grid, seed)
    form, x = composed(network), batch(network)
    with torch.no_grad():
        y = network(x)
    q, least = form.lmi()
    size = float(torch.linalg.matrix_norm(form.metric[:, None] * form.u).amax()) + float(
        form.metric.amax()
    )
    assert least >= -1e-10 * size
    assert 1 <= certify_lipschitz(network).value <= 1 + 1e-6
    lben = to_lben(network)
    assert isinstance(lben, EquilibriumNetwork)
    lben.layer = lben.layer.with_solver(EXACT)
    with torch.no_grad():
        assert (lben(x) - y).abs().amax() <= 1e-12 * (1 + y.abs().amax())
    optimiser = torch.optim.Adam(lben.parameters(), lr=1e-3)
    for _ in range(50):
        optimiser.zero_grad()
        # Any parameters must do, so any loss does.
        sum((p * torch.randn_like(p)).sum() for p in lben.parameters()).backward()
        optimiser.step()
    form = lben.form()
    size = float(torch.linalg.matrix_norm(form.inequality()).amax()) + float(form.metric.amax())
    assert form.lmi()[1] >= -1e-10 * size


@settings(max_examples=40, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=6),
    grid=GRIDS,
    seed=st.integers(0, 2**31),
    data=st.data(),
)
def test_a_stack_is_one_equilibrium_network_before_and_after_training(
    kinds: list[str], grid: Grid, seed: int, data: st.DataObject
) -> None:
    top = 5 if grid is None else 3
    sizes = [data.draw(st.integers(1, top)) for _ in range(len(kinds) + 1)]
    check_equal_and_positive(kinds, sizes, grid, seed)


@pytest.mark.slow
@settings(max_examples=1000, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=6),
    grid=GRIDS,
    seed=st.integers(0, 2**31),
    data=st.data(),
)
def test_a_thousand_stacks_are_equilibrium_networks_before_and_after_training(
    kinds: list[str], grid: Grid, seed: int, data: st.DataObject
) -> None:
    top = 12 if grid is None else 4
    sizes = [data.draw(st.integers(1, top)) for _ in range(len(kinds) + 1)]
    check_equal_and_positive(kinds, sizes, grid, seed)


@pytest.mark.parametrize("kind", ["sll", "sandwich"])
@pytest.mark.parametrize("grid", [None, (5, 6)])
def test_a_smaller_constant_is_not_proved_where_the_bound_is_tight(kind: str, grid: Grid) -> None:
    network = stack([kind] * 3, [4] * 4, grid, 0)
    form = composed(network)
    assert form.lmi()[1] >= -1e-12
    assert replace(form, gamma=0.99 * form.gamma).lmi()[1] < -1e-4


@pytest.mark.parametrize("grid", [None, (4, 3)])
@pytest.mark.parametrize("claim", [1e-3, 0.3, 0.9, 1.0, 30.0])
def test_what_is_proved_of_a_claim_is_no_less_than_the_gain(claim: float, grid: Grid) -> None:
    stacked = composed(stack(["sll", "sandwich", "cpl"], [3, 4, 3, 4], grid, 3))
    for form in (stacked, LBEN(3, 5, 2, grid=grid).form(), MonDEQ(3, 5, 2, grid=grid).form()):
        # With identity neurons only the map is V (I - W)^-1 U + D, whose norm is exact.
        eye = torch.eye(len(form.b), dtype=form.w.dtype)
        gain = torch.linalg.matrix_norm(
            form.v @ torch.linalg.solve(eye - form.w, form.u) + form.d, 2
        )
        proved = replace(form, gamma=claim * form.gamma).proved()
        assert proved >= float(gain.amax()) * (1 - 1e-14)


@pytest.mark.parametrize("grid", [None, (5, 6)])
def test_a_sandwich_satisfies_the_inequality_with_equality(grid: Grid) -> None:
    q, _ = stack(["sandwich"], [3, 4], grid, 1)[0].form().lmi()  # type: ignore[operator]
    assert q.abs().amax() < 1e-12


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_picard_solves_a_triangular_network_in_as_many_steps_as_it_is_deep(depth: int) -> None:
    network = stack(["sandwich"] * depth, [4] * (depth + 1), None, 2)
    lben = to_lben(network)
    assert isinstance(lben, EquilibriumNetwork)
    x = batch(network)
    solution = lben.layer.with_solver(Picard(rtol=1e-14)).solve(x)
    assert int(solution.steps.max()) <= depth + 1
    assert (lben.cell.read(solution.value) - network(x)).abs().amax() < 1e-13


def test_a_form_that_is_no_lben_is_refused() -> None:
    form = stack(["sll"], [4, 4], None, 0)[0].form()  # type: ignore[operator]
    with pytest.raises(ValueError, match="no LBEN of gamma 0.9"):
        LBENCell.of(replace(form.without_feedthrough(), gamma=0.9))


def test_a_monotone_network_has_the_published_constant() -> None:
    network = MonDEQ(3, 8, 2, monotonicity=0.3).double()
    u, v = (
        float(torch.linalg.matrix_norm(t.detach(), 2)) for t in (network.cell.u, network.cell.v)
    )
    assert network.gamma == pytest.approx(u * v / 0.3, rel=1e-6)
    assert network.lmi()[1] >= -1e-12
    assert network.form().proved() == pytest.approx(network.gamma, rel=1e-9)
