"""Radii within which a network's class is proved not to change, from its logits' margins."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..cells.bounds import SLACK, UNIT
from .blocks import spread
from .lben import EquilibriumNetwork
from .network import ROUND, certify_lipschitz, form_of, modules, norm_bound

TIGHT = 1e-10
"""Relative residual that equilibria are solved to; the bound sees what it really is."""
TRIES = 2000


@dataclass(frozen=True)
class Margins:
    """What is proved of a batch of images, deterministically, for the map in exact arithmetic.

    Arguments:
        prediction: the class, int64 (B,); -1 where the error of the logits leaves it open.
        radius: no image nearer than this (2-norm) has another class, float64 (B,); rounded down.
        logits: in double precision, (B, K).
        slack: how far they may be from those of exact arithmetic, solver and rounding together,
            (B,), in the 2-norm of what the last linear map reads.
    """

    prediction: Tensor
    radius: Tensor
    logits: Tensor
    slack: Tensor


def certify_margins(network: nn.Module, images: Tensor) -> Margins:
    """Prove a radius for each image by the Lipschitz constant and the margins of the logits:

        r = min_j (f_y - f_j - slack_yj) / (gamma ||w_y - w_j||),

    gamma that of all before the last linear map, whose rows are w; where the network does not end
    in a Linear, w are unit vectors, which gives the well-known (f_y - max_j f_j) / (sqrt2 gamma).

    Arguments:
        network: as in `certify_lipschitz`. It is evaluated in double precision.
        images: (B, ...).

    Raises:
        ValueError: the network cannot be certified, see `certify_lipschitz`.
    """
    parts = [module for _, module in modules(network)]
    head = parts.pop() if parts and type(parts[-1]) is nn.Linear else None
    gamma = certify_lipschitz(nn.Sequential(*parts)).value
    y, slack = enclosed(nn.Sequential(*parts), images)
    if head is None:
        weight = torch.eye(y.shape[1], dtype=y.dtype, device=y.device)
        logits = y
    else:
        assert isinstance(head, nn.Linear)
        double = copy.deepcopy(head).double()
        weight, logits = double.weight.detach(), double(y).detach()
    prediction = logits.argmax(1)
    apart = torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist") * ROUND
    distance = apart[prediction]  # (B, K)
    rounding = SLACK * (weight.shape[1] + 4) * UNIT * (
        norm_bound(weight) * torch.linalg.vector_norm(y, dim=1) + logits.abs().amax(1)
    )  # fmt: skip
    margin = logits.gather(1, prediction[:, None]) - logits
    margin = margin - distance * slack[:, None] - 2 * rounding[:, None]
    own = torch.zeros_like(margin, dtype=torch.bool).scatter_(1, prediction[:, None], True)
    # Two classes with one row of weights keep their order at any distance.
    radius = (margin / (gamma * distance)).masked_fill(own, float("inf")).amin(1)
    radius = (radius / ROUND).nan_to_num(nan=0.0, posinf=torch.finfo(radius.dtype).max)
    open_ = ~(radius > 0)
    return Margins(prediction.masked_fill(open_, -1), radius.masked_fill(open_, 0.0), logits, slack)


@torch.no_grad()
def enclosed(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the network's value in double precision, and a bound of its error, (B,), 2-norm.

    The error of a part is multiplied by the constants of those that follow. An equilibrium is
    enclosed by its residual, whoever found it and whether or not that converged: with phi's image
    f = phi(W z + g) of any z, in the metric of L,

        ||f - z*||_L <= ||W||_L ||f - z||_L / m.
    """
    y, error = x.double(), torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for _, module in modules(copy.deepcopy(network).double().eval()):
        before = torch.linalg.vector_norm(y.flatten(1), dim=1)
        gamma = certify_lipschitz(module).value
        local = torch.zeros_like(error)
        if isinstance(module, EquilibriumNetwork):
            y, local = _equilibrium(module, y)
        else:
            y = module(y)
        terms, size, offset = _magnitudes(module, gamma, y)
        rounding = SLACK * terms * UNIT * (size * before + offset)
        error = (gamma * error + local + rounding) * ROUND
    return y, error


def _magnitudes(module: nn.Module, gamma: float, y: Tensor) -> tuple[int, float, float]:
    """Return how many terms a part sums, and bounds of its absolute linear map and constants."""
    form, pixels = form_of(module), y[:1, 0].numel() if y.dim() > 2 else 1
    if form is not None:
        u, v, d = (float(torch.linalg.matrix_norm(t).amax()) for t in (form.u, form.v, form.d))
        b, c = (float(torch.linalg.vector_norm(t)) for t in (form.b, form.c))
        terms = 64 + sum(form.u.shape[1:]) + form.v.shape[1]
        return terms, u * v + d, (v * b + c) * math.sqrt(pixels)
    if isinstance(module, nn.Linear | nn.Conv2d):
        terms = 64 + module.weight[0].numel()
        size = float(torch.linalg.vector_norm(module.weight)) * math.sqrt(terms)
        offset = 0.0 if module.bias is None else float(torch.linalg.vector_norm(module.bias))
        return terms, size, offset * math.sqrt(pixels)
    return 64, gamma, 0.0


def _equilibrium(network: EquilibriumNetwork, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the output from a state that was found, and how far its equilibrium's may be."""
    cell, solver, form = network.cell, network.layer.solver, network.form()
    steps = max(solver.max_steps, TRIES)
    tight = replace(solver, rtol=min(solver.rtol, TIGHT), max_steps=steps)
    z = network.layer.with_solver(tight).solve(x).value
    (given,) = cell.condition(x)
    fz = cell.equation((given,))(z)
    root = form.metric.sqrt()
    m, _ = form.moduli()
    inner = float(torch.linalg.matrix_norm(root[:, None] * form.w / root, 2).amax())
    outer = float(torch.linalg.matrix_norm(form.v / root, 2).amax())
    slack = SLACK * len(root) * UNIT * (1 + inner)

    def size(z: Tensor) -> Tensor:
        found: Tensor = torch.linalg.vector_norm((spread(root, z) * z).flatten(1), dim=1)
        return found

    rounding = SLACK * (len(root) + 64) * UNIT * (1 + inner) * (size(z) + size(given))
    gap = inner * size(fz - z) + rounding
    if not m > slack:
        return cell.read(fz), torch.full_like(gap, math.inf)
    return cell.read(fz), outer * gap / (m - slack) * ROUND
