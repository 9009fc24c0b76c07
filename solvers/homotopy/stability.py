"""Leading eigenvalues of h_z: which roots of a branch attract the flow z' = h(z) - z."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..jacobian import Linearization
from ..linear import EIGEN
from ..problem import Equilibrium


@torch.no_grad()
def leading_eigenvalues(problem: Equilibrium, z: Tensor, count: int) -> Tensor:
    """Return the eigenvalues of the Jacobian at z with the largest real parts, complex128 (k,).

    Arnoldi's iteration on Jacobian products (ARPACK, on the CPU), or the dense Jacobian where z
    is small.

    Arguments:
        problem: the equation of one sample.
        z: (1, ...).
        count: eigenvalues wanted; fewer are returned where z has fewer dimensions.

    References:
        R. Lehoucq, D. Sorensen, C. Yang (1998), ARPACK users' guide.
    """
    n = z[0].numel()
    push = Linearization(problem, z)
    if n <= EIGEN:
        values: Tensor = torch.linalg.eigvals(push.matrix()[0].double().cpu())
        return values[values.real.argsort(descending=True)[:count]]
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigs

    def product(v: np.ndarray) -> np.ndarray:
        vector = torch.from_numpy(np.ascontiguousarray(v.reshape(-1))).to(z)
        # I + J instead of J: ARPACK refuses an operator that maps its start to 0.
        image = vector + push(vector.view_as(z)).flatten()
        return np.asarray(image.double().cpu().numpy())

    make: Any = LinearOperator  # its __new__ hides its arguments from type checkers
    operator = make((n, n), matvec=product, dtype=np.float64)
    v0 = np.ones(n)  # ARPACK's own start is random
    settings: Any = {"which": "LR", "return_eigenvectors": False, "tol": 1e-8}
    found: Any
    try:
        found = eigs(operator, k=min(count, n - 2), v0=v0, **settings)
    except ArpackNoConvergence as error:
        found = error.eigenvalues
    found = np.concatenate([found - 1, np.full(max(count - len(found), 0), np.nan)])
    order = np.argsort(-found.real)
    return torch.from_numpy(found[order][:count])
