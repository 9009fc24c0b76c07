"""The tightest Lipschitz constant that a diagonal metric proves, by a semidefinite program."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..cells.bounds import SLACK, UNIT
from .form import Form
from .layers import FLOOR

LARGEST = 250
"""Neurons: at 200 a solve takes 10 to 30 s on one core, and the time grows like their cube."""


def lipsdp(form: Form, *, tolerance: float = 1e-6, max_neurons: int = LARGEST) -> Form:
    """Return the form with the metric and gamma of LipSDP for equilibrium networks:

        minimise rho   so that   [[P - V^T V, -L U], [-U^T L, rho I]] >= 0,   gamma = sqrt(rho).

    The program is solved approximately (SCS). Its answer proves nothing: only its L is kept,
    scaled by the best of some s >= 1, and rho is computed anew from L by the Schur complement in
    double precision, so that the returned form can be checked (`Form.proved`).

    Arguments:
        form: of matrices, any well-posed W; its own metric is of no meaning.
        tolerance: of SCS.
        max_neurons: refuse larger networks, whose program takes minutes.

    Raises:
        ImportError: cvxpy is not installed.
        ValueError: there is no such metric, or the network is too large or maps images.

    References:
        M. Fazlyab et al. (2019), Efficient and accurate estimation of Lipschitz constants for deep
        neural networks.
    """
    if form.grid is not None:
        raise ValueError("lipsdp takes a network of vectors; this one maps images.")
    form = form.without_feedthrough()
    n = len(form.b)
    if n > max_neurons:
        raise ValueError(f"lipsdp takes at most {max_neurons} neurons; got {n}.")
    try:
        cp: Any = importlib.import_module("cvxpy")
    except ImportError as error:
        raise ImportError("lipsdp needs cvxpy: pip install 'homotopy-deq[sdp]'.") from error
    w, u, v = (t[0].cpu().numpy() for t in (form.w, form.u, form.v))
    metric, rho = cp.Variable(n, nonneg=True), cp.Variable()
    lw, lu = cp.diag(metric) @ w, cp.diag(metric) @ u
    top = 2 * cp.diag(metric) - lw - lw.T - v.T @ v
    matrix = cp.bmat([[top, -lu], [-lu.T, rho * np.eye(u.shape[1])]])
    program = cp.Problem(cp.Minimize(rho), [(matrix + matrix.T) / 2 >> 0])
    program.solve(solver=cp.SCS, eps_abs=tolerance, eps_rel=tolerance, max_iters=20_000)
    if metric.value is None:
        raise ValueError(f"no diagonal metric was found: the program ended {program.status}.")
    found = torch.as_tensor(metric.value, dtype=torch.float64, device=form.b.device)
    found = found.clamp_min(1e-9 * float(found.amax()))
    best = min((_rho(form, found * s), s) for s in _scales())
    if not best[0] < float("inf"):
        raise ValueError("no metric near the program's answer makes the network well posed.")
    gamma = max(best[0] ** 0.5, FLOOR)
    # The form's inequality is that of V^T V / gamma: L is scaled with it.
    return replace(form, metric=found * best[1] / gamma, gamma=gamma)


def _scales() -> list[float]:
    return [1 + 10.0**k for k in range(-9, 0)] + [1.0, 1.5, 2.0, 4.0]


def _rho(form: Form, metric: Tensor) -> float:
    """Return the least rho for a metric by the Schur complement, inf if there is none."""
    lw, lu = metric[:, None] * form.w[0], metric[:, None] * form.u[0]
    p = 2 * torch.diag(metric) - lw - lw.mT - form.v[0].mT @ form.v[0]
    size = sum(float(torch.linalg.matrix_norm(t)) for t in (p, 2 * lw))
    slack = SLACK * len(metric) * UNIT * (size + float(torch.linalg.matrix_norm(form.v[0])) ** 2)
    factor, info = torch.linalg.cholesky_ex(p - slack * torch.eye(len(metric)).to(p))
    if int(info):
        return float("inf")
    half = torch.linalg.solve_triangular(factor, lu, upper=False)
    return float(torch.linalg.matrix_norm(half, 2)) ** 2 * (1 + 1e-12)
