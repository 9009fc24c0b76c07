"""Gradient flow of linear and single-index DEQs: conserved quantities, rates and step sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from solvers import InitialValue, RungeKutta, Solver, solve

Function = Callable[[Tensor], Tensor]
EXACT = RungeKutta(rtol=1e-12, atol=1e-14)


@dataclass(frozen=True)
class SingleIndexDEQ:
    """The scalar DEQ y = s(th1^T x + th2 y), trained to s(xi^T x) by the squared loss:

        L(theta) = mean (y - t)^2,   dL/dtheta = mean [2 (y - t) s' / (1 - th2 s') (x, y)].

    With s the identity it is linear: y = th1^T x / (1 - th2).

    Arguments:
        x: inputs, (N, d), float64.
        target: t, (N,).
        activation: s.
        terms: Neumann terms of the backward pass, 1 / (1 - a) ~ sum_{k < m} a^k, a = th2 s'; None
            for the exact one, 1 for the Jacobian-free one.
        intercept: append 1 to x.

    References:
        S. Dandapanthula, A. Ramdas (2025), Gradient flow for deep equilibrium single-index models.
    """

    x: Tensor
    target: Tensor
    activation: Function | None = None
    terms: int | None = None
    intercept: bool = False

    def __post_init__(self) -> None:
        if self.intercept:
            object.__setattr__(self, "x", torch.cat((self.x, torch.ones_like(self.x[:, :1])), 1))
            object.__setattr__(self, "intercept", False)
        fits = self.x.dim() == 2 and len(self.x) > 0 and self.target.shape == (len(self.x),)
        if not fits or {self.x.dtype, self.target.dtype} != {torch.float64}:
            raise ValueError(
                f"x must be (N, d) and target (N,), both float64; got {tuple(self.x.shape)}, "
                f"{self.x.dtype} and {tuple(self.target.shape)}, {self.target.dtype}."
            )
        if self.terms is not None and self.terms < 1:
            raise ValueError(f"terms must be at least 1, or None; got {self.terms}.")

    @property
    def linear(self) -> bool:
        """Whether s is the identity."""
        return self.activation is None

    def output(self, theta: Tensor, x: Tensor | None = None) -> Tensor:
        """Return y for theta = (th1, th2), (d + 1,); by Newton's method where s is not linear.

        Raises:
            ValueError: the equation of some input has no solution that Newton's method finds, or
                none at all: th2 = 1 is the singular point of the linear model. Where th2 s'
                reaches 1 there may be several, and it finds one.
        """
        x = self.x if x is None else x
        inner, th2 = x @ theta[:-1], theta[-1]
        if self.activation is None:
            y = inner / (1 - th2)
            left = y - y  # nan where y is not finite
        else:
            y = self.activation(inner)
            s, slope = self._slopes(inner + th2 * y)
            left, share = s - y, torch.ones_like(y)
            for _ in range(200):  # a step that does not bring s - y nearer to 0 is halved
                step = share * left / (1 - th2 * slope)
                if float(step.abs().amax()) <= 1e-15 * (1 + float(y.abs().amax())):
                    break
                s, new = self._slopes(inner + th2 * (y + step))
                nearer = (s - y - step).abs() < left.abs()
                left = torch.where(nearer, s - y - step, left)
                y, slope = torch.where(nearer, y + step, y), torch.where(nearer, new, slope)
                share = torch.where(nearer, torch.ones_like(share), share / 2)
        if not float(left.abs().amax()) <= 1e-9 * (1 + float(y.abs().amax())):
            raise ValueError(f"no equilibrium was found at theta = {theta.tolist()}.")
        return y

    def risk(self, theta: Tensor, x: Tensor | None = None, target: Tensor | None = None) -> float:
        """Return mean (y - t)^2."""
        t = self.target if target is None else target
        return float((self.output(theta, x) - t).square().mean())

    def gradient(self, theta: Tensor) -> Tensor:
        """Return dL/dtheta, (d + 1,), exact or with `terms` of the Neumann series."""
        y = self.output(theta)
        slope = torch.ones_like(y)
        if self.activation is not None:
            slope = self._slopes(self.x @ theta[:-1] + theta[-1] * y)[1]
        a = theta[-1] * slope
        series = 1 / (1 - a) if self.terms is None else sum(a**k for k in range(self.terms))
        weight = 2 * (y - self.target) * slope * series
        return torch.cat((self.x, y[:, None]), 1).mul(weight[:, None]).mean(0)

    def descend(self, theta: Tensor, rate: float, steps: int) -> Tensor:
        """Return theta along gradient descent, (steps + 1, d + 1)."""
        return _descent(self.gradient, theta, rate, steps)

    def flow(
        self, theta: Tensor, time: float, solver: Solver[InitialValue, Any] | None = None
    ) -> Tensor:
        """Return theta at a time of dtheta/dt = -dL/dtheta, by an ODE solver of this library."""
        solver = solver or EXACT

        def field(t: Tensor, theta: Tensor) -> Tensor:
            return torch.stack([-self.gradient(row) for row in theta])

        problem = InitialValue(field, t1=time, rowwise=True)
        end: Tensor = solve(problem, solver, theta[None]).check().value
        return end[0]

    def conserved(self, theta: Tensor) -> Tensor:
        """Return C^2 = ||th1||^2 + (1 - th2)^2 of theta (..., d + 1), constant along the linear
        flow: a sphere about the singular point (0, 1). One step of descent adds eta^2 ||grad||^2.
        """
        return theta[..., :-1].square().sum(-1) + (1 - theta[..., -1]).square()

    def rate(self, theta: Tensor) -> float:
        """Return the decay rate of the linear model's loss that is proved, 4 lambda_min / C^2."""
        return 4 * float(torch.linalg.eigvalsh(self.covariance)[0]) / float(self.conserved(theta))

    def largest_step(self, theta: Tensor, xi: Tensor) -> float:
        """Return the step size below which descent on the linear model is stable at its solution:

        eta < C^2 / (lambda_max (1 + ||xi||^2)^2).
        """
        top = float(torch.linalg.eigvalsh(self.covariance)[-1])
        return float(self.conserved(theta)) / (top * (1 + float(xi.square().sum())) ** 2)

    @property
    def covariance(self) -> Tensor:
        """mean x x^T."""
        return self.x.mT @ self.x / len(self.x)

    def late_factor(self, theta: Tensor, rate: float) -> float:
        """Return the factor of the loss a step of descent near a solution of the linear model, by
        the least eigenvalue of its Hessian across the line of solutions, squared."""
        values = torch.linalg.eigvalsh(self._hessian(theta))
        slow = values[values > 1e-9 * values[-1]][0]
        return float((1 - rate * slow) ** 2)

    def _hessian(self, theta: Tensor) -> Tensor:
        """Return 2 mean (dy/dtheta)(dy/dtheta)^T, the Hessian where y = t."""
        y = self.output(theta)
        rows = torch.cat((self.x, y[:, None]), 1) / (1 - theta[-1])
        return 2 * rows.mT @ rows / len(rows)

    def _slopes(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return s(u) and s'(u)."""
        assert self.activation is not None
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            s = self.activation(u)
            (slope,) = torch.autograd.grad(s.sum(), u)
        return s.detach(), slope


@dataclass(frozen=True)
class ExplicitSingleIndex:
    """The explicit peer y = s(th^T x) of `SingleIndexDEQ`, with the same loss.

    Arguments:
        x: inputs, (N, d), float64.
        target: t, (N,).
        activation: s.
    """

    x: Tensor
    target: Tensor
    activation: Function | None = None

    def output(self, theta: Tensor, x: Tensor | None = None) -> Tensor:
        """Return y for theta, (d,)."""
        u = (self.x if x is None else x) @ theta
        return u if self.activation is None else self.activation(u)

    def risk(self, theta: Tensor, x: Tensor | None = None, target: Tensor | None = None) -> float:
        """Return mean (y - t)^2."""
        t = self.target if target is None else target
        return float((self.output(theta, x) - t).square().mean())

    def descend(self, theta: Tensor, rate: float, steps: int) -> Tensor:
        """Return theta along gradient descent, (steps + 1, d)."""
        return _descent(self.gradient, theta, rate, steps)

    def gradient(self, theta: Tensor) -> Tensor:
        """Return dL/dtheta, (d,)."""
        with torch.enable_grad():
            at = theta.detach().requires_grad_()
            loss = (self.output(at) - self.target).square().mean()
            (slope,) = torch.autograd.grad(loss, at)
        return slope


@dataclass(frozen=True)
class LinearDEQ:
    """The linear DEQ z = W z + U x with the output V z, trained to a matrix by the squared loss.

    Along its gradient flow A A^T + U U^T and A^T A + V^T V are conserved, A = I - W.

    Arguments:
        x: inputs, (N, d), float64.
        target: (N, k).
    """

    x: Tensor
    target: Tensor

    def loss(self, w: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Return mean ||V (I - W)^-1 U x - t||^2."""
        a = torch.eye(len(w)).to(w) - w
        y = self.x @ (v @ torch.linalg.solve(a, u)).mT
        risk: Tensor = (y - self.target).square().sum(1).mean()
        return risk

    def flow(
        self,
        w: Tensor,
        u: Tensor,
        v: Tensor,
        time: float,
        solver: Solver[InitialValue, Any] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return W (n, n), U (n, d), V (k, n) at a time of the gradient flow."""
        sizes, shapes = [t.numel() for t in (w, u, v)], [t.shape for t in (w, u, v)]

        def parts(row: Tensor) -> list[Tensor]:
            return [p.view(s) for p, s in zip(torch.split(row, sizes), shapes, strict=True)]

        def field(t: Tensor, theta: Tensor) -> Tensor:
            with torch.enable_grad():
                at = theta.detach().requires_grad_()
                loss = torch.stack([self.loss(*parts(row)) for row in at]).sum()
                (slope,) = torch.autograd.grad(loss, at)
            return -slope

        start = torch.cat([t.flatten() for t in (w, u, v)])[None]
        solver = solver or EXACT
        problem = InitialValue(field, t1=time, rowwise=True)
        end = solve(problem, solver, start).check().value[0]
        w1, u1, v1 = parts(end)
        return w1, u1, v1

    @staticmethod
    def conserved(w: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return A A^T + U U^T and A^T A + V^T V."""
        a = torch.eye(len(w)).to(w) - w
        return a @ a.mT + u @ u.mT, a.mT @ a + v.mT @ v


def _descent(gradient: Function, theta: Tensor, rate: float, steps: int) -> Tensor:
    """Return theta <- theta - rate gradient(theta), all of the way."""
    path = [theta]
    for _ in range(steps):
        theta = theta - rate * gradient(theta)
        path.append(theta)
    return torch.stack(path)


def singular_distance(theta: Tensor, c2: float) -> Tensor:
    """Return |1 - th2| = C / sqrt(1 + ||beta||^2) of the linear model on its sphere, beta = th1 /
    (1 - th2): how near the singular point theta comes.

    Arguments:
        theta: (..., d + 1), th2 last.
        c2: C^2, the square of the sphere's radius.
    """
    beta = theta[..., :-1] / (1 - theta[..., -1:])
    return math.sqrt(c2) / (1 + beta.square().sum(-1)).sqrt()


def truncated(model: SingleIndexDEQ, terms: int | None) -> SingleIndexDEQ:
    """Return the model with another backward pass; in the linear one the gradient is multiplied by
    1 - th2^m: the flow stays on the sphere, and has spurious rests where th2^m = 1.

    Arguments:
        model: as it is.
        terms: m, of the Neumann series; None for all.
    """
    return replace(model, terms=terms)
