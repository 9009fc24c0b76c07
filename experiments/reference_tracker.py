"""Follow z = lambda tanh(W z + b) from 0 by the textbook: one sample, dense Jacobians, LU.

The referee of `tanh_suite.py`. It shares no line with `solvers`: numpy and scipy's LU in float64,
Jacobians by hand, Newton's method with a fresh factorisation every time, no predictor but the
tangent, and steps that are halved whenever anything looks doubtful.

References:
    H. Keller (1977), Numerical solution of bifurcation and nonlinear eigenvalue problems.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import lu_factor, lu_solve

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Reference:
    """How the path is followed.

    Arguments:
        ds, min_ds, max_ds: first, smallest and largest step in (z / sqrt(n), lambda).
        tolerance: of a point, ||z - lambda f(z)||_2 / sqrt(n).
        corrections: Newton steps a point at most.
        turn: cosine of the largest turn of the tangent in a step.
        max_steps: steps at most, those that were rejected included.
    """

    ds: float = 0.05
    min_ds: float = 1e-7
    max_ds: float = 0.5
    tolerance: float = 1e-9
    corrections: int = 5
    turn: float = math.cos(math.pi / 8)
    max_steps: int = 5000


@dataclass(frozen=True)
class Path:
    """Where the path ended: the root of z = f(z), or None; its steps; why it ended."""

    root: Array | None
    steps: int
    reason: str


def track(w: Array, b: Array, settings: Reference = Reference()) -> Path:  # noqa: B008  (frozen)
    """Follow the path of one sample from (0, 0) until it crosses lambda = 1, and polish there.

    Arguments:
        w, b: the weights, (n, n), and the bias, (n,).
        settings: how.
    """
    n = len(b)
    scale = math.sqrt(n)

    def equations(y: Array) -> tuple[Array, Array]:
        """Return G(y), (n,), and G'(y), (n, n + 1), for y = (z / sqrt(n), lambda)."""
        z, lam = scale * y[:n], y[n]
        t = np.tanh(w @ z + b)
        slope = np.eye(n) - lam * (1 - t * t)[:, None] * w
        return (z - lam * t) / scale, np.hstack((slope, -t[:, None] / scale))

    def solve(jacobian: Array, row: Array, right: Array) -> Array:
        found: Array = lu_solve(lu_factor(np.vstack((jacobian, row)), check_finite=False), right)
        return found

    unit = np.append(np.zeros(n), 1.0)
    y = np.zeros(n + 1)
    tangent = solve(equations(y)[1], unit, unit)
    tangent /= np.linalg.norm(tangent)
    ds = settings.ds
    for step in range(1, settings.max_steps + 1):
        new, good = y + ds * tangent, False
        gap, jacobian = equations(new)
        for _ in range(settings.corrections):
            right = np.append(gap, tangent @ (new - y) - ds)
            new = new - solve(jacobian, tangent, right)
            gap, jacobian = equations(new)
            if not np.isfinite(gap).all():
                break
            if np.linalg.norm(gap) <= settings.tolerance:
                good = True
                break
        if good:
            ahead = solve(jacobian, tangent, unit)
            ahead /= np.linalg.norm(ahead)
            good = ahead @ tangent >= settings.turn and ds >= 0.9 * np.linalg.norm(new - y)
        if not good:
            ds /= 2
            if ds < settings.min_ds:
                return Path(None, step, "step too small")
            continue
        if (new[n] >= 1) != (y[n] >= 1):
            share = (1 - y[n]) / (new[n] - y[n])
            root = _polish(w, b, scale * (y + share * (new - y))[:n])
            if root is not None:
                return Path(root, step, "root")
            ds /= 2  # too long a step to start Newton's method from
            if ds < settings.min_ds:
                return Path(None, step, "no root where lambda crosses 1")
            continue
        if ahead @ tangent >= math.cos(0.2):
            ds = min(1.5 * ds, settings.max_ds)
        y, tangent = new, ahead
    return Path(None, settings.max_steps, "max_steps")


def _polish(w: Array, b: Array, z: Array) -> Array | None:
    for _ in range(20):
        t = np.tanh(w @ z + b)
        if np.linalg.norm(t - z) <= 1e-12 * math.sqrt(len(b)):
            return z
        slope = np.eye(len(b)) - (1 - t * t)[:, None] * w
        z = z + np.linalg.solve(slope, t - z)
        if not np.isfinite(z).all():
            return None
    return None
