"""Implicit backward passes: ours and torchdeq's, with the error of the gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from solvers import Anderson, Equilibrium, Implicit, Picard, solve

from .problems import Tanh, race, waits

FORWARD = 1e-6  # tight, so that the error is the backward pass's
TOLERANCE = 1e-4  # the peers'


def exact(f: Tanh, cotangent: Tensor) -> Tensor:
    """Return dL/dW^T of L = <cotangent, z*>, by dense solves in double precision."""
    double = Tanh(f.name, f.weight.double(), f.drive.double())
    z = solve(double.problem, Anderson(rtol=1e-13, max_steps=500), double.start).value
    slope = 1 - z.square()
    eye = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    jacobian = slope[:, :, None] * double.weight.T  # (B, i, j) = df_i / dz_j
    u = torch.linalg.solve((eye - jacobian).mT, cotangent.double())
    return z.T @ (u * slope)


def backward(kind: str, norm: float, device: str = "cpu") -> dict[str, Any]:
    """Time dL/dW of one map for every backward solver."""
    from torchdeq import get_deq

    f = Tanh.make(kind, norm, device)
    cotangent = torch.randn(f.drive.shape, generator=torch.Generator().manual_seed(1)).to(device)
    reference = exact(f, cotangent)
    weight = f.weight.clone().requires_grad_()
    layer = Tanh(f.name, weight, f.drive)
    outputs: dict[str, Tensor] = {}
    ours = {
        "Implicit()": Implicit().solver,
        "Implicit(Anderson(3e-5))": Anderson(rtol=3e-5),  # errs less than the peers at 1e-4
        "Implicit(Picard(3e-5))": Picard(rtol=3e-5),
    }
    for name, solver in ours.items():
        problem = Equilibrium(layer, (f.drive,))
        outputs[name] = Implicit(solver).apply(problem, Anderson(rtol=FORWARD), f.start).value
    for method in ("fixed_point_iter", "anderson", "broyden"):
        deq = get_deq(
            f_solver="anderson",
            f_tol=FORWARD,
            f_max_iter=200,
            f_stop_mode="rel",
            b_solver=method,
            b_tol=TOLERANCE,
            b_max_iter=100,
            b_stop_mode="rel",
            ift=True,
        )
        deq.train()
        z, _ = deq(layer, f.start, solver_kwargs={"lam": 1e-8})
        outputs[f"torchdeq {method}"] = z[-1]

    def call(z: Tensor) -> Callable[[], Tensor]:
        return lambda: torch.autograd.grad(z, weight, cotangent, retain_graph=True)[0]

    calls = {name: call(z) for name, z in outputs.items()}
    errors = {
        name: float((run().double() - reference).norm() / reference.norm())
        for name, run in calls.items()
    }
    times = race(calls, repeats=15)
    return {
        name: {"ms": vars(times[name]), "error": errors[name], **waits(run, device)}
        for name, run in calls.items()
    }
