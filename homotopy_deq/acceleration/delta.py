"""A trained implicit layer whose solves propagate only what has changed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrize import type_before_parametrizations

from solvers import Equilibrium, MonotoneInclusion, Solution, Solver, Status, Unroll
from solvers.delta import Blocks, DeltaPicard
from solvers.solver import named
from solvers.structure import Map

from ..cells.linear import Circular, Matrix
from ..entry import tell
from ..layers import ImplicitLayer, Layer
from ..models.image import ImageModel
from ..twin import twin
from .kernels import Auto
from .layers import DeltaConv2d, DeltaLinear, Site
from .products import Convolution, Products, Simulated
from .updating import Plan, Updating

STATE = "z"
"""The name of the state's threshold among those of the layers."""

M = TypeVar("M", Layer, ImageModel)
Thresholds = float | Mapping[str, float]


class DeltaLayer(ImplicitLayer):
    """An `ImplicitLayer` whose map offers its solver evaluations by changes; made by `delta`.

    The equation, the gradient and the weights are those of the layer it was made from.

    Arguments:
        layer: that layer; this one shares its weights.
        solver: `DeltaPicard`, or another that makes use of `updated`.
        products: the kernels.
        ratios: of a layer's threshold to that of the state, by name; 1 where it is not named.
        skip: names of layers that are evaluated densely.
    """

    def __init__(
        self,
        layer: ImplicitLayer,
        solver: Solver[Equilibrium, Any],
        products: Products,
        ratios: Mapping[str, float],
        skip: Sequence[str],
    ) -> None:
        super().__init__(
            layer.cell,
            solver,
            layer.gradient,
            t1=layer.t1,
            on_failure=cast("Any", layer.on_failure),
            coupled=layer.coupled,
        )
        self.spare = layer.spare
        self.training = layer.training
        self.products = products
        self.ratios = dict(ratios)
        self.skip = tuple(skip)
        self.plans: dict[Any, Plan] = {}

    def equation(self, condition: tuple[Tensor, ...]) -> Equilibrium:
        """Return the layer's equation, its map one that can be brought up to date by changes."""
        equation = super().equation(condition)
        normed = any(isinstance(m, _BatchNorm) and m.training for m in self.cell.modules())
        if self.coupled or normed:
            return equation  # whose rows share statistics: each evaluation is of the whole batch
        if any(p.is_inference() for p in self.cell.parameters()):
            return equation  # of which no graph says what depends on the state
        evaluate, sites = self._followed(equation)
        inside = dict(getattr(self.cell, "_orig_mod", self.cell).named_modules())
        unknown = {*self.ratios} - {*sites} | {*self.skip} - {*inside}
        if unknown:
            raise ValueError(
                f"no layer of the cell is called {sorted(unknown)[0]!r}; its linear layers and "
                f"convolutions are {', '.join(map(repr, sites))}."
            )
        return replace(equation, map=Updating(equation.map, evaluate, sites, self.plans))

    def accept(self, solution: Solution[Tensor]) -> Tensor:
        """Return a solution's value; a sample at rest at its threshold is none that failed."""
        rest = solution.status == Status.AT_THRESHOLD
        done = torch.where(rest, Status.CONVERGED, solution.status)
        tell(replace(solution, status=done), self.on_failure)
        return solution.value

    def _followed(self, equation: Equilibrium) -> tuple[Map, dict[str, Site]]:
        """Return the equation's map with its products through sites, and these by name."""
        # What a path is differentiated through must be differentiable; fast kernels need not be.
        unrolled = torch.is_grad_enabled() and isinstance(self.gradient, Unroll)
        products = Simulated() if unrolled else self.products
        if isinstance(equation, MonotoneInclusion) and isinstance(
            equation.linear, Matrix | Circular
        ):
            site = Site("linear", _product(equation.linear, products))
            prox = equation.prox
            return lambda z, x: prox(site(z) + x), {site.name: site}
        cell = getattr(equation.map, "_orig_mod", equation.map)
        if not isinstance(cell, nn.Module):
            raise ValueError(
                f"The map of {type(self.cell).__name__} is a {type(cell).__name__}, no module "
                "whose layers could be followed. delta takes cells of nn.Linear and nn.Conv2d."
            )
        other = twin(cell)
        return other, self._replaced(other, products)

    def _replaced(self, cell: nn.Module, products: Products) -> dict[str, Site]:
        """Put our layers in the place of a cell's own, and return their sites by name."""
        made: dict[nn.Module, DeltaLinear | DeltaConv2d] = {}
        for name, module in list(cell.named_modules()):
            kind = type_before_parametrizations(module)
            hooked = module._forward_hooks or module._forward_pre_hooks
            skipped = any(name == skip or name.startswith(f"{skip}.") for skip in self.skip)
            if kind not in (nn.Linear, nn.Conv2d) or hooked or skipped:
                continue
            make: Any = DeltaLinear if kind is nn.Linear else DeltaConv2d
            made[module] = make(module, products, self.ratios.get(name, 1.0), name)
        for module in list(cell.modules()):
            for key, child in module._modules.items():
                if child in made:
                    module._modules[key] = made[child]
        if not made:
            raise ValueError(
                f"{type(self.cell).__name__} has no nn.Linear or nn.Conv2d to bring up to date by "
                "changes; delta is of no use to it."
            )
        return {each.site.name: each.site for each in made.values()}


def _product(linear: Matrix | Circular, products: Products) -> Any:
    if isinstance(linear, Matrix):
        return products.linear(linear.weight)
    edge = linear.weight.shape[-1] // 2
    padding = (edge, edge, edge, edge)
    return products.convolution(Convolution(linear.weight, padding=padding, mode="circular"))


def delta(
    target: M,
    tau: Thresholds | None = None,
    theta: Thresholds | None = None,
    *,
    rtol: float | None = None,
    solver: Solver[Equilibrium, Any] | None = None,
    products: Products | None = None,
    skip: Sequence[str] = (),
    simulate: bool = False,
) -> M:
    """Return a trained layer, or model, whose solves propagate only what has changed.

    The weights are shared and the original is left as it is. So is the equation: answers are
    CONVERGED where the residual of the user's own map, evaluated densely, meets the tolerance, and
    gradients are those of the exact equation. What is followed are the cell's `nn.Linear` and
    `nn.Conv2d` layers, or the W of a `MonotoneInclusion`.

    Arguments:
        target: an `ImplicitLayer`, a `FlowLayer` with a rest point, or an `ImageModel` around one.
        tau: the threshold below which a change is not propagated, of the state and of all layers,
            or by name: {"z": 1e-3, "conv2": 1e-2}, that of the state where a layer is not named.
        theta: the same relative to the largest change of the state in a step.
        rtol: the tolerance that CONVERGED means; the target's by default. With tau a solve ends
            where no entry moves, AT_THRESHOLD if the residual is above the tolerance there.
        solver: with its other settings; by default `DeltaPicard(together=Blocks())` with those of
            the target where they mean the same.
        products: the kernels; by default `Auto()`, what costs least on this machine.
        skip: names of layers, or of modules that hold some, that are evaluated densely, such as
            a layer that is called twice.
        simulate: compute every product densely, so that `Unroll` differentiates through the
            thresholds: the layer to train with.

    Raises:
        TypeError: the target is no layer or model of an equilibrium.
        ValueError: both or no thresholds, or names of layers that there are not (at the first
            solve); a layer that is called twice (likewise).
    """
    if isinstance(target, ImageModel):
        other = twin(target)
        other.layer = delta(
            target.layer,
            tau,
            theta,
            rtol=rtol,
            solver=solver,
            products=products,
            skip=skip,
            simulate=simulate,
        )
        return other
    if not isinstance(target, Layer):
        raise TypeError(
            f"delta takes an ImplicitLayer or an ImageModel; got a {type(target).__name__}."
        )
    settings, ratios = _thresholds(tau, theta)
    if solver is None:
        solver, old = DeltaPicard(together=Blocks()), target.solver
        if issubclass(Equilibrium, old.answers):  # an integrator's tolerance is that of its steps
            limit = max(old.max_steps, solver.max_steps)
            solver = replace(solver, rtol=old.rtol, atol=old.atol, max_steps=limit)
    if rtol is not None:
        solver = replace(solver, rtol=rtol)
    if settings:
        if not isinstance(solver, DeltaPicard):
            raise ValueError(
                f"tau and theta are thresholds of a DeltaPicard; the solver is {named(solver)}."
            )
        solver = replace(solver, tau=settings.get("tau"), theta=settings.get("theta"))
    layer = target.with_solver(solver)
    kernels = Simulated() if simulate else products or Auto()
    made = DeltaLayer(cast("ImplicitLayer", layer), solver, kernels, ratios, skip)
    return cast("M", made)


def _thresholds(
    tau: Thresholds | None, theta: Thresholds | None
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the solver's setting, and the ratios of the layers' thresholds to it."""
    if tau is not None and theta is not None:
        raise ValueError("give tau or theta, not both.")
    if tau is None and theta is None:
        return {}, {}
    key, given = ("tau", tau) if theta is None else ("theta", theta)
    if not isinstance(given, Mapping):
        return {key: float(cast("float", given))}, {}
    for name, each in given.items():
        if not (isinstance(each, int | float) and 0 <= each < math.inf):
            raise ValueError(f"{key} of {name!r} must be a number, at least 0; got {each}.")
    if STATE not in given or given[STATE] == 0:
        raise ValueError(
            f"{key} by name needs the state's own above 0, {{{STATE!r}: ...}}; got {dict(given)}."
        )
    whole = given[STATE]
    return {key: whole}, {name: each / whole for name, each in given.items() if name != STATE}
