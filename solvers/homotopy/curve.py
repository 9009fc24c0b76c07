"""The root set of a family as a curve in (z, lambda): its equations, slices and tangents."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..jacobian import Linearization
from ..linear import SMALL, LinearSolver, backward, factor
from ..norms import dot, expand, norm
from ..problem import Counter, Equilibrium
from .family import Family


@dataclass(frozen=True)
class Factors:
    """The factored matrices [A; r^T] of a batch, with A t = 0 for a unit vector t each.

    They solve [A; t^T] x = [b; c] too: x = y + (c - <t, y>) t with any y such that A y = b.

    Arguments:
        lu: (B, n + 1, n + 1).
        pivots: (B, n + 1).
        null: t, (B, n + 1).
    """

    lu: Tensor
    pivots: Tensor
    null: Tensor

    def solve(self, b: Tensor, c: Tensor) -> Tensor:
        """Return x, (B, n + 1), for b, (B, n), and c, (B,); not finite where singular."""
        y = backward(self.lu, self.pivots, torch.cat((b, torch.zeros_like(b[:, :1])), dim=1))
        return y + (c[:, None] - (self.null * y).sum(1, keepdim=True)) * self.null

    def slide(self, b: Tensor) -> Tensor:
        """Return x, (B, n + 1), with A x = b and no component along lambda."""
        x = self.solve(b, torch.zeros_like(b[:, 0]))
        return x - x[:, -1:] / self.null[:, -1:] * self.null


@dataclass(frozen=True)
class Bordered:
    """The operator [G'(w); r^T] of each sample, for r, (B, n + 1)."""

    slope: Linearization
    row: Tensor

    def __call__(self, v: Tensor) -> Tensor:
        return torch.cat((self.slope(v), dot(self.row, v)[:, None]), dim=1)

    def matrix(self) -> Tensor:
        """Return [G'(w); r^T], (B, n + 1, n + 1)."""
        return torch.cat((self.slope.matrix(), self.row[:, None]), dim=1)


@dataclass(frozen=True)
class Curve:
    """The curve { (z, lambda): z = h(z, lambda) } of each sample, in coordinates

        w = (sqrt(theta / n) z / unit, sqrt(1 - theta) lambda),

    (B, n + 1), whose Euclidean metric is (theta / n) <u, v> / unit^2 + (1 - theta) lam mu: so
    lambda weighs as much as all of z, however long z is. Its equation is G(w) = 0 with

        G = sqrt(theta / n) (z - h(z, lambda)) / unit.

    Arguments:
        family: the equations.
        shape: of one sample's z.
        theta: weight of z in the metric, in (0, 1).
        unit: the length that z is measured in, (B,), or a number for all.

    References:
        R. Seydel (2010), Practical bifurcation and stability analysis.
    """

    family: Family
    shape: torch.Size
    theta: float = 0.5
    unit: Tensor | float = 1.0

    @property
    def scales(self) -> tuple[Tensor | float, float]:
        """The factors of z, (B, 1) or a number, and of lambda in w."""
        unit = self.unit[:, None] if isinstance(self.unit, Tensor) else self.unit
        return math.sqrt(self.theta / self.shape.numel()) / unit, math.sqrt(1 - self.theta)

    def join(self, z: Tensor, lam: Tensor) -> Tensor:
        """Return w of z, (B, ...), and lambda, (B,)."""
        a, b = self.scales
        return torch.cat((a * z.flatten(1), b * lam[:, None].to(z.dtype)), dim=1)

    def split(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Return z, (B, ...), and lambda, (B,), of a point; of a tangent, their derivatives."""
        a, b = self.scales
        return (w[:, :-1] / a).reshape(-1, *self.shape), w[:, -1] / b

    def gap(self, w: Tensor) -> Tensor:
        """Evaluate G(w), (B, n)."""
        z, lam = self.split(w)
        return self.scales[0] * (z - self.family(z, lam)).flatten(1)

    def rows(self, index: Tensor) -> Curve:
        """Return the curves of the samples `index` alone."""
        unit = self.unit.index_select(0, index) if isinstance(self.unit, Tensor) else self.unit
        return replace(self, family=self.family.rows(index), unit=unit)

    def counted(self) -> tuple[Curve, Counter]:
        """Return the curve with a counter of its evaluations and products."""
        counter = Counter(self.family.map)
        return replace(self, family=replace(self.family, map=counter)), counter

    def slice(self, here: Tensor, normal: Tensor, ds: Tensor) -> Equilibrium:
        """Return the equation of the step d from `here` to where the curve meets a plane:

            G(here + d) = 0,   <normal, d> = ds,

        in the form d = d - (G, <normal, d> - ds), to which Newton's method is the bordered one:
        any solver corrects the points of a path. As d is the unknown, a relative tolerance is
        one of the length of the step, and points cannot drift off the curve in small steps.
        """

        def plane(
            d: Tensor, here: Tensor, normal: Tensor, ds: Tensor, unit: Tensor, *x: Tensor
        ) -> Tensor:
            curve = replace(self, family=replace(self.family, condition=x), unit=unit)
            off = dot(normal, d) - ds
            return d - torch.cat((curve.gap(here + d), off[:, None]), dim=1)

        unit = torch.as_tensor(self.unit).to(here).expand(len(here))
        condition = (here, normal, ds, unit, *(self.family.condition or ()))
        return Equilibrium(plane, condition, rowwise=True)

    def tangent(
        self, w: Tensor, guide: Tensor, *, rtol: float, linear: LinearSolver
    ) -> tuple[Tensor, Tensor]:
        """Return the unit tangent at w that points along `guide`, (B, n + 1), and its error.

        Solves the bordered system [G'(w); guide^T] t = [0; 1] for the difference from the guide,
        so that little is left to do where the guide is the tangent nearby.

        Arguments:
            w: a point of the curve.
            guide: a unit vector, not orthogonal to the tangent.
            rtol: error of the linear solve relative to the turn from the guide.
            linear: solver of the bordered system.

        Returns:
            the tangent, and ||G'(w) t||, (B,), 0 for a true one: large where G'(w) has lost
            rank.
        """
        if linear.forms(self.shape.numel(), SMALL):
            factors, error = self.factored(w, guide)
            return factors.null, error
        system = self.bordered(w, guide)
        miss = torch.cat((system.slope(guide), torch.zeros_like(w[:, :1])), dim=1)
        t = guide + linear.solve(system, -miss, rtol=rtol)
        t = t / expand(norm(t), t)
        return t, norm(system.slope(t))  # measured: a singular system may break down unseen

    def factored(self, w: Tensor, guide: Tensor) -> tuple[Factors, Tensor]:
        """Return [G'(w); guide^T] factored, with the unit tangent, and the tangent's error, (B,).

        The error is ||G'(w) t||. A guide orthogonal to the tangent, as lambda's direction is at
        a fold, is replaced by the tangent.
        """
        matrix = self.bordered(w, guide).matrix()
        slope = matrix[:, :-1]
        unit = torch.zeros_like(w)
        unit[:, -1] = 1
        lu, pivots = factor(matrix)
        t = backward(lu, pivots, unit)
        t = t / expand(norm(t), t)
        error: Tensor = norm(torch.bmm(slope, t[:, :, None]))
        singular = ~(error < 1e-3)
        if bool(singular.any()):  # orthogonal to the guide: the null vector itself
            some = slope[singular].nan_to_num()
            null = torch.linalg.svd(some)[2][:, -1]
            sign = torch.where(dot(null, guide[singular]) < 0, -1, 1)
            null = expand(sign, null) * null
            t = t.index_put((singular,), null)
            again = factor(torch.cat((some, null[:, None]), dim=1))
            lu = lu.index_put((singular,), again[0])
            pivots = pivots.index_put((singular,), again[1])
            error = norm(torch.bmm(slope, t[:, :, None]))
        return Factors(lu, pivots, t), error

    def singular(self, w: Tensor, guide: Tensor, linear: LinearSolver) -> Tensor:
        """Say whether [G'(w); guide^T] is singular as far as the solver can tell, bool (B,).

        The system is solved for one right side; a singular one has no solution, or an immense
        one.
        """
        system = self.bordered(w, guide)
        n = w.shape[1]
        rhs = torch.linspace(1, 2, n, dtype=w.dtype, device=w.device).expand_as(w) / n**0.5
        d = linear.solve(system, rhs, rtol=1e-3)
        solved = norm(system(d) - rhs) <= 0.1 * norm(rhs)
        immense = norm(d) * math.sqrt(torch.finfo(w.dtype).eps) >= norm(rhs)
        return torch.logical_or(~solved, immense)

    def bordered(self, w: Tensor, guide: Tensor) -> Bordered:
        """Return the operator [G'(w); guide^T]."""
        slope = Linearization(self.gap, w, self.family.map, self.family.condition)
        return Bordered(slope, guide)
