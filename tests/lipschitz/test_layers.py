"""The layers as torch modules."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

from homotopy_deq.lipschitz import (
    AOL,
    CPL,
    LBEN,
    SLL,
    Lift,
    MonDEQ,
    NormalizedLinear,
    Sandwich,
    certify_lipschitz,
    certify_margins,
    gain_found,
    to_lben,
    to_vanilla,
)
from homotopy_deq.lipschitz.blocks import Grid
from solvers import PeacemanRachford, Unroll

from .nets import KINDS, batch, layer, stack

GRIDS = [None, (6, 5)]


def every(grid: Grid) -> list[nn.Module]:
    return [layer(kind, 3, 4, grid) for kind in KINDS] + [
        LBEN(3, 6, 4, grid=grid),
        MonDEQ(3, 6, 4, grid=grid),
    ]


def layer_of_a_user() -> nn.Module:
    class Mine(nn.Module): ...

    return Mine()


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


@pytest.mark.parametrize("grid", GRIDS)
def test_appended_channels_are_zeros_and_an_isometry(grid: Grid) -> None:
    one, x = Lift(3, 5, grid=grid).double(), inputs(grid).double()
    assert torch.equal(one(x)[:, :3], x) and not bool(one(x)[:, 3:].any())
    assert certify_lipschitz(one).value == pytest.approx(1, abs=1e-9)
    lben = to_lben(nn.Sequential(one, SLL(5, grid=grid)).double().eval())
    assert lben(x).shape == one(x).shape
    for other in (copy.deepcopy(one), to_vanilla(one)):
        assert torch.equal(other(x), one(x))


def test_a_head_of_normalised_rows_keeps_what_it_computes_and_follows_its_weights() -> None:
    torch.manual_seed(0)
    one, x = NormalizedLinear(4, 3), torch.randn(5, 4)
    with torch.no_grad():
        first = one.computed()
        assert torch.allclose(first[0].norm(dim=1), torch.ones(3)) and one.computed() is first
        one.weight.mul_(3)  # rows have the norm 1 whatever the weights' is
        assert one.computed() is not first and torch.allclose(one.computed()[0], first[0])
        assert torch.allclose(to_vanilla(one)(x), one(x)) and to_vanilla(one)(x).shape == (5, 3)
        again = NormalizedLinear(4, 3)
        again.load_state_dict(one.state_dict())
        assert torch.equal(again(x), one(x)) and torch.equal(copy.deepcopy(one)(x), one(x))
    one(x).sum().backward()
    # A longer row is the same map: its gradient has nothing along the row.
    assert torch.allclose((one.weight.grad * one.weight).sum(1), torch.zeros(3), atol=1e-6)


def test_a_global_bound_of_normalised_rows_would_be_wrong_and_pairs_are_right() -> None:
    torch.manual_seed(0)
    body, head = nn.Sequential(Sandwich(4, 4)).double(), NormalizedLinear(4, 6).double()
    network = nn.Sequential(body, head).eval()
    with torch.no_grad():
        head.weight.copy_(torch.ones(6, 4) + 0.1 * torch.randn(6, 4))
    assert (
        float(torch.linalg.matrix_norm(head.computed()[0].detach(), 2)) > 2
    )  # rows of 1, no norm of 1
    with pytest.raises(ValueError, match="NormalizedLinear"):
        certify_lipschitz(network)
    x = torch.randn(4, 4, dtype=torch.float64)
    found = certify_margins(network, x)
    step = torch.randn(1000, 4, dtype=torch.float64)
    for image, radius, label in zip(x, found.radius, found.prediction, strict=True):
        near = image + radius * step / step.norm(dim=1, keepdim=True)
        assert bool((network(near).argmax(1) == label).all())


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
        (lambda: Lift(3, 2), "Lift takes 3 channels to at least as many; got 2"),
        (lambda: Lift(3, 4, grid=(4, 4))(torch.randn(2, 3)), "Lift maps"),
        (lambda: NormalizedLinear(0, 3), "sizes must be at least 1"),
        (lambda: NormalizedLinear(3, 2)(torch.randn(2, 4)), "NormalizedLinear maps"),
        (lambda: LBEN(3, 4, 2, epsilon=-1.0), "epsilon 0 or more"),
        (lambda: LBEN(3, 4, 2, gamma=float("nan")), "gamma must be above 0"),
        (lambda: to_lben(nn.Sequential(SLL(3), nn.Tanh())), r"1 \(Tanh\) cannot"),
        (lambda: to_lben(nn.Sequential(nn.MaxPool2d(2))), r"0 \(MaxPool2d\) cannot.*AvgPool2d"),
        (lambda: to_lben(nn.Sequential(nn.ReLU(), SLL(3))), "it has no layer before it"),
        (lambda: to_lben(nn.Sequential(SLL(3), SLL(4))), "cannot be followed by"),
        (lambda: to_lben(nn.Sequential(SLL(3, grid=(4, 4)), SLL(3))), "cannot be followed by"),
        (lambda: to_lben(nn.Sequential(SLL(3), nn.Dropout())), r"Dropout.*call eval\(\)"),
        (lambda: to_lben(nn.Sequential(SLL(3), NormalizedLinear(3, 2))), "pairs of rows"),
        (lambda: to_lben(nn.Sequential(nn.BatchNorm1d(3))), r"0 \(BatchNorm1d\) cannot"),
        (lambda: to_vanilla(LBEN(3, 4, 2)), "LBEN has no equal in torch.nn"),
        (lambda: to_vanilla(nn.ModuleList([LBEN(3, 4, 2)])), "an equilibrium is solved for"),
        (lambda: to_vanilla(layer_of_a_user()), "neither of torch.nn nor an explicit layer"),
        (lambda: to_vanilla(nn.Sequential(SLL(3), MonDEQ(3, 4, 2))), "MonDEQ has no equal"),
    ],
)
def test_malformed_input_gets_one_line(make: object, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        make()  # type: ignore[operator]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("grid", GRIDS)
def test_the_gradient_of_an_equilibrium_is_that_of_its_path_where_w_is_large(grid: Grid) -> None:
    torch.manual_seed(0)
    network = LBEN(3, 24, 2, grid=grid, solver=PeacemanRachford(rtol=1e-13)).double()
    x = inputs(grid).double()

    def slopes() -> torch.Tensor:
        network.zero_grad()
        network(x).square().sum().backward()
        return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])

    assert float(torch.linalg.matrix_norm(network.form().w, 2).amax()) > 1
    implicit = slopes()
    network.layer = network.layer.with_solver(network.layer.solver, Unroll())
    path = slopes()
    assert float((implicit - path).norm()) <= 1e-5 * float(path.norm())  # rtol of GMRES is 1e-6
