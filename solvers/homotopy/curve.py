"""A family of equations z = h(z, lambda), and its roots as a curve in (z, lambda)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..guard import Guard
from ..jacobian import Linearization
from ..linear import SMALL, LinearSolver, backward, factor, gmres
from ..norms import dot, expand, norm
from ..problem import Counter, Equilibrium, Map, check_start, checked
from ..rows import Embedded, select


@dataclass(frozen=True)
class Family:
    """The equations z = h(z, lambda, *condition), one for each lambda.

    Arguments:
        map: h(z, lam, *condition) -> Tensor of z's shape, (B, ...); lam is (B, 1, ...). Row i
            of the output depends on row i of each argument alone.
        condition: tensors (B, ...) that h receives beside z and lam; with `None` h closes over
            what it needs and always runs on the full batch.
    """

    map: Map
    condition: tuple[Tensor, ...] | None = ()

    @staticmethod
    def of_residual(residual: Map, condition: tuple[Tensor, ...] | None = ()) -> Family:
        """Return the family of the equations H(z, lam, *condition) = 0, h(z, lam) = z + H(z, lam).

        The flow whose stability `trace` reports is z' = H(z, lam).
        """
        return Family(_Shifted(residual), condition)

    def __call__(self, z: Tensor, lam: Tensor) -> Tensor:
        """Evaluate h(z, lam) with each sample at its own lam, (B,)."""
        out = self.map(z, expand(lam, z), *(self.condition or ()))
        return checked(out, z, "map of a Family")

    def at(self, lam: Tensor) -> Equilibrium:
        """Return the equation z = h(z, lam) of each sample at its own lam, (B,)."""

        def fixed(z: Tensor, lam: Tensor, *condition: Tensor) -> Tensor:
            return self.map(z, expand(lam, z), *condition)

        # The answer at the end of the path is checked, if anything: see `verified`.
        return Equilibrium(fixed, (lam, *(self.condition or ())), rowwise=True)

    def slope(self, z: Tensor, lam: Tensor, *, rtol: float, krylov: int) -> tuple[Tensor, int]:
        """Return dz/dlambda = (I - h_z)^-1 h_lambda at roots (Davidenko), and what it cost.

        Arguments:
            z: the roots, (B, ...).
            lam: lambda of each, (B,).
            rtol: of the linear solve.
            krylov: dimension of its Krylov space at most.
        """

        def joint(y: Tensor) -> Tensor:
            return self(y[:, :-1].reshape_as(z), y[:, -1]).flatten(1)

        y = torch.cat((z.flatten(1), lam[:, None].to(z.dtype)), dim=1)
        counter = Counter(joint)
        push = Linearization(counter, y, counter)
        still, one = torch.zeros_like(y[:, :-1]), torch.ones_like(y[:, -1:])

        def operator(v: Tensor) -> Tensor:
            return v - push(torch.cat((v, 0 * one), dim=1))

        rate = push(torch.cat((still, one), dim=1))
        found, _ = gmres(operator, rate, rtol=rtol, max_steps=krylov)
        return found.reshape_as(z), counter.count

    def rows(self, index: Tensor) -> Family:
        """Return the family of the samples `index` (int64) alone."""
        return replace(self, condition=select(self.condition or (), index))

    def packed(self, z0: Tensor) -> Family:
        """Return the family with a map that harms nothing and rows that can be selected."""
        if isinstance(self.map, Guard):
            return self
        if self.condition is not None:
            return replace(self, map=Guard(self.map))
        everything = torch.arange(len(z0), device=z0.device)
        return Family(Guard(Embedded(self.map, everything)), (everything,))

    def check(self, z0: Tensor) -> None:
        """Raise ValueError unless z0 is a state that fits the condition."""
        check_start(Equilibrium(self.map, self.condition), z0)


@dataclass(frozen=True)
class _Shifted:
    residual: Callable[..., Tensor]

    def __call__(self, z: Tensor, lam: Tensor, *condition: Tensor) -> Tensor:
        return torch.add(z, self.residual(z, lam, *condition))


@dataclass(frozen=True)
class Factors:
    """The factored matrices [A; r^T] of a batch, with A t = 0 for a unit vector t each.

    They solve [A; q^T] x = [b; c] for any other row q, too: with any y such that A y = b,

        x = y + (c - <q, y>) / <q, t> t.

    Arguments:
        lu: (B, n + 1, n + 1).
        pivots: (B, n + 1).
        null: t, (B, n + 1).
    """

    lu: Tensor
    pivots: Tensor
    null: Tensor

    def solve(self, b: Tensor, c: Tensor, row: Tensor) -> Tensor:
        """Return x, (B, n + 1), with A x = b, (B, n), and <row, x> = c, (B,).

        It is not finite where that is singular.
        """
        y = backward(self.lu, self.pivots, torch.cat((b, torch.zeros_like(b[:, :1])), dim=1))
        return y + ((c - dot(row, y)) / dot(row, self.null))[:, None] * self.null


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
        unit: the length that z is measured in, (B,), or (1,) for all.

    References:
        R. Seydel (2010), Practical bifurcation and stability analysis.
    """

    family: Family
    shape: torch.Size
    theta: float
    unit: Tensor

    @property
    def scales(self) -> tuple[Tensor, float]:
        """The factors of z, (B, 1), and of lambda in w."""
        a = math.sqrt(self.theta / self.shape.numel()) / self.unit
        return a[:, None], math.sqrt(1 - self.theta)

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
        return replace(self, family=self.family.rows(index), unit=self.unit[index])

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

        condition = (here, normal, ds, self.unit, *(self.family.condition or ()))
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
        slope = self.bordered(w, guide).slope.matrix()
        matrix = torch.cat((slope, guide[:, None]), dim=1)
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
        return Bordered(Linearization(self.gap, w, self.family.map, self.family.condition), guide)
