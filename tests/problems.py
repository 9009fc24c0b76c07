"""Equations whose answers are known, for every test: closed forms first, then cited values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from solvers import Equilibrium, InitialValue, MonotoneInclusion

DOUBLE = torch.float64


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(seed: int, *shape: int, dtype: torch.dtype = DOUBLE) -> Tensor:
    """Return standard normal numbers that depend on the seed alone."""
    return torch.randn(*shape, generator=generator(seed), dtype=DOUBLE).to(dtype)


def relative_residual(problem: Equilibrium, z: Tensor) -> Tensor:
    """Return ||f(z) - z|| / ||f(z)|| of each sample, computed afresh, in double precision."""
    image = problem(z).double().flatten(1)
    return (image - z.double().flatten(1)).norm(dim=1) / image.norm(dim=1)


# --- equilibria ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """An equilibrium, a start, and its answer."""

    problem: Equilibrium
    z0: Tensor
    answer: Tensor


def affine(z: Tensor, a: Tensor, x: Tensor) -> Tensor:
    """f(z) = A z + x with an A for each sample, (B, n, n)."""
    return torch.einsum("bij,bj->bi", a, z) + x


def tanh(z: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """f(z) = tanh(W z + b) with a W for each sample, (B, n, n)."""
    return torch.tanh(torch.einsum("bij,bj->bi", w, z) + b)


def contractions(batch: int, n: int, norm: float, seed: int) -> Tensor:
    """Return random matrices of 2-norm `norm`, (B, n, n)."""
    a = normal(seed, batch, n, n)
    return norm * a / torch.linalg.matrix_norm(a, 2, keepdim=True)


def symmetric(n: int, radius: float, seed: int = 0) -> Tensor:
    """Return a symmetric matrix whose eigenvalues are spread over [-radius, radius]."""
    q, _ = torch.linalg.qr(normal(seed, n, n))
    return q @ torch.diag(torch.linspace(-radius, radius, n, dtype=DOUBLE)) @ q.mT


def psd(n: int, radius: float, seed: int = 0) -> Tensor:
    """Return a positive semidefinite matrix with eigenvalues spread over [0, radius]."""
    q, _ = torch.linalg.qr(normal(seed, n, n))
    return q @ torch.diag(torch.linspace(0, radius, n, dtype=DOUBLE)) @ q.mT


def linear(
    batch: int = 4,
    n: int = 6,
    norm: float = 0.5,
    seed: int = 0,
    *,
    a: Tensor | None = None,
    dtype: torch.dtype = DOUBLE,
) -> Case:
    """z = A z + x, so z* = (I - A)^-1 x; A is a contraction unless it is given, (n, n)."""
    if a is None:
        matrices = contractions(batch, n, norm, seed)
    else:
        n = a.shape[0]
        matrices = a.expand(batch, n, n).contiguous()
    x = normal(seed + 1, batch, n)
    answer = torch.linalg.solve(torch.eye(n, dtype=DOUBLE) - matrices, x)
    problem = Equilibrium(affine, (matrices.to(dtype), x.to(dtype)))
    return Case(problem, torch.zeros(batch, n, dtype=dtype), answer.to(dtype))


def inclusion(w: Tensor, x: Tensor, **given: Any) -> MonotoneInclusion:
    """z = relu(W z + x) for one matrix W, with its exact moduli."""
    eye = torch.eye(len(w), dtype=w.dtype)

    def resolvent(alpha: float) -> Callable[..., Tensor]:
        inverse = torch.linalg.inv((1 + alpha) * eye - alpha * w)
        return lambda v: v @ inverse.mT

    def moduli() -> tuple[float, float]:
        a = (eye - w).detach()
        m = torch.linalg.eigvalsh((a + a.mT) / 2)[0]
        return float(m), float(torch.linalg.matrix_norm(a, 2))

    settings = {"resolvent": resolvent, "moduli": moduli} | given
    return MonotoneInclusion(condition=(x,), linear=lambda z: z @ w.mT, **settings)


def shared(
    batch: int = 4, n: int = 6, norm: float = 0.5, seed: int = 0, *, dtype: torch.dtype = DOUBLE
) -> Case:
    """z = W z + x with one contraction W: an inclusion, which every solver answers."""
    w, x = contractions(1, n, norm, seed)[0], normal(seed + 1, batch, n)
    answer = torch.linalg.solve(torch.eye(n, dtype=DOUBLE) - w, x.mT).mT
    problem = inclusion(w.to(dtype), x.to(dtype), prox=lambda z: z)
    return Case(problem, torch.zeros(batch, n, dtype=dtype), answer.to(dtype))


def half(x: Tensor) -> MonotoneInclusion:
    """z = z / 2 + x, an inclusion whose answer is 2 x."""
    return inclusion(torch.eye(x.shape[1], dtype=x.dtype) / 2, x, prox=lambda z: z)


def tanh_suite(gain: float, draws: int = 40, n: int = 50, seed: int = 0) -> Equilibrium:
    """z = tanh(W z + b), W_ij ~ N(0, gain^2 / n), b ~ N(0, 0.5^2), one draw a sample."""
    g = generator(seed)
    w = torch.randn(draws, n, n, generator=g, dtype=DOUBLE) * gain / math.sqrt(n)
    return Equilibrium(tanh, (w, 0.5 * torch.randn(draws, n, generator=g, dtype=DOUBLE)))


def conv_cell(
    batch: int = 2, channels: int = 3, size: int = 5, norm: float = 0.8, seed: int = 0
) -> tuple[Equilibrium, Tensor]:
    """z = tanh(w * z + x) with a 3x3 convolution, a contraction; and its start."""
    kernel = normal(seed, channels, channels, 3, 3)
    # ||w * z|| <= sum_ij ||w_ij||_2 ||z|| over the nine taps (triangle inequality).
    kernel = norm * kernel / torch.linalg.matrix_norm(kernel.permute(2, 3, 0, 1), 2).sum()
    x = normal(seed + 1, batch, channels, size, size)
    problem = Equilibrium(lambda z, x: torch.tanh(conv2d(z, kernel, padding=1) + x), (x,))
    return problem, torch.zeros_like(x)


def pair(batch: int = 3, seed: int = 0) -> tuple[Equilibrium, tuple[Tensor, Tensor], Case]:
    """Return a linear equation in two tensors, (B, 2) and (B, 2, 2), its start, and it as one."""
    case = linear(batch, 6, 0.6, seed)

    def split(z: Tensor) -> tuple[Tensor, Tensor]:
        return z[:, :2], z[:, 2:].reshape(-1, 2, 2)

    def f(z: tuple[Tensor, Tensor], a: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return split(affine(torch.cat([z[0], z[1].flatten(1)], 1), a, x))

    problem = Equilibrium(f, case.problem.condition)  # type: ignore[arg-type]
    return problem, split(case.z0), case


def sigmoid_cell(z: Tensor, a: Tensor, diag: Tensor, bias: Tensor) -> Tensor:
    """f(z) = sigmoid((A + D) z + bias), A shared: the equilibrium that xitorch tests."""
    return torch.sigmoid(z @ a.mT + diag * z + bias)


def cosine_cell(z: Tensor, a: Tensor, diag: Tensor, bias: Tensor) -> Tensor:
    """f(z) = cos((A + D) z + bias), A shared: another of xitorch's."""
    return torch.cos(z @ a.mT + diag * z + bias)


def rootless(batch: int = 1, n: int = 3) -> Equilibrium:
    """z = z + z^2 + 1: f(z) - z >= 1, and ||f(z) - z|| / ||f(z)|| > 0.6 everywhere."""
    return Equilibrium(lambda z, one: z + z * z + one, (torch.ones(batch, n, dtype=DOUBLE),))


# --- folds --------------------------------------------------------------------------------------


def tanh_fold(gain: float) -> tuple[float, float]:
    """Return (z, lam) of the fold of z = tanh(gain z + lam) with z > 0."""
    z = math.sqrt(1 - 1 / gain)
    return z, math.atanh(z) - gain * z


def cubic(u: Tensor, level: Tensor) -> Tensor:
    """f(u) = u - (u^3 - 3u - level) / 12: the S-curve u^3 - 3u = level, folds at u = -1 and 1."""
    return u - (u**3 - 3 * u - level) / 12


def exact_gradient(
    f: Callable[..., Tensor], z: Tensor, inputs: tuple[Tensor, ...], v: Tensor
) -> tuple[Tensor, ...]:
    """Differentiate sum(v z*) in each input of z* = f(z*, *inputs) by a dense linear solve.

    Solves (I - J)^T u = v with the Jacobian of all samples at once, so that nothing is assumed
    about who sees whom, and returns u^T df/dinput.
    """
    z, v = z.detach(), v.detach()
    inputs = tuple(x.detach().requires_grad_() for x in inputs)
    jacobian = torch.autograd.functional.jacobian(lambda z: f(z, *inputs), z)
    n = z.numel()
    system = torch.eye(n, dtype=z.dtype) - jacobian.detach().reshape(n, n)
    u = torch.linalg.solve(system.mT, v.reshape(n)).view_as(z)
    return torch.autograd.grad(f(z, *inputs), inputs, u)


# --- initial value problems -------------------------------------------------------------------


@dataclass(frozen=True)
class Flow:
    """dz/dt = f(t, z) and its exact solution at any t, (B, n)."""

    field: Callable[[Tensor, Tensor], Tensor]
    exact: Callable[[float], Tensor]

    def problem(self, t0: float, t1: float) -> tuple[InitialValue, Tensor]:
        return InitialValue(self.field, t0, t1), self.exact(t0)


def constant() -> Flow:
    """torchdiffeq's: z = a t + b, which the fifth power makes unstable forwards."""
    a, b = 0.2, 3.0
    return Flow(
        lambda t, z: a + (z - (a * t + b)) ** 5, lambda t: torch.full((2, 1), a * t + b).to(DOUBLE)
    )


def sine() -> Flow:
    """torchdiffeq's: z' = 2 z / t + t^4 sin 2t - t^2 + 4 t^3."""

    def exact(t: float) -> Tensor:
        value = (
            -0.5 * t**4 * math.cos(2 * t) + 0.5 * t**3 * math.sin(2 * t)
            + 0.25 * t**2 * math.cos(2 * t) - t**3 + 2 * t**4 + (math.pi - 0.25) * t**2
        )  # fmt: skip
        return torch.full((2, 1), value, dtype=DOUBLE)

    return Flow(lambda t, z: 2 * z / t + t**4 * torch.sin(2 * t) - t**2 + 4 * t**3, exact)


def skew() -> Flow:
    """torchdiffeq's linear problem: z' = S z, S skew-symmetric, z(t) = e^{S t} z(0)."""
    u = 0.1 * normal(0, 10, 10)
    s = u - u.mT
    start = torch.ones(2, 10, dtype=DOUBLE)
    return Flow(lambda t, z: z @ s.mT, lambda t: start @ torch.linalg.matrix_exp(s * t).mT)


def exponential(rate: float = -0.5) -> Flow:
    """z' = rate z, z(t) = e^{rate t} z(0)."""
    start = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=DOUBLE)
    return Flow(lambda t, z: rate * z, lambda t: math.exp(rate * t) * start)


FLOWS = {"constant": constant, "linear": skew, "sine": sine, "exp": exponential}
