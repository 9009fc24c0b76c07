"""What a forward pass must be for its votes to be those of one base classifier."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, SupportsIndex, TypeVar

import torch
from torch import Tensor, nn

from solvers import ODE, Continuation, Davidenko, Flow, Solver, Then
from solvers.linear import INVERSE
from solvers.ode.initial_value import GRID

from ..layers import FlowLayer, Layer
from ..models import ImageModel
from ..models.bounded import answers_by_its_parts
from ..training.identity import weights_sha256
from .starts import Along, Cold, Start, Tangent

T = TypeVar("T")
PROBES = 4
"""Images that tell whether rows are independent."""


def check_count(name: str, value: int) -> None:
    """Refuse counts below 1, and what is no whole number."""
    if not isinstance(value, SupportsIndex):
        raise ValueError(f"{name} must be a whole number; got {value!r}.")
    if value < 1:
        raise ValueError(f"{name} must be at least 1; got {value}.")


def check_one_equation(model: ImageModel, policy: str) -> None:
    """Refuse models whose answer is not that of one equation by one solver."""
    if not model.layer.one_equation:
        raise ValueError(
            f"policy {policy} with its start follows one solver, and a {type(model).__name__} is a "
            "stack of layers that are solved one by one: choose policy=Converged(), or Verified()."
        )


def check_start(model: ImageModel, start: Start) -> None:
    """Refuse starts that the model's forward pass cannot begin from."""
    check_tangent(model, start)
    solver, flow = model.layer.solver, isinstance(model.layer, FlowLayer)
    if flow and not isinstance(start, (Cold, Along)):
        raise ValueError(
            "a flow ends at t1 and not at an equilibrium to start from: choose solver=Anderson() "
            "(or a flow to rest), start=Cold(), or start=Along()."
        )
    if isinstance(start, Along):
        if not (flow or isinstance(solver, Continuation | Flow)):
            raise ValueError(
                f"{type(solver).__name__} has no time along which states are stored: "
                "start=Along() goes with a flow or continuation."
            )
        if flow and not start.time < model.layer.t1:
            raise ValueError(
                f"start=Along({start.time:g}) is past the flow's end at {float(model.layer.t1):g}."
            )


def state_size(model: ImageModel) -> int:
    """Return how many numbers a sample's state has."""
    with torch.no_grad():
        return model.start(model.condition(_images(model)[:1])).numel()


def check_tangent(model: ImageModel, start: Start) -> None:
    """Refuse the tangent start for states whose matrix is too large."""
    if isinstance(start, Tangent) and (size := state_size(model)) > INVERSE:
        raise ValueError(
            f"the tangent start inverts an n x n matrix for states of n <= {INVERSE:,} numbers, "
            f"and this model's have {size:,}: choose start=Clean()."
        )


REASON = "so there is no fixed base classifier, and no vote of it to count."


def check_fixed(classifier: object) -> None:
    """Refuse a module of which a part is training, or whose rows are one system."""
    for name, module in _modules(classifier):
        if module.training:
            raise ValueError(
                f"the model must be in eval mode: {name or type(module).__name__} is training. "
                "Call model.eval() on the model that is certified."
            )
        if isinstance(module, Layer) and module.coupled:
            raise ValueError(f"the rows of a layer are one system (coupled=True), {REASON}")


def weights(classifier: object) -> str:
    """Return a checksum of a model's weights; none of another classifier, which is asked live."""
    return weights_sha256(classifier) if isinstance(classifier, ImageModel) else ""


def check_same(classifier: object, before: str) -> None:
    """Refuse a classifier that was put into training, or a model given other `weights`, since."""
    check_fixed(classifier)
    if weights(classifier) != before:
        raise ValueError(
            "the model has other weights than when this Smoother was made, which keeps what it "
            "proved of them: make another."
        )


def check_answer(model: ImageModel) -> None:
    """Refuse models whose logits may be others than stem, layer and head make, which vote."""
    if not answers_by_its_parts(model):
        raise ValueError(
            f"{type(model).__name__} has a forward or solve of its own, or a hook, and a vote is "
            "what its parts say: certify nn.Sequential(model), which is asked as a whole, by "
            "policy=Converged()."
        )


@torch.no_grad()
def check_rows(model: ImageModel) -> None:
    """Refuse models in which a sample's vote depends on its batch mates, or on chance.

    Stem, map and head are evaluated for some images together, again, and one by one.
    """
    check_answer(model)
    check_fixed(model)
    images = _images(model)
    drawn = torch.randn(PROBES, state_size(model), generator=torch.Generator().manual_seed(1))

    def evaluated(rows: slice) -> list[Tensor]:
        x = model.condition(images[rows])
        z = drawn[rows].to(x).view_as(model.start(x))
        fz = model.layer.equation(model.layer.condition(x))(z)
        return [x, fz, model.head(fz)]

    check_independent(evaluated)


def looked(classifier: Callable[[Tensor], T], images: Tensor) -> T:
    """Return what a classifier makes of clean images, or say of which images it failed.

    Arguments:
        classifier: what takes images to anything.
        images: (B, C, H, W).
    """
    try:
        return classifier(images)
    except (RuntimeError, TypeError) as fault:
        if type(fault) not in (RuntimeError, TypeError):
            raise  # memory, or samples that failed
        why = str(fault).splitlines()[0].rstrip(".")
        raise ValueError(
            f"the classifier failed on a clean image (C, H, W) of shape {tuple(images.shape[1:])}, "
            f"{images.dtype} on {images.device}: {why}. Give images of the shape and kind that it "
            "takes, without a batch."
        ) from fault


def check_independent(evaluated: Callable[[slice], list[Tensor]]) -> None:
    """Refuse what gives rows something else at its next call, or by themselves.

    Arguments:
        evaluated: from rows of `PROBES` samples to what is made of these.
    """
    first, again = evaluated(slice(None)), evaluated(slice(None))
    if not _near(first, again):
        raise ValueError(
            f"the model gives something else for the same images at its next call, {REASON} Take "
            "what draws at random (dropout, say) out of it."
        )
    alone = [evaluated(slice(k, k + 1)) for k in range(PROBES)]
    if not _near(first, [torch.cat(parts) for parts in zip(*alone, strict=True)]):
        raise ValueError(
            f"the model gives something else for an image by itself than beside others, {REASON} "
            "Attention over the batch or batch statistics mix rows: the batch comes first."
        )


def _near(one: list[Tensor], other: list[Tensor]) -> bool:
    """Whether results differ by rounding alone; what is not finite is refused later."""
    for a, b in zip(one, other, strict=True):
        gap, size = (a - b).abs().max(), a.abs().max()
        if bool(gap > torch.finfo(a.dtype).eps ** 0.5 * size):
            return False
    return True


def probes(shape: Sequence[int], like: Tensor) -> Tensor:
    """Return images that tell whether rows are independent, (PROBES, C, H, W)."""
    return torch.rand(PROBES, *shape, generator=torch.Generator().manual_seed(0)).to(like)


def _images(model: ImageModel) -> Tensor:
    return probes(model.shape, next(model.parameters()))


def _modules(classifier: object) -> list[tuple[str, nn.Module]]:
    return list(classifier.named_modules()) if isinstance(classifier, nn.Module) else []


def check_flow(classifier: object) -> None:
    """Refuse forward passes in which a sample's answer depends on its batch mates."""
    layers = [module for _, module in _modules(classifier) if isinstance(module, Layer)]
    for solver in [part for layer in layers for part in _parts(layer.solver)]:
        if isinstance(solver, (ODE, Davidenko)) and solver.method not in GRID:
            raise ValueError(
                f"{solver.method} chooses its steps by the worst sample of the batch, so a vote "
                "depends on its batch mates and there is no fixed base classifier. Choose a "
                'method without error control (solver=ODE("rk4")), RungeKutta(), whose steps each '
                "sample has of its own, or an equilibrium solver (solver=Anderson())."
            )


def _parts(solver: Any) -> Iterator[Any]:
    """Yield a solver and those that it hands on to."""
    yield solver
    for value in vars(solver).values():
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, Solver):
                yield from _parts(part)


def check_steps(model: ImageModel) -> None:
    """Refuse solvers that are not stopped after so many steps of one iteration."""
    solver = model.layer.solver
    if isinstance(model.layer, FlowLayer):
        raise ValueError(
            "a flow is stopped by its step size, not after so many steps: choose an equilibrium "
            "solver (solver=Anderson()), or for a shorter flow step_size=."
        )
    if isinstance(solver, (Then, Davidenko)):
        raise ValueError(
            f"a step of {type(solver).__name__} is a whole solve, so steps= says nothing of it: "
            "choose a solver of one iteration (solver=Anderson())."
        )
