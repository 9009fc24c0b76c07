"""Kernels of infinitely wide networks: the DEQ's Gaussian process and tangent kernel."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from solvers import Equilibrium, Picard, Solver, solve

from .activations import Activation, ReLU

EXACT = Picard(rtol=1e-13, max_steps=2000)
ANTIPODAL = 1e-9
ROOM = 2**21
"""Numbers of a block of rows, of which a solve holds about 30: 500 MiB."""


class KernelWarning(UserWarning):
    """A kernel is singular, or a network need not have one equilibrium."""


@dataclass(frozen=True)
class DEQKernel:
    """The kernels of an infinitely wide DEQ f = V h*, h* = phi(W h* + U x), without biases:

        K* = sigma_w^2 E_{u ~ N(0, K*)}[phi(u) phi(u)^T] + sigma_u^2 X X^T / n_in,
        nngp = sigma_v^2 E_{K*}[phi phi^T],
        ntk = sigma_v^2 (E phi phi^T + K* o E phi' phi'^T / (1 - sigma_w^2 E phi' phi'^T)),

    W ~ N(0, sigma_w^2 / n), U ~ N(0, sigma_u^2 / n_in), V ~ N(0, sigma_v^2 / n). W is shared over
    the depth; an explicit network of `depth` layers with injection has the same limits whether its
    weights are shared or not, as layers' gradients are uncorrelated.

    Calling it returns the NNGP kernel, in double precision. The fixed point is solved by a solver
    of this library, row by row and in blocks of rows, so that it takes twice the result's memory
    and 500 MiB.

    Arguments:
        activation: phi.
        sigma_w: of W.
        sigma_u: of U.
        sigma_v: of V.
        depth: layers, or None for the equilibrium.
        solver: of the fixed point.

    Example:
        >>> DEQKernel(ReLU())(torch.eye(2)).shape
        torch.Size([2, 2])

    References:
        T. Gao, X. Huo, H. Liu, H. Gao (2023), Wide neural networks as Gaussian processes: lessons
        from deep equilibrium models. Differs in that W is not scaled to guarantee one equilibrium;
        see `check`.
    """

    activation: Activation = ReLU()
    sigma_w: float = 0.6
    sigma_u: float = 1.0
    sigma_v: float = 1.0
    depth: int | None = None
    solver: Solver[Equilibrium, Any] = EXACT

    def __post_init__(self) -> None:
        _check(self)

    def __call__(self, x1: Tensor, x2: Tensor | None = None, *, diag: bool = False) -> Tensor:
        """Return the NNGP kernel of the output, (N, M), or its diagonal, (N,).

        Arguments:
            x1: inputs, (N, n_in).
            x2: others, (M, n_in); x1 by default.
            diag: return k(x1_i, x2_i) alone.
        """
        return self._blocks(x1, x2, diag, lambda k, image, *_: self.sigma_v**2 * image)

    def preactivation(self, x1: Tensor, x2: Tensor | None = None, *, diag: bool = False) -> Tensor:
        """Return K*, the covariance of W h* + U x."""
        return self._blocks(x1, x2, diag, lambda k, *_: k)

    def recurrent(self, x1: Tensor, x2: Tensor | None = None, *, diag: bool = False) -> Tensor:
        """Return sigma_w^2 E phi phi^T at K*, the covariance of W h*: the paper's Sigma*."""
        return self._blocks(x1, x2, diag, lambda k, image, *_: self.sigma_w**2 * image)

    def ntk(self, x1: Tensor, x2: Tensor | None = None, *, diag: bool = False) -> Tensor:
        """Return the tangent kernel of the output, (N, M), or its diagonal.

        Raises:
            ValueError: sigma_w^2 E phi' phi' is not below 1, so that the equilibrium has none.
        """
        return self._blocks(x1, x2, diag, self._tangent)

    def check(self, x: Tensor) -> None:
        """Warn where what this kernel says of networks may not hold.

        A kernel of an odd activation is singular at x and -x, and at 0. And where
        sigma_w^2 E phi'^2 >= 1 the iteration of a wide network does not contract on average, so
        that it need not have one equilibrium. (2 sigma_w sup |phi'| < 1, which implies one with
        high probability, is not needed.)
        """
        if self.activation.odd and len(x):
            x = _inputs(x)
            apart = torch.cdist(x, -x, compute_mode="donot_use_mm_for_euclid_dist")
            if bool((apart <= ANTIPODAL * x.norm(dim=1)).any()):
                warnings.warn(
                    "two inputs are antipodal, or one is 0, and the activation is odd: the kernel "
                    "is singular.",
                    KernelWarning,
                    stacklevel=2,
                )
        _, _, slope, _ = self._moments(x, None, True)
        gain = float((self.sigma_w**2 * slope).amax()) if len(x) else 0.0
        if gain >= 1:
            warnings.warn(
                f"sigma_w^2 E phi'^2 is {gain:.3g}, not below 1: a wide network need not have one "
                "equilibrium. Take a smaller sigma_w.",
                KernelWarning,
                stacklevel=2,
            )

    def _blocks(
        self, x1: Tensor, x2: Tensor | None, diag: bool, read: Callable[..., Tensor]
    ) -> Tensor:
        """Return what is read of the moments, a block of rows at a time: see `ROOM`."""
        x1 = _inputs(x1)
        x2 = x1 if x2 is None else _inputs(x2)
        if diag:
            return read(*self._moments(x1, x2, True))
        blocks = torch.split(x1, max(1, ROOM // max(1, len(x2))))
        return torch.cat([read(*self._moments(block, x2, False)) for block in blocks])

    def _tangent(self, k: Tensor, image: Tensor, slope: Tensor, before: Tensor) -> Tensor:
        if self.depth is None:
            gain = self.sigma_w**2 * slope
            if bool((gain >= 1).any()):
                raise ValueError(
                    f"sigma_w^2 E phi'^2 is {float(gain.amax()):.3g}, not below 1, and the tangent "
                    "kernel of the equilibrium diverges. Take a smaller sigma_w, or a depth."
                )
            before = gain * k / (1 - gain)
        return self.sigma_v**2 * (image + slope * (k + before))

    def _moments(
        self, x1: Tensor, x2: Tensor | None, diag: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return K, E phi phi, E phi' phi' and, for layers, the tangent kernel that reaches K."""
        given = _covariance(x1, x2, diag, self.sigma_u)
        if self.depth is None:
            k, q1, q2 = self._equilibrium(*given)
            before = torch.zeros_like(k)
        else:
            k, q1, q2, before = _layers(self, *given, injected=True)
        phi = self.activation
        moments = k, phi.dual(q1, q2, k), phi.dual_slope(q1, q2, k), before
        return tuple(t[:, 0] for t in moments) if diag else moments  # type: ignore[return-value]

    def _equilibrium(self, k0: Tensor, p1: Tensor, p2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return K* and its variances: these first, as they do not depend on the others."""
        dual, gain = self.activation.dual, self.sigma_w**2
        q1, q2 = (
            self._solved(lambda q, p: gain * dual(q, q, q) + p, p.view(-1, 1), p.view(-1, 1))
            for p in (p1, p2)
        )
        q2 = q2.view(p2.shape)
        # At full correlation K is the variance, also where other correlations draw away from it.
        start = k0 * (q1 * q2).sqrt() / (p1 * p2).sqrt().clamp_min(1e-300)
        if len(p2) == len(k0):

            def step(k: Tensor, k0: Tensor, q1: Tensor, q2: Tensor) -> Tensor:
                return gain * dual(q1, q2, k) + k0

            return self._solved(step, start, k0, q1, q2), q1, q2

        def block(k: Tensor, k0: Tensor, q1: Tensor) -> Tensor:
            return gain * dual(q1, q2, k) + k0

        return self._solved(block, start, k0, q1), q1, q2

    def _solved(self, step: Any, start: Tensor, *condition: Tensor) -> Tensor:
        if start.numel() == 0:
            return start
        problem = Equilibrium(step, condition, rowwise=True)
        return solve(problem, self.solver, start).check().value


@dataclass(frozen=True)
class MLPKernel:
    """The kernels of an infinitely wide plain network of `depth` hidden layers, without injection:

        K_1 = sigma_u^2 X X^T / n_in,   K_{l+1} = sigma_w^2 E_{K_l}[phi phi^T].

    As the depth grows they degenerate, where those of `DEQKernel` have a limit.

    Arguments:
        activation: as in `DEQKernel`.
        sigma_w: as in `DEQKernel`.
        sigma_u: as in `DEQKernel`.
        sigma_v: as in `DEQKernel`.
        depth: hidden layers.
    """

    activation: Activation = ReLU()
    sigma_w: float = 1.0
    sigma_u: float = 1.0
    sigma_v: float = 1.0
    depth: int = 1

    def __post_init__(self) -> None:
        _check(self)

    def __call__(self, x1: Tensor, x2: Tensor | None = None, *, diag: bool = False) -> Tensor:
        """Return the NNGP kernel of the output, (N, M), or its diagonal."""
        return self._moments(x1, x2, diag)[0]

    def ntk(self, x1: Tensor, x2: Tensor | None = None, *, diag: bool = False) -> Tensor:
        """Return the tangent kernel of the output."""
        return self._moments(x1, x2, diag)[1]

    def _moments(self, x1: Tensor, x2: Tensor | None, diag: bool) -> tuple[Tensor, Tensor]:
        given = _covariance(x1, x2, diag, self.sigma_u)
        k, q1, q2, before = _layers(self, *given, injected=False)
        image = self.sigma_v**2 * self.activation.dual(q1, q2, k)
        slope = self.sigma_v**2 * self.activation.dual_slope(q1, q2, k)
        both = image, image + slope * (k + before)
        return (both[0][:, 0], both[1][:, 0]) if diag else both


def _check(kernel: DEQKernel | MLPKernel) -> None:
    for name in ("sigma_w", "sigma_u", "sigma_v"):
        if not 0 <= getattr(kernel, name) < float("inf"):
            raise ValueError(f"{name} must be 0 or more; got {getattr(kernel, name)}.")
    if kernel.depth is not None and kernel.depth < 1:
        raise ValueError(f"depth must be at least 1; got {kernel.depth}.")


def _layers(
    kernel: DEQKernel | MLPKernel, k0: Tensor, p1: Tensor, p2: Tensor, *, injected: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return K and the variances of the last layer, and the tangent kernel T that reaches K:

    T_1 = 0,   T_{l+1} = sigma_w^2 E_{K_l}[phi' phi'] o (K_l + T_l).
    """
    phi, gain = kernel.activation, kernel.sigma_w**2
    k, q1, q2 = k0, p1, p2
    before = torch.zeros_like(k)
    for _ in range((kernel.depth or 1) - 1):
        before = gain * phi.dual_slope(q1, q2, k) * (k + before)
        k, q1, q2 = (
            gain * phi.dual(*of) + (given if injected else 0)
            for of, given in (((q1, q2, k), k0), ((q1, q1, q1), p1), ((q2, q2, q2), p2))
        )
    return k, q1, q2, before


def deq_nngp(
    x1: Tensor, x2: Tensor | None = None, *, diag: bool = False, **settings: Any
) -> Tensor:
    """Return the NNGP kernel of a DEQ, see `DEQKernel` for the settings.

    Arguments:
        x1: inputs, (N, d).
        x2: others, (M, d); None stands for x1.
        diag: return the diagonal alone, (N,); x2 has the size of x1.
    """
    return DEQKernel(**settings)(x1, x2, diag=diag)


def deq_ntk(x1: Tensor, x2: Tensor | None = None, *, diag: bool = False, **settings: Any) -> Tensor:
    """Return the tangent kernel of a DEQ, see `DEQKernel` for the settings.

    Arguments:
        x1: inputs, (N, d).
        x2: others, (M, d); None stands for x1.
        diag: return the diagonal alone, (N,); x2 has the size of x1.
    """
    return DEQKernel(**settings).ntk(x1, x2, diag=diag)


def least_eigenvalue(kernel: Tensor) -> float:
    """Return the least eigenvalue of a symmetric kernel matrix, in double precision.

    Arguments:
        kernel: (N, N).
    """
    return float(torch.linalg.eigvalsh(kernel.double())[0])


def _covariance(
    x1: Tensor, x2: Tensor | None, diag: bool, sigma_u: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the covariance of U x, (N, M), and its variances, (N, 1) and (1, M).

    All are (N, 1) where the diagonal alone is wanted.
    """
    x1 = _inputs(x1)
    x2 = x1 if x2 is None else _inputs(x2)
    if x1.shape[1] != x2.shape[1] or (diag and len(x1) != len(x2)):
        raise ValueError(
            f"inputs must fit each other; got {tuple(x1.shape)} and {tuple(x2.shape)}."
        )
    scale = sigma_u**2 / x1.shape[1]
    p1, p2 = (scale * x.square().sum(1, keepdim=True) for x in (x1, x2))
    if diag:
        return scale * (x1 * x2).sum(1, keepdim=True), p1, p2
    return scale * (x1 @ x2.mT), p1, p2.mT


def _inputs(x: Tensor) -> Tensor:
    if x.dim() != 2 or not x.is_floating_point() or x.shape[1] == 0:
        raise ValueError(f"inputs must be floats (N, n_in); got {x.dtype}, {tuple(x.shape)}.")
    if not bool(x.isfinite().all()):
        raise ValueError("inputs must be finite.")
    if x.requires_grad and torch.is_grad_enabled():
        raise ValueError("a kernel has no gradient in its inputs: detach() them.")
    return x.double()
