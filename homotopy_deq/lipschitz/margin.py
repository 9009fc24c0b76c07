"""Radii within which a network's class is proved not to change, from its logits' margins."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from ..cells.bounds import SLACK, UNIT
from .blocks import spread
from .form import Form
from .layers import BoundedLayer
from .lben import EquilibriumNetwork
from .linear import NormalizedLinear
from .network import ROUND, certify_lipschitz, modules, norm_bound, pair
from .pairs import Margin, pair_gains
from .parametrised import Parametrised
from .vanilla import to_vanilla

TIGHT = 1e-10
"""Relative residual that equilibria are solved to; the bound sees what it really is."""
TRIES = 2000
LOST = 1e-150
"""Above what the squares of a row's entries lose where they underflow."""


@dataclass(frozen=True)
class Margins:
    """What is proved of a batch of images, deterministically, for the map in exact arithmetic.

    Arguments:
        prediction: the class, int64 (B,); -1 where the error of the logits leaves it open.
        radius: no image nearer than this (2-norm) has another class, float64 (B,); rounded down.
        logits: in double precision, (B, K).
        slack: how far they may be from those of exact arithmetic, solver and rounding together,
            (B,), in the 2-norm of what the last linear map reads.
        rival: the class that decides the radius, int64 (B,).
        margin: of the largest logit before the rival's, all slack taken off, (B,).
        gain: a Lipschitz constant of that difference, (B,), above 0.
    """

    prediction: Tensor
    radius: Tensor
    logits: Tensor
    slack: Tensor
    rival: Tensor
    margin: Tensor
    gain: Tensor


def certify_margins(network: nn.Module, images: Tensor, margin: Margin = Margin.GLOBAL) -> Margins:
    """Prove a radius for each image of a batch, see `MarginProof`, which is for many batches.

    Arguments:
        network: as in `MarginProof`.
        images: (B, ...).
        margin: as in `MarginProof`.
    """
    return MarginProof(network, margin)(images)


class MarginProof:
    """Prove a radius for each image by the Lipschitz constant and the margins of the logits:

        r = min_j (f_y - f_j - slack_yj) / (gamma ||w_y - w_j||),

    gamma that of all before the last linear map, whose rows are w; where the network does not end
    in a Linear, w are unit vectors, which gives the well-known (f_y - max_j f_j) / (sqrt2 gamma).
    `Margin` says what stands for gamma ||w_y - w_j|| where it is smaller. What is proved of the
    weights is proved once, of a copy.

    Arguments:
        network: as in `certify_lipschitz`. It is evaluated in double precision.
        margin: how the slope of a difference of logits is bounded.

    Raises:
        ImportError, ValueError: the network cannot be certified, see `certify_lipschitz`, or not by
            this margin, see `pair_gains`.
    """

    def __init__(self, network: nn.Module, margin: Margin = Margin.GLOBAL) -> None:
        parts = modules(copy.deepcopy(network).double())
        if parts and type(parts[-1][1]) is NormalizedLinear:
            parts[-1] = parts[-1][0], to_vanilla(parts[-1][1])
        head = parts.pop()[1] if parts and type(parts[-1][1]) is nn.Linear else None
        body = nn.Sequential()
        body._modules.update(parts)  # names of parts within parts have dots
        self.body = Enclosure(body)
        self.head: nn.Linear | None = head  # type: ignore[assignment]
        last = None if self.head is None else self.head.weight.detach()
        self.pairs = pair_gains(parts, last, margin)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Margins:
        """Prove a radius for each of the images, (B, ...), on the network's device."""
        y, slack = self.body(images)
        if y.dim() != 2:
            raise ValueError(f"logits (B, K) are wanted of a network; got {tuple(y.shape)}.")
        if self.head is None:
            weight = torch.eye(y.shape[1], dtype=y.dtype, device=y.device)
            logits = y
        else:
            weight, logits = self.head.weight.detach(), self.head(y)
        prediction = logits.argmax(1)
        unit = SLACK * (weight.shape[1] + 4) * UNIT
        apart = torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist")
        distance = (apart * (1 + unit) + LOST)[prediction]  # (B, K)
        rounding = unit * (norm_bound(weight) * _norm(y) + logits.abs().amax(1))
        margin = logits.gather(1, prediction[:, None]) - logits
        margin = margin - distance * slack[:, None] - 2 * rounding[:, None]
        own = torch.zeros_like(margin, dtype=torch.bool).scatter_(1, prediction[:, None], True)
        # Two classes with one row of weights keep their order at any distance, 1e150 with LOST.
        gain = self.body.gamma * distance * ROUND
        if self.pairs is not None:
            gain = torch.minimum(gain, self.pairs.to(gain.device)[prediction])
        gain = gain.clamp_min(torch.finfo(margin.dtype).tiny)
        radius, rival = (margin / gain).nan_to_num(nan=-1.0).masked_fill(own, math.inf).min(1)
        radius = (radius / ROUND).clamp_max(torch.finfo(radius.dtype).max)
        open_ = ~(radius > 0)
        nearest = rival[:, None]
        return Margins(
            prediction.masked_fill(open_, -1),
            radius.masked_fill(open_, 0.0),
            logits,
            slack,
            rival,
            margin.gather(1, nearest)[:, 0],
            gain.gather(1, nearest)[:, 0],
        )


class Enclosure:
    """Return a network's value in double precision, and a bound of its error, (B,), 2-norm.

    The error of a part is multiplied by the constants of those that follow. An equilibrium is
    enclosed by its residual, whoever found it and whether or not that converged: with phi's image
    f = phi(W z + g) of any z, in the metric of L,

        ||f - z*||_L <= ||W||_L ||f - z||_L / m.

    What is computed of the weights themselves is computed on the CPU, by LAPACK, of whose rounding
    `SLACK` speaks.

    Arguments:
        network: as in `certify_lipschitz`; a copy of it in double precision is kept.
    """

    def __init__(self, network: nn.Module) -> None:
        parts = [part for _, part in modules(copy.deepcopy(network).double())]
        bound = certify_lipschitz(copy.deepcopy(network).double().cpu())
        self.gamma = bound.value
        gammas = [gamma * ROUND for *_, gamma in bound.parts]
        self.parts = [(g, _enclosed(part, g)) for g, part in zip(gammas, parts, strict=True)]

    @torch.no_grad()
    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the value at x, (B, ...), and the bound."""
        if x.dim() < 2:
            raise ValueError(f"a batch (B, ...) is wanted; got {tuple(x.shape)}.")
        # A copy, as ReLU(inplace=True) writes to it.
        y = x.to(torch.float64, copy=True)
        error = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for gamma, part in self.parts:
            y, local = part(y)
            error = (gamma * error + local) * ROUND
        return y, error


Enclosed = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Maps an input in double precision to a part's value there and a bound of its own error."""


@torch.no_grad()
def _enclosed(module: nn.Module, gamma: float) -> Enclosed:
    if isinstance(module, EquilibriumNetwork):
        return _equilibrium(module)
    terms, size, offset = _magnitudes(module, gamma)

    def enclosed(x: Tensor) -> tuple[Tensor, Tensor]:
        before = _norm(x)
        y = module(x)
        local = SLACK * terms * UNIT * (size * before + offset * math.sqrt(y[:1].numel()))
        return y, local

    return enclosed


def _magnitudes(module: nn.Module, gamma: float) -> tuple[int, float, float]:
    """Return how many terms a part sums, and bounds of its absolute linear map and constants."""
    if isinstance(module, BoundedLayer):
        form = copy.deepcopy(module).cpu().form()
        u, v, d = (float(torch.linalg.matrix_norm(t).amax()) for t in (form.u, form.v, form.d))
        return _terms(module, form), u * v + d, v * float(form.b.norm()) + float(form.c.norm())
    if isinstance(module, nn.Linear | nn.Conv2d):
        terms = 64 + module.weight[0].numel()
        offset = 0.0 if module.bias is None else float(module.bias.abs().amax())
        return terms, float(module.weight.norm()) * math.sqrt(terms), offset
    area = math.prod(pair(module.kernel_size)) if isinstance(module, nn.AvgPool2d) else 0
    return 64 + area, gamma, 0.0


def _terms(weights: Parametrised, form: Form) -> int:
    """Return how many terms a layer sums; W of a monDEQ has kernels of side 2 k - 1."""
    taps = 1 if weights.grid is None else (2 * weights.kernel - 1) ** 2
    return 64 + taps * (sum(form.u.shape[1:]) + form.v.shape[1])


def _norm(t: Tensor) -> Tensor:
    size: Tensor = torch.linalg.vector_norm(t.flatten(1), dim=1)
    return size


def _equilibrium(network: EquilibriumNetwork) -> Enclosed:
    """Enclose the output by a state that is found, and how far its equilibrium's may be."""
    cell, solver = network.cell, network.layer.solver
    form = copy.deepcopy(network).cpu().form()
    if {"rtol", "max_steps"} <= {field.name for field in fields(solver) if field.init}:
        steps = max(solver.max_steps, TRIES)
        solver = replace(solver, rtol=min(solver.rtol, TIGHT), max_steps=steps)
    layer = network.layer.with_solver(solver)
    scaled, unit = form.scaled(), SLACK * _terms(cell, form) * UNIT
    root = form.metric.sqrt().to(cell.b.device)
    w, u, v = (float(torch.linalg.matrix_norm(t).amax()) for t in (scaled.w, scaled.u, form.v))
    inner, outer = norm_bound(scaled.w), norm_bound(scaled.v)
    constants = float(scaled.b.norm()), float(form.c.norm())
    m = form.moduli()[0] - SLACK * len(root) * UNIT * (1 + w)

    def size(z: Tensor) -> Tensor:
        return _norm(spread(root, z) * z)

    def enclosed(x: Tensor) -> tuple[Tensor, Tensor]:
        z = layer.solve(x).value
        (given,) = cell.condition(x)
        fz = cell.equation((given,))(z)
        b, c = (t * math.sqrt(z[:1, 0].numel()) for t in constants)
        gap = inner * size(fz - z)
        gap = gap + unit * ((1 + w) * (size(z) + size(given)) + u * _norm(x) + b)
        local = outer * gap / m * ROUND + unit * (v * _norm(fz) + c)
        return cell.read(fz), local if m > 0 else torch.full_like(gap, math.inf)

    return enclosed
