"""Regression with a kernel: the limit of training a wide network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Kernel = Callable[[Tensor, Tensor], Tensor]


class KernelRegression:
    """Predict by k(x, X) (K + ridge I)^-1 y; with a tangent kernel, also at a time of training.

    Arguments:
        kernel: k(x1, x2) -> (N, M), such as `DEQKernel()` or `DEQKernel().ntk`.
        ridge: added to the diagonal, relative to its mean.

    Raises:
        ValueError: the matrix is not positive definite; the message gives its least eigenvalue.
    """

    def __init__(self, kernel: Kernel, ridge: float = 0.0) -> None:
        if not 0 <= ridge < float("inf"):
            raise ValueError(f"ridge must be 0 or more, and finite; got {ridge}.")
        self.kernel = kernel
        self.ridge = ridge

    def fit(self, x: Tensor, y: Tensor) -> KernelRegression:
        """Factor the kernel of the training inputs.

        Arguments:
            x: (N, n_in).
            y: targets (N, K), or classes (N,) of integers, or bools, which become codes of
                mean 0: 1 - 1 / K for the class and -1 / K for the others.
        """
        self.x, self.y = x, _targets(y, len(x))
        matrix = self.kernel(x, x).double()
        matrix = matrix + self.ridge * matrix.diagonal().mean() * torch.eye(len(x)).to(matrix)
        factor, info = torch.linalg.cholesky_ex(matrix)
        if int(info):
            least = float(torch.linalg.eigvalsh(matrix)[0])
            raise ValueError(
                f"the kernel matrix of {len(x)} inputs is not positive definite: its least "
                f"eigenvalue is {least:.3g}. Drop inputs that occur twice (and, for odd "
                "activations, antipodal ones), or raise ridge."
            )
        self.matrix, self.factor = matrix, factor
        self.weights = torch.cholesky_solve(self.y, factor)
        return self

    def predict(self, x: Tensor) -> Tensor:
        """Return the predictions, (M, K), float64."""
        return self.kernel(x, self.x).double() @ self.weights

    def at(self, x: Tensor, time: float) -> Tensor:
        """Return what gradient flow from 0 predicts at a time, of the loss ||f - y||^2 / 2:

        f_t(x) = k(x, X) K^-1 (I - exp(-K t)) y.
        """
        values, vectors = torch.linalg.eigh(self.matrix)
        values = values.clamp_min(torch.finfo(values.dtype).tiny)
        share = -torch.expm1(-values * time) / values
        weights = vectors @ (share[:, None] * (vectors.mT @ self.y))
        found: Tensor = self.kernel(x, self.x).double() @ weights
        return found

    def score(self, x: Tensor, classes: Tensor) -> float:
        """Return the share of inputs whose largest prediction is their class."""
        return float((self.predict(x).argmax(1) == classes).double().mean())


def _targets(y: Tensor, samples: int) -> Tensor:
    codes = not y.is_floating_point()
    fits = y.dim() == 1 or (y.dim() == 2 and not codes)
    if not fits or y.is_complex() or not len(y) == samples > 0 or (codes and int(y.min()) < 0):
        raise ValueError(
            f"y must be targets ({samples}, K), or classes ({samples},) of integers from 0; got "
            f"{y.dtype}, {tuple(y.shape)}."
        )
    if not codes:
        return y.double().view(samples, -1)
    count = int(y.max()) + 1
    return torch.nn.functional.one_hot(y.long(), count).double() - 1 / count
