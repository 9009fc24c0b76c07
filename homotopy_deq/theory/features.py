"""The unconstrained-features model: what an ideal network with a DEQ on top converges to."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class UnconstrainedFeatures:
    """Minimise the cross entropy of free features h, one a class, weighted by the classes' sizes:

        sum_k n_k CE(W G h_k, k) / sum_k n_k + (decay / 2K) (||W||^2 + sum_k ||h_k||^2),

    G the gain of a linear DEQ between them, 1 / (1 - rho) for W_deq = rho I, and 1 of an explicit
    network.

    Arguments:
        sizes: n_k, samples of each class; only their ratios matter.
        dimension: p of the features, at least K.
        decay: above 0.
        gain: G >= 1.

    References:
        C. Fang, H. He, Q. Long, W. Su (2021), Exploring deep neural networks via layer-peeled
        model: minority collapse in imbalanced training.
        H. Sun, Y. Shi (2024).
    """

    sizes: tuple[float, ...]
    dimension: int = 8
    decay: float = 5e-3
    gain: float = 1.0

    def __post_init__(self) -> None:
        if len(self.sizes) < 2 or min(self.sizes) <= 0:
            raise ValueError(f"sizes must be at least two numbers above 0; got {self.sizes}.")
        if not (self.decay > 0 and self.gain >= 1 and self.dimension >= len(self.sizes)):
            raise ValueError(
                "decay must be above 0, gain at least 1 and dimension at least the number of "
                f"classes; got {self.decay}, {self.gain} and {self.dimension}."
            )

    def loss(self, w: Tensor, h: Tensor) -> Tensor:
        """Return the objective at W (K, p) and h (K, p)."""
        k = len(self.sizes)
        share = torch.tensor(self.sizes, dtype=w.dtype)
        share = share / share.sum()
        entropy = -torch.log_softmax(self.gain * h @ w.mT, 1).diagonal()
        size = w.square().sum() + h.square().sum()
        return (share * entropy).sum() + self.decay / (2 * k) * size

    def solve(self, seed: int = 0, starts: int = 3) -> tuple[Tensor, Tensor, float]:
        """Return W (K, p), h (K, p) and the objective: the best of some local searches (BFGS)."""
        from scipy import optimize
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        k, p = len(self.sizes), self.dimension

        def value(flat: np.ndarray) -> tuple[float, np.ndarray]:
            at = torch.from_numpy(flat).view(2, k, p).requires_grad_()
            loss = self.loss(at[0], at[1])
            (slope,) = torch.autograd.grad(loss, at)
            return float(loss.detach()), slope.flatten().numpy()

        best = None
        for start in range(starts):
            generator = torch.Generator().manual_seed(seed + start)
            z0 = torch.randn(2 * k * p, generator=generator, dtype=torch.float64).numpy()
            with threadpool_limits(1):  # on so few numbers threads wait for one another
                found = optimize.minimize(
                    value, z0, jac=True, method="L-BFGS-B",
                    options={"maxiter": 20_000, "maxfun": 50_000, "ftol": 1e-16, "gtol": 1e-10,
                             "maxcor": 50},
                )  # fmt: skip
            if best is None or found.fun < best.fun:
                best = found
        assert best is not None
        w, h = torch.from_numpy(best.x).view(2, k, p)
        return w, h, float(best.fun)

    def balanced_optimum(self) -> tuple[float, float]:
        """Return s = ||w_k||^2 = ||h_k||^2 and the objective at the simplex, for equal classes:

            exp(-c s) (K - 1) (c - decay) = decay,   c = G K / (K - 1),

        the attained lower bound of the loss: the cross entropy log(1 + (K - 1) exp(-c s)) and the
        decay, decay s.

        Raises:
            ValueError: the classes differ in size, or decay is so large that 0 is the optimum.
        """
        k = len(self.sizes)
        if len(set(self.sizes)) != 1:
            raise ValueError("the classes must be of one size.")
        c = self.gain * k / (k - 1)
        inner = (k - 1) * (c - self.decay) / self.decay
        if not inner > 1:
            raise ValueError("at this decay the optimum is 0.")
        s = math.log(inner) / c
        return s, math.log1p((k - 1) * math.exp(-c * s)) + self.decay * s
