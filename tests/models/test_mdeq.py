"""MDEQ: a state of several resolutions, which every tool of one vector or one tuple takes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from homotopy_deq import (
    MDEQ,
    RK4,
    Anderson,
    Broyden,
    Flow,
    Implicit,
    ImplicitLayer,
    NewtonKrylov,
    Picard,
    Unroll,
)
from homotopy_deq.cells import Joined, MultiscaleCell
from solvers import Equilibrium, Solver, solve

SHAPES = [(4, 6, 5), (4, 3, 3), (4, 2, 2)]


def cell(gain: float = 0.5) -> MultiscaleCell:
    return MultiscaleCell(4, 3, groups=2, gain=gain).double()


def condition() -> Tensor:
    return torch.randn(3, 4, 6, 5, dtype=torch.float64)


def test_state_is_a_tuple_of_images_each_half_of_the_one_before() -> None:
    f, x = cell(), condition()
    z = f.initial(x)
    assert [tuple(part.shape[1:]) for part in z] == SHAPES
    assert [tuple(part.shape[1:]) for part in f(z, x)] == SHAPES


def test_every_resolution_is_fused_with_every_other() -> None:
    """No entry of df_i/dz_j is zero as a block, for any i and j."""
    f, x = cell(), condition()
    z = tuple(torch.randn_like(part).requires_grad_() for part in f.initial(x))
    for image in f(z, x):
        weights = torch.randn_like(image)
        pulled = torch.autograd.grad((image * weights).sum(), z, retain_graph=True)
        assert all(float(part.abs().max()) > 1e-6 for part in pulled)


@pytest.mark.parametrize(
    "solver",
    [
        Anderson(rtol=1e-10),
        Broyden(rtol=1e-10),
        NewtonKrylov(rtol=1e-10),
        Flow(RK4, h=1.0, rtol=1e-10, max_steps=500),
    ],
    ids=lambda solver: type(solver).__name__,
)
def test_tuple_and_vector_of_it_have_one_answer_by_every_solver(
    solver: Solver[Equilibrium, object],
) -> None:
    f, x = cell(0.3), condition()
    joined = Joined(f, SHAPES)
    apart = solve(Equilibrium(f, (x,)), solver, f.initial(x)).check().value
    layer = ImplicitLayer(joined, solver)
    found = layer.solve(x).check().value
    for part, wanted in zip(joined.parts(found), apart, strict=True):
        torch.testing.assert_close(part, wanted, rtol=1e-8, atol=1e-8)
    tuples = ImplicitLayer(f, solver)(x)  # its initial is a tuple, and so is its answer
    for part, wanted in zip(tuples, apart, strict=True):
        torch.testing.assert_close(part, wanted, rtol=1e-8, atol=1e-8)


def test_implicit_gradient_of_a_tuple_is_that_of_the_converged_iteration() -> None:
    f, x = cell(0.3), condition()
    weights = [torch.randn(3, *shape, dtype=torch.float64) for shape in SHAPES]
    found: list[list[Tensor]] = []
    for layer in (
        ImplicitLayer(f, Anderson(rtol=1e-12), Implicit(Anderson(rtol=1e-12))),
        ImplicitLayer(f, Picard(rtol=1e-12, max_steps=500), Unroll()),
    ):
        loss = sum((z * w).sum() for z, w in zip(layer(x), weights, strict=True))
        found.append(list(torch.autograd.grad(loss, list(f.parameters()))))
    for implicit, unrolled in zip(*found, strict=True):
        torch.testing.assert_close(implicit, unrolled, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    ("shape", "scales"), [((1, 8, 8), 2), ((1, 28, 28), 3), ((3, 32, 32), 3), ((3, 4, 4), 1)]
)
def test_resolutions_by_default_keep_two_by_two_pixels(
    shape: tuple[int, int, int], scales: int
) -> None:
    model = MDEQ(shape, hidden=4, head=8)
    assert model.config["scales"] == scales
    z = model.layer.initial(model.condition(torch.rand(2, *shape)))
    images = model.resolutions(z)
    assert len(images) == scales and min(images[-1].shape[-2:]) >= 2


@pytest.mark.parametrize("scales", [0, 4, 99])
def test_resolutions_that_are_none_are_refused(scales: int) -> None:
    assert MDEQ((1, 8, 8), hidden=4, scales=3).config["scales"] == 3  # down to one pixel
    with pytest.raises(ValueError, match=f"4 x 4 pixels; got {scales}"):
        MDEQ((1, 8, 8), hidden=4, scales=scales)


def test_head_reads_every_resolution() -> None:
    model = MDEQ((1, 8, 8), hidden=4, head=8, groups=2).double().eval()
    z = torch.randn(2, model.layer.initial(torch.zeros(2, 4, 4, 4)).shape[1]).double()
    z.requires_grad_()
    (pulled,) = torch.autograd.grad(model.head(z).square().sum(), z)
    assert all(float(part.abs().max()) > 1e-9 for part in model.resolutions(pulled))
