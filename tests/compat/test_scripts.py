"""What torchdeq's own scripts take from it beside a solve; the library itself beside, if there."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from homotopy_deq import compat
from homotopy_deq.compat import (
    VariationalDropout,
    VariationalDropout1d,
    VariationalDropToken1d,
    apply_norm,
    get_deq,
    mem_gc,
    register_norm_module,
    reset_deq,
    solver_stat_from_final_step,
)
from homotopy_deq.layer import ConvergenceWarning

NAMES = [
    "VariationalDropout", "VariationalDropout1d", "VariationalDropout2d", "VariationalDropout3d",
    "VariationalDropToken1d", "VariationalDropToken2d", "VariationalDropToken3d",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("first", [True, False])
def test_masks_of_dropout_are_those_of_torchdeq(name: str, first: bool) -> None:
    theirs = pytest.importorskip("torchdeq")
    dims = int(name[-2]) if name[-1] == "d" else 0
    shape = (3, 5, 4, 6, 7)[: dims + 2]
    found = []
    for library in (theirs, compat):
        torch.manual_seed(0)
        named = {"token_first": first} if dims else {}
        drop = getattr(library, name)(0.4, **named).train()
        x = torch.ones(shape)
        found.append((drop(x), drop(x), library.reset_deq(drop), drop(x)))
    for a, b in zip(*found, strict=True):
        assert a is b is None or torch.equal(a, b)


@pytest.mark.parametrize("kind", [VariationalDropout, VariationalDropout1d, VariationalDropToken1d])
def test_a_mask_holds_until_it_is_reset(kind: type[VariationalDropout]) -> None:
    """Two masks of 240 entries or more are equal by chance once in 2^240."""
    drop, x = kind(0.5), torch.ones(12, 20, 20)
    once, again = drop(x), drop(2 * x)
    assert torch.equal(again, 2 * once) and set(once.unique().tolist()) == {0.0, 2.0}
    reset_deq(nn.Sequential(drop))
    assert not torch.equal(drop(x), once)
    assert torch.equal(drop.eval()(x), x)


def test_a_mask_of_another_batch_is_refused() -> None:
    drop = VariationalDropout1d(0.5)
    drop(torch.ones(3, 5, 4))
    with pytest.raises(ValueError, match=r"mask of \(3, 1, 4\) met an input of \(2, 5, 4\)"):
        drop(torch.ones(2, 5, 4))


def test_recomputed_activations_give_the_same_gradients() -> None:
    drop = VariationalDropout1d(0.5)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), drop, nn.Linear(8, 4)).double()
    x = torch.randn(3, 5, 4, dtype=torch.float64, requires_grad=True)
    net(x)  # draws the mask
    kept = torch.autograd.grad(net(x).sum(), (x, *net.parameters()))
    calls = []
    net[0].register_forward_hook(lambda *_: calls.append(1))
    value = mem_gc(net, (x,))
    assert len(calls) == 1
    again = torch.autograd.grad(value.sum(), (x, *net.parameters()))
    assert len(calls) == 2
    assert all(torch.equal(a, b) for a, b in zip(kept, again, strict=True))


@pytest.mark.parametrize("listed", [False, True])
def test_statistics_of_a_last_step_are_norms_of_each_sample(listed: bool) -> None:
    z, fz = torch.randn(3, 4, 2), torch.randn(3, 4, 2)
    info = solver_stat_from_final_step([z, z] if listed else z, [fz, fz] if listed else fz, 7)
    gap, size = (fz - z).flatten(1).norm(dim=1), fz.flatten(1).norm(dim=1)
    scale = 2**0.5 if listed else 1.0
    assert torch.allclose(info["abs_lowest"], scale * gap)
    assert torch.allclose(info["rel_lowest"], gap / size)
    assert info["nstep"].tolist() == [7.0] * 3


class Graph(nn.Module):
    """Two matrices that are no `weight` of a layer, as implicit graph networks have them."""

    def __init__(self) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(4, 4))
        self.Omega = nn.Parameter(torch.randn(5, 4))
        self.bias = nn.Parameter(torch.randn(4))


class Other(Graph):
    """A class of its own, of which nothing was said."""


def test_parameters_of_a_registered_class_are_normed() -> None:
    register_norm_module(Graph, "weight_norm", names=["W", "Omega"], dims=[0, 1])
    model = Graph()
    apply_norm(model, "weight_norm", learn_scale=False, target_norm=0.5)
    assert torch.allclose(model.W.norm(dim=1), torch.full((4,), 0.5))
    assert torch.allclose(model.Omega.norm(dim=0), torch.full((4,), 0.5))
    other, spectral = Other(), Graph()
    apply_norm(other, "weight_norm")
    apply_norm(spectral, "spectral_norm")  # nothing was said of this norm
    assert len(list(other.parameters())) == len(list(spectral.parameters())) == 3
    with pytest.raises(ValueError, match="norm_type must be one of weight_norm, spectral_norm"):
        register_norm_module(Graph, "none")


def test_a_normed_weight_is_not_assigned_to() -> None:
    layer = nn.Linear(3, 3)
    apply_norm(layer)
    with pytest.raises(NotImplementedError, match="cannot be assigned to.*remove_norm"):
        layer.weight = torch.eye(3)  # type: ignore[assignment]


def test_what_a_script_hands_on_without_a_value_is_nothing() -> None:
    x = torch.randn(3, 2)
    (z,), _ = get_deq()(lambda z: 0.5 * z + x, torch.zeros_like(x), writer=None)
    assert torch.allclose(z, 2 * x, atol=1e-2)  # torchdeq's tolerance, 1e-3, over 1 - .5
    with pytest.raises(TypeError, match="writer: no argument of a DEQ"):
        get_deq()(lambda z: 0.5 * z + x, torch.zeros_like(x), writer=print)


@pytest.mark.parametrize("states", [1, 2])
@pytest.mark.parametrize("training", [True, False])
def test_rows_that_are_one_system_are_found_and_solved_as_one(states: int, training: bool) -> None:
    """An import line says nothing of coupled rows: torchdeq has no word for them.

    Row 0 is there after one step until row 1 has grown: stopped by itself, it would stay at 0.
    """
    w = torch.tensor([[0.5, 0.4, 0.0], [0.0, 0.9, 0.0], [0.0, 0.0, 0.1]], dtype=torch.float64)
    x = torch.tensor([[0.0], [1e-3], [1.0]], dtype=torch.float64, requires_grad=True)

    def f(z: Tensor) -> Tensor:
        return w @ z + x

    module = get_deq(
        ift=True, n_states=states, f_tol=1e-10, f_stop_mode="rel", f_max_iter=1000, b_max_iter=500,
        b_tol=1e-10,
    ).train(training)  # fmt: skip
    with pytest.warns(ConvergenceWarning, match="solved again as one system.*coupled=True"):
        z_out, info = module(f, torch.zeros_like(x))
    inverse = torch.linalg.inv(torch.eye(3).double() - w)
    # a relative 1e-10 of ||z|| = 1.1 over 1 - ||W||, .04
    assert torch.allclose(z_out[-1], inverse @ x, atol=5e-9)
    assert bool(info["solution"].converged.all())
    (got,) = torch.autograd.grad(z_out[-1].sum(), x)
    assert torch.allclose(got, inverse.sum(0)[:, None], rtol=1e-7)


def test_no_iteration_is_an_option_as_of_a_model_that_is_unrolled() -> None:
    """The zoo's language model trains with f_max_iter 0 and a gradient of 12 steps."""
    x = torch.randn(3, 2)
    (z,), _ = get_deq(f_max_iter=0, grad=3)(lambda z: 0.5 * z + x, torch.zeros_like(x))
    assert torch.allclose(z, 1.75 * x)
