"""The layers as torch modules."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

from homotopy_deq.lipschitz import AOL, CPL, LBEN, SLL, MonDEQ, Sandwich, gain_found
from homotopy_deq.lipschitz.blocks import Grid
from solvers import PeacemanRachford

from .nets import KINDS, batch, layer, stack

GRIDS = [None, (6, 5)]


def every(grid: Grid) -> list[nn.Module]:
    return [layer(kind, 3, 4, grid) for kind in KINDS] + [
        LBEN(3, 6, 4, grid=grid),
        MonDEQ(3, 6, 4, grid=grid),
    ]


def inputs(grid: Grid, count: int = 5) -> torch.Tensor:
    return torch.randn(count, 3, *(grid or ()))


@pytest.mark.parametrize("grid", GRIDS)
def test_no_pair_of_inputs_is_driven_further_apart_than_the_constant(grid: Grid) -> None:
    for seed, kinds in enumerate([["sll"] * 3, ["cpl"] * 3, ["aol"] * 2, ["sandwich"] * 3]):
        network = stack(kinds, [3] * (len(kinds) + 1), grid, seed)
        found = gain_found(network, batch(network, 50), steps=20)
        assert 0.05 < float(found.max()) <= 1 + 1e-12


@pytest.mark.parametrize("grid", GRIDS)
def test_a_layer_survives_copies_and_its_state_dict(grid: Grid) -> None:
    x = inputs(grid)
    for one in every(grid):
        one.eval()
        with torch.no_grad():
            y = one(x)  # what was kept of the weights must not travel
            assert torch.equal(copy.deepcopy(one)(x), y)
            buffer = io.BytesIO()
            torch.save(one, buffer)
            buffer.seek(0)
            assert torch.equal(torch.load(buffer, weights_only=False)(x), y)
            other = copy.deepcopy(one)
            for p in other.parameters():
                p.add_(0.1 * torch.randn_like(p))
            assert not torch.allclose(other(x), y)
            other.load_state_dict(one.state_dict())
            assert torch.equal(other(x), y)


@pytest.mark.parametrize("grid", GRIDS)
def test_weights_are_kept_in_evaluation_and_follow_the_parameters(grid: Grid) -> None:
    for one in (SLL(3, 4, grid=grid), Sandwich(3, 4, grid=grid), CPL(3, 4, grid=grid)):
        with torch.no_grad():
            first = one.computed()
            assert one.computed() is first
            one.bias.add_(1)
            assert one.computed() is not first
        assert all(t.requires_grad for t in one.computed())


@pytest.mark.parametrize("write", ["data", "fused", "functional"])
def test_no_way_to_write_to_a_parameter_leaves_weights_that_were_kept(write: str) -> None:
    for one in (SLL(3, 4), LBEN(3, 4, 2)):
        x, old = torch.randn(2, 3), copy.deepcopy(one)
        with torch.no_grad():
            first = one(x)
        if write == "data":
            for p in one.parameters():
                p.data.add_(0.3 * torch.randn_like(p))
        elif write == "fused":
            one(x).square().sum().backward()
            torch.optim.Adam(one.parameters(), lr=0.3, fused=True).step()
        else:
            new = {name: p + 0.3 * torch.randn_like(p) for name, p in one.named_parameters()}
            with torch.no_grad():
                called = torch.func.functional_call(one, new, (x,))
                assert torch.equal(one(x), first)
            one.load_state_dict(new, strict=False)
            assert torch.allclose(called, one(x))
        old.load_state_dict(one.state_dict())
        with torch.no_grad():
            assert torch.equal(one(x), old(x))
            assert not torch.allclose(one(x), first)


@pytest.mark.parametrize("grid", GRIDS)
def test_the_form_of_a_cell_is_its_map_whatever_its_buffers_say(grid: Grid) -> None:
    network = LBEN(3, 6, 4, grid=grid, solver=PeacemanRachford(rtol=1e-12)).double()
    network.cell.linear.fill_(True)  # type: ignore[union-attr, operator]
    x = inputs(grid).double()
    with torch.no_grad():
        form, z = network.form(), network.layer(x)
        assert torch.equal(form.phi(-z.abs() - 1), 0 * z)
        assert torch.allclose(network.cell.equation(network.cell.condition(x))(z), z, atol=1e-9)


@pytest.mark.parametrize("grid", GRIDS)
def test_a_residual_layer_of_zeros_is_the_identity(grid: Grid) -> None:
    for one in (SLL(3, 4, grid=grid), CPL(3, 4, grid=grid)):
        with torch.no_grad():
            one.weight.zero_()
            one.bias.fill_(5.0)
        x = inputs(grid)
        assert torch.equal(one(x), x)
        assert one.form().proved() <= 1 + 1e-9


@pytest.mark.parametrize("grid", GRIDS)
def test_autocast_does_not_loosen_the_bound(grid: Grid) -> None:
    for kind in KINDS:
        network = stack([kind], [3, 4], grid, 0).float()
        weights = network[0].computed()
        with torch.autocast("cpu", torch.bfloat16):
            assert all(
                torch.equal(a, b) for a, b in zip(network[0].computed(), weights, strict=True)
            )


def test_a_row_of_zeros_makes_sll_no_blow_up() -> None:
    one = SLL(4, 4)
    with torch.no_grad():
        one.weight[0] = 0
    out = one(torch.randn(3, 4))
    out.sum().backward()
    assert out.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in one.parameters())
    assert one.form().proved() <= 1 + 1e-11  # rounding, whatever its metric spans


@pytest.mark.parametrize("kind", KINDS)
def test_singular_values_stay_below_one_while_training(kind: str) -> None:
    torch.manual_seed(0)
    one = layer(kind, 3, 3, (6, 5))
    optimiser = torch.optim.Adam(one.parameters(), lr=0.05)
    for _ in range(25):
        optimiser.zero_grad()
        (-one(inputs((6, 5))).square().sum()).backward()
        optimiser.step()
    one.double().eval()
    jacobian = torch.func.jacrev(lambda x: one(x[None])[0].flatten())(
        torch.randn(3, 6, 5, dtype=torch.float64)
    ).flatten(1)
    values = torch.linalg.svdvals(jacobian.detach())
    assert 0.5 < float(values[0]) <= 1 + 1e-9


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: AOL(0, 3), "sizes must be at least 1"),
        (lambda: SLL(3, grid=(4,)), "grid must be"),
        (lambda: CPL(3, grid=(4, 4), kernel=2), "kernel must be odd"),
        (lambda: Sandwich(3, 3, grid=(2, 2), kernel=3), "fit on the grid"),
        (lambda: LBEN(3, 4, 2, gamma=0.0), "gamma must be above 0"),
        (lambda: MonDEQ(3, 4, 2, monotonicity=2.0), "monotonicity"),
        (lambda: AOL(3, 3)(torch.randn(2, 4)), "AOL maps"),
        (lambda: SLL(3, grid=(4, 4))(torch.randn(2, 3)), "SLL maps"),
        (lambda: LBEN(3, 4, 2)(torch.randn(2, 4)), "LBENCell maps"),
    ],
)
def test_malformed_input_gets_one_line(make: object, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        make()  # type: ignore[operator]
    assert "\n" not in str(caught.value)
