"""What a forward pass must be for its votes to be those of one base classifier."""

from __future__ import annotations

import torch
from torch import Tensor

from solvers import ODE, Continuation, Davidenko, Flow, Then
from solvers.linear import INVERSE
from solvers.ode.initial_value import GRID

from ..layers import FlowLayer
from ..models import ImageModel
from .starts import Along, Cold, Start, Tangent

PROBES = 4
"""Images that tell whether rows are independent."""


def check_count(name: str, value: int) -> None:
    """Refuse counts below 1."""
    if value < 1:
        raise ValueError(f"{name} must be at least 1; got {value}.")


def check_start(model: ImageModel, start: Start) -> None:
    """Refuse starts that the model's forward pass cannot begin from."""
    check_tangent(model, start)
    solver, flow = model.layer.solver, isinstance(model.layer, FlowLayer)
    if flow and not isinstance(start, (Cold, Along)):
        raise ValueError(
            "a flow ends at t1 and not at an equilibrium to start from: choose --solver "
            "anderson (or rk4+anderson), --warm-start none, or --warm-start along."
        )
    if isinstance(start, Along):
        if not (flow or isinstance(solver, Continuation | Flow)):
            raise ValueError(
                f"{type(solver).__name__} has no time along which states are stored: "
                "--warm-start along goes with a flow or continuation."
            )
        if flow and not start.time < model.layer.t1:
            raise ValueError(
                f"--warm-start along:{start.time:g} is past the flow's end at {model.layer.t1:g}."
            )


def state_size(model: ImageModel) -> int:
    """Return how many numbers a sample's state has."""
    with torch.no_grad():
        return model.start(model.condition(_probes(model)[:1])).numel()


def check_tangent(model: ImageModel, start: Start) -> None:
    """Refuse the tangent start for states whose matrix is too large."""
    if isinstance(start, Tangent) and (size := state_size(model)) > INVERSE:
        raise ValueError(
            f"the tangent start inverts an n x n matrix for states of n <= {INVERSE:,} numbers, "
            f"and this model's have {size:,}: choose start=Clean() (--warm-start clean)."
        )


def check_rows(model: ImageModel) -> None:
    """Refuse models in which a sample's vote depends on its batch mates, or on chance.

    Stem, map and head are evaluated for some images together, again, and one by one.
    """
    for name, module in model.named_modules():
        if module.training:
            raise ValueError(
                f"the model must be in eval mode: {name or type(model).__name__} is training. Call "
                "model.eval() on the model that is certified."
            )
    reason = "so there is no fixed base classifier, and no vote of it to count."
    if model.layer.coupled:
        raise ValueError(f"the rows of this model's layer are one system (coupled=True), {reason}")
    images = _probes(model)
    first, again = _evaluated(model, images), _evaluated(model, images)
    if not _near(first, again):
        raise ValueError(
            f"the model gives something else for the same images at its next call, {reason} Take "
            "what draws at random (dropout, say) out of it."
        )
    alone = [_evaluated(model, images, k) for k in range(PROBES)]
    if not _near(first, [torch.cat(parts) for parts in zip(*alone, strict=True)]):
        raise ValueError(
            f"the model gives something else for an image by itself than beside others, {reason} "
            "Attention over the batch or batch statistics mix rows: the batch comes first."
        )


@torch.no_grad()
def _evaluated(model: ImageModel, images: Tensor, row: int | None = None) -> list[Tensor]:
    """Return what stem, map and head make of the images and random states, or of one row."""
    rows = slice(None) if row is None else slice(row, row + 1)
    x = model.condition(images[rows])
    drawn = torch.randn(PROBES, state_size(model), generator=torch.Generator().manual_seed(1))
    z = drawn[rows].to(x).view_as(model.start(x))
    fz = model.layer.equation(model.layer.condition(x))(z)
    return [x, fz, model.head(fz)]


def _near(one: list[Tensor], other: list[Tensor]) -> bool:
    """Whether results differ by rounding alone; what is not finite is refused later."""
    for a, b in zip(one, other, strict=True):
        gap, size = (a - b).abs().max(), a.abs().max()
        if bool(gap > torch.finfo(a.dtype).eps ** 0.5 * size):
            return False
    return True


def _probes(model: ImageModel) -> Tensor:
    weight = next(model.parameters())
    drawn = torch.rand(PROBES, *model.shape, generator=torch.Generator().manual_seed(0))
    return drawn.to(weight)


def check_flow(model: ImageModel) -> None:
    """Refuse forward passes in which a sample's answer depends on its batch mates."""
    solver = model.layer.solver
    if isinstance(solver, (ODE, Davidenko)) and solver.method not in GRID:
        raise ValueError(
            f"{solver.method} chooses its steps by the worst sample of the batch, so a vote "
            "depends on its batch mates and there is no fixed base classifier. Choose a method "
            "without error control (--solver rk4), RungeKutta(), whose steps each sample has of "
            "its own, or an equilibrium solver (--solver anderson)."
        )


def check_steps(model: ImageModel) -> None:
    """Refuse solvers that are not stopped after so many steps of one iteration."""
    solver = model.layer.solver
    if isinstance(model.layer, FlowLayer):
        raise ValueError(
            "a flow is stopped by its step size, not after so many steps: choose an equilibrium "
            "solver (--solver anderson), or for a shorter flow --step-size."
        )
    if isinstance(solver, (Then, Davidenko)):
        raise ValueError(
            f"a step of {type(solver).__name__} is a whole solve, so --steps says nothing of it: "
            "choose a solver of one iteration (--solver anderson)."
        )
