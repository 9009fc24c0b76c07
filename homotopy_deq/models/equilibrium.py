"""HomoODE and DEQ: one cell, one equation, two paths to its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from solvers import Anderson, Gradient, Implicit, PeacemanRachford, Solver

from ..cells import ContractiveCell, ConvCell, MonotoneCell
from ..layers import HORIZON, FlowLayer, ImplicitLayer, OnFailure
from .blocks import conv_blocks, linear_blocks
from .image import ImageModel, Statistic, configured, integrator
from .start import StartPoint, start_point

GAIN = 0.5
"""Initial weight of the cell's first norm where an equilibrium is sought; 1 in the release.

Measured on untrained cells, digits and Fashion-MNIST, three seeds: with 1 the spectral radius of
df/dz at the answers reaches 1.24 and Anderson takes 25 to 60 evaluations, with 1/2 it stays below
0.87 and Anderson takes 12 to 18.
"""

STEP = 0.5
"""alpha of the splittings of a `MonotoneDEQ`. Measured on Fashion-MNIST, 42 channels: 40 to 70
evaluations while training takes ||I - W|| from 1 to 27, where alpha = 1 takes 35 to 90, the best
proved 1 / ||I - W|| takes 40 to over 300, and Anderson's fixed-point steps run away from 23 on."""

SPLITTING = PeacemanRachford(step_size=STEP, accelerated=Anderson())
ADJOINT = Implicit(replace(SPLITTING, rtol=1e-5))
"""Solver and gradient of a `MonotoneDEQ`; float32 does not always reach 1e-6 where W is large."""


class HomoODE(ImageModel):
    """Follow a learned homotopy from a shared start to the answer, as a flow of `ConvCell` f:

        dz/dt = f(z; x) - z  (rest_point=True),    dz/dt = f(z; x)  (as published),

    from the learnable `initial_point`. With a rest point the answer nears the equilibrium
    z* = f(z*; x): the same weights serve every solver (`with_solver`) and a `DEQ`.

    Arguments:
        shape: (C, H, W) of the images, which are floats in [0, 1].
        num_classes: number of logits.
        hidden: channels of the state.
        head: channels of the head.
        pool: the head averages over the cells of a pool x pool grid, so that with more than the
            published 1 it sees where things are, which suits small centred images.
        groups: at most so many groups in each GroupNorm.
        dropout: probability of dropping a channel of the cell, one mask per solve.
        stride: of the stem, 1, 2 or 4: the state is so many times less high and wide than the
            images. The release has 4 for images of 64 x 64, else 2.
        mean: of the images, one number or one a channel; applied inside the model.
        std: likewise.
        rest_point: which flow.
        horizon: where the flow ends; by default 5 with a rest point, 1 without.
        solver: an integrator, by default `RungeKutta()`, dopri5 at 1e-3 (`ODE()` under `Adjoint`);
            with a rest point any other solver, too.
        gradient: by default `Unroll()` for a flow, `Implicit()` for a root.
        contraction: None, or ||W|| in (0, 1) of a `ContractiveCell` in the place of `ConvCell`. The
            head is then affine, with `head` and `groups` of no meaning to it, so that votes can
            be verified (`verifiable`).
        kernel: with a contraction, side of the cell's kernel, or 0 or None for a state that is a
            vector of `hidden` numbers, made from the pixels by one affine map; `pool` is then of
            no meaning.
        start: where solves begin, by a `StartPoint` that learns: "shared" as published (one point,
            constant over space), "spatial" (one point of the state's shape), "input" (a map of the
            condition), or "none": from zero.
        on_failure: what `model(images)` does about samples that did not converge.

    References:
        S. Ding, T. Cui, J. Wang, Y. Shi (2023), Two sides of the same coin: bridging deep
        equilibrium models and neural ODEs via homotopy continuation. Differs in the rest point,
        in `GAIN` with it, and in exact gradients.
    """

    @configured
    def __init__(
        self,
        shape: Sequence[int] = (3, 32, 32),
        num_classes: int = 10,
        *,
        hidden: int = 64,
        head: int = 256,
        pool: int = 1,
        groups: int = 32,
        dropout: float = 0.1,
        stride: int = 2,
        mean: Statistic = 0.0,
        std: Statistic = 1.0,
        rest_point: bool = True,
        horizon: float | None = None,
        solver: Solver[Any, Any] | None = None,
        gradient: Gradient[Any] | None = None,
        contraction: float | None = None,
        kernel: int | None = 3,
        start: str = "shared",
        on_failure: OnFailure = "warn",
    ) -> None:
        if contraction is not None and not rest_point:
            raise ValueError("contraction is of f; dz/dt = f(z; x) (rest_point=False) keeps none.")
        gain = GAIN if rest_point else 1.0
        stem, out, cell, point = _parts(
            shape,
            num_classes,
            hidden,
            head,
            pool,
            groups,
            dropout,
            gain,
            contraction,
            kernel,
            start,
            stride,
        )
        flow = FlowLayer(cell, rest_point=rest_point, t1=horizon, on_failure=on_failure)
        layer = flow.with_solver(solver or integrator(gradient), gradient)
        super().__init__(shape, stem, layer, out, point, mean=mean, std=std)
        self.config = {"horizon": flow.t1}


class DEQ(ImageModel):
    """Solve for the equilibrium z* = f(z*; x) of a `ConvCell` f.

    Its weights are those of a `HomoODE` with a rest point: either loads the other's. Arguments that
    are not named here are as there.

    Arguments:
        horizon: where a flow ends that stands in for the solver (`with_solver(ODE())`).
        solver: `Anderson()` by default.
        gradient: `Implicit()` by default.

    References:
        S. Bai, J. Z. Kolter, V. Koltun (2019), Deep equilibrium models.
    """

    @configured
    def __init__(
        self,
        shape: Sequence[int] = (3, 32, 32),
        num_classes: int = 10,
        *,
        hidden: int = 64,
        head: int = 256,
        pool: int = 1,
        groups: int = 32,
        dropout: float = 0.1,
        stride: int = 2,
        mean: Statistic = 0.0,
        std: Statistic = 1.0,
        horizon: float = HORIZON,
        solver: Solver[Any, Any] | None = None,
        gradient: Gradient[Any] | None = None,
        contraction: float | None = None,
        kernel: int | None = 3,
        start: str = "shared",
        on_failure: OnFailure = "warn",
    ) -> None:
        stem, out, cell, point = _parts(
            shape,
            num_classes,
            hidden,
            head,
            pool,
            groups,
            dropout,
            GAIN,
            contraction,
            kernel,
            start,
            stride,
        )
        root = ImplicitLayer(cell, t1=horizon, on_failure=on_failure)
        layer = root.with_solver(solver or Anderson(), gradient)
        super().__init__(shape, stem, layer, out, point, mean=mean, std=std)


class MonotoneDEQ(ImageModel):
    """Solve for the equilibrium of a `MonotoneCell`, z* = relu(W z* + x) with I - W >= m I.

    There is one answer, whatever ||W|| is, and the head is affine: votes can be verified. Without a
    kernel it is `homotopy_deq.lipschitz.MonDEQ` of the pixels, of which the stem holds U and b, the
    head V and c; W is that of one cell under both names. Arguments that are not named here are as
    in `DEQ` and `HomoODE`.

    Arguments:
        monotonicity: m in (0, 1]. A larger one is quicker to solve and to verify, a smaller one
            allows more functions.
        kernel: side of the kernels of A and B, or 0 or None for a state that is a vector of
            `hidden` numbers, as in `HomoODE`.
        solver: `SPLITTING` by default, which converges whatever ||W|| is. Training makes W large,
            and then fixed-point steps, between Anderson's mixings too, run away.
        gradient: by default `ADJOINT`, a splitting too, for the same reason.

    References:
        E. Winston, J. Z. Kolter (2020), Monotone operator equilibrium networks.
    """

    @configured
    def __init__(
        self,
        shape: Sequence[int] = (3, 32, 32),
        num_classes: int = 10,
        *,
        hidden: int = 64,
        pool: int = 1,
        dropout: float = 0.1,
        stride: int = 2,
        mean: Statistic = 0.0,
        std: Statistic = 1.0,
        monotonicity: float = 0.1,
        kernel: int | None = 3,
        horizon: float = HORIZON,
        solver: Solver[Any, Any] | None = None,
        gradient: Gradient[Any] | None = None,
        start: str = "none",
        on_failure: OnFailure = "warn",
    ) -> None:
        stem, head, state = linear_blocks(shape, num_classes, hidden, pool, kernel, stride)
        cell = MonotoneCell(state, monotonicity=monotonicity, kernel=kernel or 1, dropout=dropout)
        root = ImplicitLayer(cell, SPLITTING, ADJOINT, t1=horizon, on_failure=on_failure)
        layer = root.with_solver(solver or SPLITTING, gradient)
        point = start_point(start, state)
        super().__init__(shape, stem, layer, head, point, mean=mean, std=std)


def _parts(
    shape: Sequence[int],
    num_classes: int,
    hidden: int,
    head: int,
    pool: int,
    groups: int,
    dropout: float,
    gain: float,
    contraction: float | None,
    kernel: int | None,
    start: str,
    stride: int,
) -> tuple[nn.Module, nn.Module, nn.Module, StartPoint | None]:
    """Return stem, head, cell and start, their weights drawn in this order."""
    stem: nn.Module
    out: nn.Module
    cell: nn.Module
    state: tuple[int, ...]
    if contraction is None:
        if kernel != 3:
            raise ValueError(
                f"kernel={kernel} needs a contraction; ConvCell's kernels have side 3."
            )
        sizes = (shape, num_classes, hidden, head, pool, groups)
        stem, out, state = conv_blocks(*sizes, stride=stride)
        cell = ConvCell(hidden, groups=groups, dropout=dropout, gain=gain)
        return stem, out, cell, start_point(start, state, groups)
    stem, out, state = linear_blocks(shape, num_classes, hidden, pool, kernel, stride)
    cell = ContractiveCell(state, contraction=contraction, kernel=kernel or 1, dropout=dropout)
    return stem, out, cell, start_point(start, state, groups)
