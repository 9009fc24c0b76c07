"""The DEQ kernel where people use kernels: scikit-learn and GPyTorch."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch
from sklearn.gaussian_process.kernels import Kernel

from .kernels import DEQKernel


class SklearnKernel(Kernel):  # type: ignore[misc]
    """A `DEQKernel` for scikit-learn's `GaussianProcessRegressor` and `KernelRidge`.

    Its settings are fixed: the regressor's optimiser has nothing to tune in it, but may scale it,
    as in `ConstantKernel() * SklearnKernel(DEQKernel()) + WhiteKernel()`.

    Arguments:
        kernel: the kernel.
        tangent: take its tangent kernel.
    """

    def __init__(self, kernel: DEQKernel = DEQKernel(), tangent: bool = False) -> None:  # noqa: B008
        self.kernel = kernel
        self.tangent = tangent

    def __call__(self, X: Any, Y: Any = None, eval_gradient: bool = False) -> Any:  # noqa: N803
        """Return k(X, Y), and with eval_gradient its gradient in no setting, (N, M, 0)."""
        x = torch.as_tensor(np.atleast_2d(X), dtype=torch.float64)
        y = None if Y is None else torch.as_tensor(np.atleast_2d(Y), dtype=torch.float64)
        found = (self.kernel.ntk if self.tangent else self.kernel)(x, y).numpy()
        return (found, np.empty((*found.shape, 0))) if eval_gradient else found

    def diag(self, X: Any) -> Any:  # noqa: N803
        """Return k(x, x) of each row."""
        x = torch.as_tensor(np.atleast_2d(X), dtype=torch.float64)
        return (self.kernel.ntk if self.tangent else self.kernel)(x, diag=True).numpy()

    def is_stationary(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Say no: it depends on more than the difference of its inputs."""
        return False


def gpytorch_kernel(kernel: DEQKernel) -> Any:
    """Return a `gpytorch.kernels.Kernel` with the values of a `DEQKernel`.

    Raises:
        ImportError: gpytorch is not installed.
    """
    try:
        gpytorch: Any = importlib.import_module("gpytorch")
    except ImportError as error:
        raise ImportError("gpytorch_kernel needs gpytorch: pip install gpytorch.") from error

    class _Kernel(gpytorch.kernels.Kernel):  # type: ignore[misc]
        has_lengthscale = False

        def forward(self, x1: Any, x2: Any, diag: bool = False, **params: Any) -> Any:
            return kernel(x1, x2, diag=diag).to(x1)

    return _Kernel()
