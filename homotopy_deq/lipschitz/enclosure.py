"""Values of networks in double precision, and bounds of their errors."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from solvers import Anderson, Equilibrium, solve
from solvers.splitting import reflected

from ..cells.bounds import SLACK, UNIT
from .blocks import act, spread
from .cells import EquilibriumCell
from .form import Form
from .layers import BoundedLayer
from .lben import EquilibriumNetwork
from .network import ROUND, certify_lipschitz, copied_modules, norm_bound, pair
from .parametrised import Parametrised

PATH = Anderson(memory=10, delay=6, max_steps=2000)
"""A triangular W ends by itself before the delay does."""
STEPS = (1.0, 0.5, 0.25, 0.125)
"""Tried for Peaceman and Rachford's step: the first ends where W is triangular."""
TRIAL = 1e-5
"""Relative residual to which steps are tried."""
SINGLE = 1e-6
"""Relative residual to which single precision is followed."""
SLOW = 12
"""Steps from which single precision, at half the cost, is worth the second start."""


class Enclosure:
    """Return a network's value in double precision, and a bound of its error, (B,), 2-norm.

    The error of a part is multiplied by the constants of those that follow. An equilibrium is
    enclosed by its residual, whoever found it and whether or not that converged: with phi's image
    f = phi(W z + g) of any z, in the metric of L,

        ||V (f - z*)|| <= ||V||_L ||W (f - z)||_L / m,

    and by less, see `_Reach`.

    What is computed of the weights themselves is computed on the CPU, by LAPACK, of whose rounding
    `SLACK` speaks.

    Arguments:
        network: as in `certify_lipschitz`; a copy of it in double precision is kept.
    """

    def __init__(self, network: nn.Module) -> None:
        parts = [part for _, part in copied_modules(network)]
        bound = certify_lipschitz(copy.deepcopy(network).double().cpu())
        self.gamma = bound.value
        gammas = [gamma * ROUND for *_, gamma in bound.parts]
        self.solves = any(isinstance(part, EquilibriumNetwork) for part in parts)
        self.parts = [(g, _enclosed(part, g)) for g, part in zip(gammas, parts, strict=True)]

    @torch.no_grad()
    def __call__(self, x: Tensor, rtol: float = 1e-10) -> tuple[Tensor, Tensor]:
        """Return the value at x, (B, ...), and the bound.

        Arguments:
            rtol: what equilibria are solved to; the bound sees what they really are.
        """
        if x.dim() < 2:
            raise ValueError(f"a batch (B, ...) is wanted; got {tuple(x.shape)}.")
        # A copy, as ReLU(inplace=True) writes to it.
        y = x.to(torch.float64, copy=True)
        error = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for gamma, part in self.parts:
            y, local = part(y, rtol)
            error = (gamma * error + local) * ROUND
        return y, error


Enclosed = Callable[[Tensor, float], tuple[Tensor, Tensor]]
"""Maps an input in double precision, and the tolerance of an equilibrium, to a part's value there
and a bound of its own error."""


@torch.no_grad()
def _enclosed(module: nn.Module, gamma: float) -> Enclosed:
    if isinstance(module, EquilibriumNetwork):
        return _equilibrium(module)
    terms, size, offset = _magnitudes(module, gamma)

    def enclosed(x: Tensor, rtol: float) -> tuple[Tensor, Tensor]:
        before = norms(x)
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


def norms(t: Tensor) -> Tensor:
    """Return the 2-norm of each row of a batch, (B,), rounded up."""
    rows = t.flatten(1)
    size: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return size * (1 + (rows.shape[1] + 4) * UNIT)


def _equilibrium(network: EquilibriumNetwork) -> Enclosed:
    """Enclose the output by a state that is found, and how far its equilibrium's may be."""
    cell, form = network.cell, copy.deepcopy(network).cpu().form()
    scaled, unit = form.scaled(), SLACK * _terms(cell, form) * UNIT
    root = form.metric.sqrt().to(cell.b.device)
    w, u, v = (float(torch.linalg.matrix_norm(t).amax()) for t in (scaled.w, scaled.u, form.v))
    reach = _Reach(scaled, cell.b.device)
    constants = float(scaled.b.norm()), float(form.c.norm())
    path = _Path(cell)

    def size(z: Tensor) -> Tensor:
        return norms(spread(root, z) * z)

    def enclosed(x: Tensor, rtol: float) -> tuple[Tensor, Tensor]:
        (given,) = cell.condition(x)
        problem = cell.equation((given,))
        z = problem.project(path(given, rtol))
        fz = problem(z)
        b, c = (t * math.sqrt(z[:1, 0].numel()) for t in constants)
        rounded = unit * ((1 + w) * (size(z) + size(given)) + u * norms(x) + b)
        moved = reach(spread(root, z) * (z - fz), rounded, unit)
        local = moved * ROUND + unit * (v * norms(fz) + c)
        return cell.read(fz), local

    return enclosed


class _Path:
    """Find the point u that Peaceman and Rachford's reflections leave where it is, by Anderson.

    A step is one application of the resolvent; the residual is not that of the equilibrium, which
    is found once, at the end. The step size decides by how much a few directions in which W is
    large lag behind the others, of which neither m nor ||I - W|| tells: it is tried.

    Arguments:
        cell: in double precision.
    """

    def __init__(self, cell: EquilibriumCell) -> None:
        self.cell, self.single = cell, copy.deepcopy(cell).float()
        self.alpha, steps = STEPS[0], PATH.max_steps
        draw = torch.Generator().manual_seed(0)
        x = torch.rand(4, cell.inputs, *(cell.grid or ()), generator=draw).to(cell.b)
        (given,) = cell.condition(x)
        for alpha in STEPS:
            solver = replace(PATH, rtol=TRIAL, max_steps=steps)
            found = solve(_reflections(cell, alpha, given), solver, alpha * given)
            if bool(found.converged.all()) and int(found.steps.max()) < steps:
                self.alpha, steps = alpha, int(found.steps.max())
        self.slow = steps > SLOW

    def __call__(self, given: Tensor, rtol: float) -> Tensor:
        """Return u for a condition, to a relative residual."""
        u = self.alpha * given
        if self.slow:
            problem = _reflections(self.single, self.alpha, given.float())
            near = solve(problem, replace(PATH, rtol=max(rtol, SINGLE)), u.float()).value.double()
            u = torch.where(near.isfinite(), near, u)
        return solve(_reflections(self.cell, self.alpha, given), replace(PATH, rtol=rtol), u).value


def _reflections(cell: EquilibriumCell, alpha: float, given: Tensor) -> Equilibrium:
    whole = cell.equation((given,))
    assert whole.resolvent is not None
    inverse = whole.resolvent(alpha)

    def step(u: Tensor, *given: Tensor) -> Tensor:
        return reflected(replace(whole, condition=given), inverse, alpha, u)

    return Equilibrium(step, whole.condition, rowwise=True)


class _Reach:
    """Bound ||V (f - z*)||, f = phi(W z + x) of any z, of a form whose metric is I.

    f = phi(W f + x + e) with e = W (z - f). As phi's slopes are in [0, 1], d = f - z* has
    <d, P d> <= 2 <d, e> with P = 2 I - W - W^T = C C^T, so that

        ||V d|| <= 2 ||V C^-T|| ||C^-1 e||,    and    ||V d|| <= ||V|| ||e|| / m,  P >= 2 m I,

    where C is not found. The first is of order m^-1/2 in a network of a bounded gain, whose
    V^T V <= gamma P, and tells the directions of e that P hardly holds from others.

    Arguments:
        form: of the network.
        device: of the states.
    """

    def __init__(self, form: Form, device: torch.device) -> None:
        n, eye = form.w.shape[-1], torch.eye(form.w.shape[-1]).to(form.w)
        slack = SLACK * n * UNIT * (1 + float(torch.linalg.matrix_norm(form.w).amax()))
        m = form.moduli()[0] - slack
        self.push, self.widest = form.w, 1.0
        self.seen = norm_bound(form.v) / m if m > 0 else math.inf
        w, v = (torch.linalg.matrix_norm(t) for t in (form.w, form.v))
        size = w
        # Less what P and its factor round.
        factor, info = torch.linalg.cholesky_ex(2 * eye - form.w - form.w.mH - 4 * slack * eye)
        if m > 0 and not bool(info.any()):
            inverse = torch.linalg.solve_triangular(factor, eye.expand_as(factor), upper=False)
            # |X - C^-1| <= n u |C^-1| |C| |X| as computed (Higham 2002, 14.2), which is no share of
            # products with X: what they see of it may be far less than all of X.
            long = torch.linalg.matrix_norm(inverse)
            off = long * (1 + long * torch.linalg.matrix_norm(factor))
            lost = SLACK * n * UNIT * off
            self.push, size = inverse @ form.w, off * w
            self.widest = norm_bound(inverse) + float(lost.amax())
            self.seen = 2 * (norm_bound(form.v @ inverse.mH) + float((lost * v).amax()))
        self.size = float(size.amax())
        self.push = self.push.to(device)

    def __call__(self, gap: Tensor, rounded: Tensor, unit: float) -> Tensor:
        """Return the bound, (B,).

        Arguments:
            gap: z - f, (B, ...).
            rounded: what e has besides, (B,).
            unit: what a sum rounds of its terms.
        """
        if not self.seen < math.inf:
            return torch.full_like(rounded, math.inf)
        pushed = norms(act(self.push, gap)) + unit * self.size * norms(gap)
        return self.seen * (pushed + self.widest * rounded)
