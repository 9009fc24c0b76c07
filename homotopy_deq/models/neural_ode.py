"""Neural ODEs, plain and augmented: the condition enters through the initial point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from solvers import Gradient, Solver

from ..cells import ConvField
from ..layers import FlowLayer, OnFailure
from .blocks import conv_blocks
from .image import ImageModel, Statistic, configured, integrator


class AugmentedNeuralODE(ImageModel):
    """Classify by z(horizon) of dz/dt = f(z), z(0) = (x, 0), with a `ConvField` f.

    It has no equilibrium that depends on x, so `with_solver` takes integrators alone. Arguments
    that are not named here are as in `HomoODE`.

    Arguments:
        augment: channels added to the `hidden` ones of x.
        horizon: where the flow ends.
        solver: an integrator, as in `HomoODE`.
        gradient: `Unroll()` by default, or `Adjoint()`.

    References:
        E. Dupont, A. Doucet, Y. W. Teh (2019), Augmented neural ODEs.
    """

    @configured
    def __init__(
        self,
        shape: Sequence[int] = (3, 32, 32),
        num_classes: int = 10,
        *,
        hidden: int = 64,
        augment: int = 16,
        head: int = 256,
        pool: int = 1,
        groups: int = 32,
        dropout: float = 0.1,
        stride: int = 2,
        mean: Statistic = 0.0,
        std: Statistic = 1.0,
        horizon: float = 1.0,
        solver: Solver[Any, Any] | None = None,
        gradient: Gradient[Any] | None = None,
        on_failure: OnFailure = "warn",
    ) -> None:
        sizes = (shape, num_classes, hidden, head, pool, groups)
        stem, out, _ = conv_blocks(*sizes, augment, stride)
        field = ConvField(hidden, augment=augment, groups=groups, dropout=dropout)
        flow = FlowLayer(field, rest_point=False, t1=horizon, on_failure=on_failure)
        layer = flow.with_solver(solver or integrator(gradient), gradient)
        super().__init__(shape, stem, layer, out, mean=mean, std=std)


class NeuralODE(ImageModel):
    """Classify by z(horizon) of dz/dt = f(z), z(0) = x, with a `ConvField` f.

    Arguments as in `AugmentedNeuralODE`, without `augment`.

    References:
        R. T. Q. Chen et al. (2018), Neural ordinary differential equations.
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
        horizon: float = 1.0,
        solver: Solver[Any, Any] | None = None,
        gradient: Gradient[Any] | None = None,
        on_failure: OnFailure = "warn",
    ) -> None:
        sizes = (shape, num_classes, hidden, head, pool, groups)
        stem, out, _ = conv_blocks(*sizes, stride=stride)
        field = ConvField(hidden, groups=groups, dropout=dropout)
        flow = FlowLayer(field, rest_point=False, t1=horizon, on_failure=on_failure)
        layer = flow.with_solver(solver or integrator(gradient), gradient)
        super().__init__(shape, stem, layer, out, mean=mean, std=std)
