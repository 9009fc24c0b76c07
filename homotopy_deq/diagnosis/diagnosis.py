"""Measure all that says why a layer does not converge."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from solvers import Anderson, Equilibrium, Solution, Solver
from solvers.driver import answered_by, check_kind
from solvers.norms import TINY, finite, norm
from solvers.packing import pack

from ..layer import Layer
from ..models import ImageModel
from .advice import Advice, advise
from .conduct import Conduct, watch
from .spectrum import Spectrum, spectrum
from .tried import OWN, Solvers, Tried, attempt, standard

if TYPE_CHECKING:
    from rich.table import Table

SHARES = (0.5, 0.9, 1.0)


@dataclass(frozen=True)
class Diagnosis:
    """What was seen of an equation, and what to try.

    Arguments:
        samples: how many.
        entries: of a sample's state.
        rtol: relative residual that was solved to; with atol, that of the median sample.
        conduct: how the map behaves.
        tried: how each solver fared, by its name; "its own" is the layer's.
        spectrum: of the Jacobian at the best answer of each sample.
        solved: which samples some solver solved, bool (B,): the others' Jacobian is not at a root.
    """

    samples: int
    entries: int
    rtol: float
    conduct: Conduct
    tried: dict[str, Tried]
    spectrum: Spectrum
    solved: Tensor

    @property
    def advice(self) -> tuple[Advice, ...]:
        """What to try, in order; empty where there is nothing to mend."""
        return advise(self)

    def table(self) -> Table:
        """Return all figures as a table of rich: `rich.print(found.table())`."""
        from .shown import table

        return table(self)

    def plot(self, path: Path | str) -> Path:
        """Draw residuals by evaluations, and the eigenvalues in the plane, to a file."""
        from ..plotting import diagnosis_figure, save

        return save(diagnosis_figure(self), Path(path))

    def figures(self) -> dict[str, Any]:
        """Return all figures as JSON."""
        from .shown import figures

        return figures(self)


def diagnose(
    layer: Layer | ImageModel,
    x: Tensor,
    z0: Tensor | Solution[Tensor] | None = None,
    *,
    solvers: Solvers | None = None,
    seed: int = 0,
) -> Diagnosis:
    """Say why a layer does not converge, or that it does.

    The map is called as the layer would call it, in its mode; weights, buffers and random numbers
    are left as they were. The Jacobian is taken at each sample's best answer, from 150 products
    with it and its transpose.

    Arguments:
        layer: an `ImplicitLayer`, a `FlowLayer` with a rest point, or a model around one.
        x: the condition, (B, ...), or the model's images. 16 samples tell most.
        z0: the start; the layer's by default.
        solvers: what to try, by name; by default Picard, Anderson, Broyden and NewtonKrylov at the
            tolerance of the layer's own, which is always tried.
        seed: of the random vectors.

    Raises:
        ValueError: the layer has no equilibrium, or is a stack of several.

    Example:
        >>> found = diagnose(ImplicitLayer(DenseCell(8, 16)), torch.randn(4, 8))
        >>> len(found.advice)
        0
    """
    if not layer_of(layer).rest_point:
        raise ValueError(
            "the layer's flow has no rest point, so it has no equilibrium to diagnose."
        )
    if not layer_of(layer).one_equation:
        raise ValueError("the model is a stack of equations: diagnose each of its layers.")
    with untouched(layer), torch.no_grad():
        if isinstance(layer, ImageModel):
            x = layer.condition(x)
            start: Any = layer.start(x) if z0 is None else z0
            layer = layer.layer
        else:
            start = layer.initial(x) if z0 is None else z0
        problem = layer.equation(layer.condition(x))
        own = layer.solver
        if not issubclass(answered_by(own), Equilibrium):
            own = Anderson()  # the flow's integrator looks for no root
        return diagnose_equation(problem, start, own, solvers=solvers, seed=seed)


def diagnose_equation(
    problem: Equilibrium,
    z0: Any,
    own: Solver[Equilibrium, Any] = Anderson(),  # noqa: B008  (frozen)
    *,
    solvers: Solvers | None = None,
    seed: int = 0,
) -> Diagnosis:
    """Do what `diagnose` does, of an equation.

    Arguments:
        problem: z = f(z, *condition).
        z0: the start, (B, ...), a tuple of tensors, or an earlier `Solution`.
        own: the solver that is asked about.
        solvers: as in `diagnose`.
        seed: as in `diagnose`.
    """
    check_kind(problem, own)
    generator = torch.Generator().manual_seed(seed)
    tried = standard(own) if solvers is None else {OWN: own, **solvers}
    with torch.no_grad():
        seen, z, _ = pack(replace(problem, rowwise=False), z0)
        if len(z) == 0:
            raise ValueError("a diagnosis needs a sample at least; got a batch of 0.")
        samples, entries = len(z0) if isinstance(z0, Tensor) else len(z), z[0].numel()
        conduct = watch(seen, z, problem.coupled)
        if conduct.rowwise is False:  # then the batch is what has an answer
            problem = replace(problem, coupled=True, rowwise=False)
        problem, z, _ = pack(problem, z0)
        fared, value, solved = _all(problem, z, tried)
        at = spectrum(problem, value, generator)
    size = norm(value.flatten(1)).double().clamp_min(TINY)
    rtol = (own.rtol + own.atol / size).nanmedian().item()  # what both parts ask of a sample
    return Diagnosis(samples, entries, rtol, conduct, fared, at, solved)


def _all(
    problem: Equilibrium, z: Tensor, solvers: Solvers
) -> tuple[dict[str, Tried], Tensor, Tensor]:
    """Try each solver; return how they fared, each sample's best answer, and which are solved."""
    fared, value = {}, z
    residual = torch.full((len(z),), torch.inf, device=z.device)
    solved = torch.zeros(len(z), dtype=torch.bool, device=z.device)
    for name, solver in solvers.items():
        fared[name], found = attempt(problem, solver, z)
        if found is None:
            continue
        better = (found.residual < residual) & finite(found.value)
        value = torch.where(better[:, None], found.value.flatten(1), value.flatten(1)).view_as(z)
        residual = torch.where(better, found.residual.to(residual), residual)
        solved = solved | found.converged
    return fared, value, solved.cpu()


def layer_of(layer: Layer | ImageModel) -> Layer:
    """Return the implicit layer that is meant."""
    found = layer.layer if isinstance(layer, ImageModel) else layer
    if not isinstance(found, Layer):
        raise TypeError(
            f"layer must be an ImplicitLayer or a model around one; got {type(layer).__name__}. "
            "Of an equation use diagnose_equation(Equilibrium(f, condition), z0)."
        )
    return found


@contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
    """Put buffers (as the statistics of BatchNorm) and the random numbers back at the end."""
    kept = [
        (each, name, buffer, buffer.clone())
        for each in module.modules()
        for name, buffer in each._buffers.items()
        if buffer is not None
    ]
    devices = {each.device for each in module.parameters() if each.device.type == "cuda"}
    try:
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        with torch.no_grad():
            for each, name, buffer, before in kept:
                buffer.copy_(before)
                each._buffers[name] = buffer  # a cell may have put another in its place
