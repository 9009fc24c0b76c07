"""HomoODE and DEQ: one cell, one equation, two paths to its answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from solvers import ODE, Anderson, Gradient, Solver

from ..cells import ConvCell
from ..layers import HORIZON, FlowLayer, ImplicitLayer, OnFailure
from .image import ImageModel, Statistic
from .start import InitialPoint

GAIN = 0.5
"""Initial weight of the cell's first norm where an equilibrium is sought; 1 in the release.

Measured on untrained cells, digits and Fashion-MNIST, three seeds: with 1 the spectral radius of
df/dz at the answers reaches 1.24 and Anderson takes 25 to 60 evaluations, with 1/2 it stays below
0.87 and Anderson takes 12 to 18.
"""


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
        mean, std: of the images, one number or one a channel; applied inside the model.
        rest_point: which flow.
        horizon: where the flow ends; by default 5 with a rest point, 1 without.
        solver: an `ODE` (dopri5 at 1e-3 by default), or with a rest point any other solver.
        gradient: by default `Unroll()` for a flow, `Implicit()` for a root.
        on_failure: what `model(images)` does about samples that did not converge.

    References:
        S. Ding, T. Cui, J. Wang, Y. Shi (2023), Two sides of the same coin: bridging deep
        equilibrium models and neural ODEs via homotopy continuation. Differs in the rest point,
        in `GAIN` with it, and in exact gradients.
    """

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
        mean: Statistic = 0.0,
        std: Statistic = 1.0,
        rest_point: bool = True,
        horizon: float | None = None,
        solver: Solver[Any, Any] | None = None,
        gradient: Gradient[Any] | None = None,
        on_failure: OnFailure = "warn",
    ) -> None:
        super().__init__(
            shape,
            num_classes,
            hidden=hidden,
            head=head,
            pool=pool,
            groups=groups,
            mean=mean,
            std=std,
        )
        gain = GAIN if rest_point else 1.0
        cell = ConvCell(hidden, groups=groups, dropout=dropout, gain=gain)
        flow = FlowLayer(cell, rest_point=rest_point, t1=horizon, on_failure=on_failure)
        self.layer = flow.with_solver(solver or ODE(), gradient)
        self.initial_point = InitialPoint(hidden, groups)
        self.config |= {
            "dropout": dropout,
            "rest_point": rest_point,
            "horizon": flow.t1,
            "on_failure": on_failure,
        }


class DEQ(ImageModel):
    """Solve for the equilibrium z* = f(z*; x) of a `ConvCell` f.

    Its weights are those of a `HomoODE` with a rest point: either loads the other's.

    Arguments:
        shape, num_classes, hidden, head, pool, groups, dropout, mean, std, on_failure: as in
            `HomoODE`.
        horizon: where a flow ends that stands in for the solver (`with_solver(ODE())`).
        solver: `Anderson()` by default.
        gradient: `Implicit()` by default.

    References:
        S. Bai, J. Z. Kolter, V. Koltun (2019), Deep equilibrium models.
    """

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
        mean: Statistic = 0.0,
        std: Statistic = 1.0,
        horizon: float = HORIZON,
        solver: Solver[Any, Any] | None = None,
        gradient: Gradient[Any] | None = None,
        on_failure: OnFailure = "warn",
    ) -> None:
        super().__init__(
            shape,
            num_classes,
            hidden=hidden,
            head=head,
            pool=pool,
            groups=groups,
            mean=mean,
            std=std,
        )
        cell = ConvCell(hidden, groups=groups, dropout=dropout, gain=GAIN)
        layer = ImplicitLayer(cell, t1=horizon, on_failure=on_failure)
        self.layer = layer.with_solver(solver or Anderson(), gradient)
        self.initial_point = InitialPoint(hidden, groups)
        self.config |= {"dropout": dropout, "horizon": horizon, "on_failure": on_failure}
