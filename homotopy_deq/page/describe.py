"""Compute what the page shows of an image."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from solvers import ArcLength, Continuation, Davidenko, NewtonKrylov, Solution, Status, solve

from .. import certification
from ..certification import ABSTAIN, Probable, Prover, Smoother
from ..layers import FlowLayer
from ..models import ImageModel
from ..plotting import plane
from .figures import Branch, Certificate, Equilibrium, Picture, Point, Votes, Way
from .paths import follow, traced

FINE = 1e-6
"""Residual that the equilibrium on the page is polished to, which single precision can meet."""
REACH = 1.5
"""Distances from the answer, in units of the start's, of the states that choose the plane."""
PARTS = 4  # points drawn for each step of a branch


@torch.no_grad()
def describe(
    passes: Mapping[str, ImageModel],
    image: Tensor,
    label: int,
    index: int,
    certificates: Sequence[Certificate] = (),
    *,
    branch: bool = True,
) -> Picture:
    """Return what is shown of an image, which is solved by itself.

    The plane is that of the first two principal components of the states that are no farther
    from the answer than 1.5 times the start: what a diverging solver does must not choose it.

    Arguments:
        passes: one model under several forward passes, in eval mode; none for a stack of layers.
        image: (C, H, W), in [0, 1].
        label: its class.
        index: in the test set.
        certificates: of the image.
        branch: whether to follow the branch of roots; models without a rest point have none.
    """
    pixels = image[None]
    found = {name: follow(model, pixels) for name, model in passes.items()}
    states = {name: _finite(path.z[:, 0].flatten(1)) for name, (_, path) in found.items()}
    if not states:
        return Picture(index, label, png(image), (), None, None, tuple(certificates))
    first = next(iter(passes.values()))
    residuals = {name: [_known(r) for r in path.residual[:, 0].tolist()]
                 for name, (_, path) in found.items()}  # fmt: skip
    best = min(found, key=lambda name: residuals[name][-1] or math.inf)
    root, near = None, found[best][0].solution.value
    if first.layer.rest_point:
        allowed = [_tolerance(model) or FINE for model in passes.values()]
        root = _polished(first, pixels, near, max(allowed))
        near = near if root is None else root.value
    centre, axes = _plane(list(states.values()), near)
    ways = []
    for name, (output, path) in found.items():
        kept = len(states[name])
        solved, lam = output.solution, path.time
        likely = output.logits.softmax(1)[0]
        sure = bool(likely.isfinite().all())
        by_lam = isinstance(passes[name].layer.solver, (Continuation, ArcLength, Davidenko))
        ways.append(
            Way(
                solver=name,
                status=Status(int(solved.status[0])).name,
                succeeded=bool(solved.converged[0]),
                prediction=int(likely.argmax()) if sure else None,
                probability=_short(float(likely.max())) if sure else None,
                evaluations=int(solved.evals[0]),
                residual=residuals[name][kept - 1],
                tolerance=solved.raised_rtol or _tolerance(passes[name]),
                evals=tuple(path.evals[:kept].tolist()),
                residuals=tuple(residuals[name][:kept]),
                points=_points((states[name].double().cpu() - centre) @ axes),
                lam=_numbers(lam[:kept, 0]) if by_lam and lam is not None else (),
            )
        )
    at_rest = None
    if root is not None:
        (point,) = _points((root.value.flatten(1).double().cpu() - centre) @ axes)
        prediction = int(first.head(root.value).argmax())
        at_rest = Equilibrium(point, _short(float(root.residual[0])), prediction)
    followed = _branch(first, pixels, centre, axes) if branch and first.layer.rest_point else None
    shown = tuple(certificates)
    return Picture(index, label, png(image), tuple(ways), at_rest, followed, shown)


def noisy(smoother: Smoother, image: Tensor, label: int, index: int) -> Certificate:
    """Return what the votes of noisy copies prove of an image, and the votes.

    Arguments:
        smoother: the noise, and which votes count.
        image: (C, H, W), in [0, 1].
        label: its class.
        index: keys the noise.
    """
    found, counts = smoother.certify_and_count(image, label, index)
    own, tally = smoother.smoothing, found.evidence
    assert isinstance(tally, certification.Tally)
    kinds = tuple(counts.tolist())
    votes = Votes(own.sigma, own.n, kinds, own.n - sum(kinds), tally.selected, own.n0)
    return _certificate(found, smoother.certifies, votes)


def certain(prover: Prover, image: Tensor, label: int, index: int) -> Certificate:
    """Return what is proved of an image without noise.

    Arguments:
        prover: of the model.
        image: (C, H, W), in [0, 1].
        label: its class.
        index: in the test set.
    """
    return _certificate(prover.certify(image, label, index), prover.certifies, None)


def png(image: Tensor) -> str:
    """Return an image, (C, H, W) in [0, 1], as a data URI; of more than 3 channels the first."""
    from PIL import Image

    few = image if len(image) == 3 else image[:1]
    grid = (few * 255).round().clamp(0, 255).byte().cpu().movedim(0, -1).squeeze(-1).numpy()
    file = io.BytesIO()
    Image.fromarray(grid).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _certificate(found: certification.Certificate, about: str, votes: Votes | None) -> Certificate:
    claim = found.claim
    alpha = claim.alpha if isinstance(claim, Probable) else None
    prediction = None if claim.prediction == ABSTAIN else claim.prediction
    return Certificate(prediction, claim.radius, claim.norm, alpha, about, votes)


def _polished(
    model: ImageModel, pixels: Tensor, z: Tensor, tolerance: float
) -> Solution[Tensor] | None:
    """Return the equilibrium near an answer, None where none is found within the tolerance."""
    problem = model.layer.equation(model.layer.condition(model.condition(pixels)))
    found = solve(problem, NewtonKrylov(rtol=FINE, max_steps=20), z)
    return found if float(found.residual[0]) <= tolerance else None


def _branch(model: ImageModel, pixels: Tensor, centre: Tensor, axes: Tensor) -> Branch:
    (found,) = traced(model, pixels)
    z, lam = found.refined(PARTS) if len(found.lam) > 1 else (found.z, found.lam)

    def placed(roots: Tensor) -> tuple[Point, ...]:
        return _points((roots.flatten(1).double().cpu() - centre) @ axes)

    folds = tuple((_short(fold.lam), placed(fold.z[None])[0][0]) for fold in found.folds)
    return Branch(_numbers(lam), placed(z), folds, found.status.name, found.evals)


def _plane(states: Sequence[Tensor], answer: Tensor) -> tuple[Tensor, Tensor]:
    start, near = states[0][:1], answer.flatten(1)
    reach = REACH * (start - near).norm()
    points = torch.cat([path[(path - near).norm(dim=1) <= reach] for path in (*states, near)])
    return plane(points if len(points) > 2 else torch.cat((start, near, near)))


def _finite(states: Tensor) -> Tensor:
    """Return the states up to the first that is not finite."""
    wrong = (~states.isfinite().all(1)).nonzero()
    return states[: int(wrong[0])] if len(wrong) else states


def _tolerance(model: ImageModel) -> float | None:
    rtol: float | None = None if isinstance(model.layer, FlowLayer) else model.layer.solver.rtol
    return rtol


def _points(rows: Tensor) -> tuple[Point, ...]:
    return tuple((_short(x), _short(y)) for x, y in rows.tolist())


def _numbers(values: Tensor) -> tuple[float, ...]:
    return tuple(map(_short, values.tolist()))


def _short(value: float) -> float:
    """Round to six digits, as a page needs no more."""
    return float(f"{value:.6g}")


def _known(value: float) -> float | None:
    """Return None for what is no number, which JSON does not know."""
    return _short(value) if math.isfinite(value) else None
