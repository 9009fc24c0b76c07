"""Penalties that keep an equilibrium well behaved while its cell is trained."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from solvers.guard import Guard
from solvers.norms import relative
from solvers.twice import by_formula

Map = Callable[..., Tensor]


def jacobian_penalty(
    map: Map,
    z: Tensor,
    *condition: Tensor,
    samples: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Estimate the squared Frobenius norm of J = df/dz at z, per dimension of the state:

        ||J||_F^2 / n = E ||J^T v||^2 / n,   v of independent random signs.

    It bounds the mean squared eigenvalue of J, so keeping it small keeps f contractive on average
    and every solver quick. Differentiable in the parameters and in the condition; and in z if z
    has a graph (`Solution.value` has one under a gradient rule; detach it to leave it out).

    Arguments:
        map: f(z, *condition), such as a cell.
        z: where J is taken, (B, ...), usually the answer of a solve.
        condition: what f receives beside z, as in the solve (with the same dropout mask).
        samples: random vectors a sample. The estimate is unbiased with one.
        generator: random numbers, on z's device.

    Returns:
        The mean over the batch, a 0-d tensor.

    References:
        M. F. Hutchinson (1989), A stochastic estimator of the trace of the influence matrix.
        S. Bai, V. Koltun, J. Z. Kolter (2021), Stabilizing equilibrium models by Jacobian
        regularization.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1; got {samples}.")
    watched = torch.is_grad_enabled()
    with torch.enable_grad():
        at = z if z.requires_grad else z.detach().requires_grad_()
        image = by_formula(Guard(map))(at, *condition)
        total = image.new_zeros(())
        for _ in range(samples):
            coin = torch.rand(image.shape, generator=generator, device=image.device) < 0.5
            sign = torch.where(coin, 1.0, -1.0).to(image.dtype)
            (pulled,) = torch.autograd.grad(image, at, sign, create_graph=watched)
            total = total + pulled.square().mean()
    mean: Tensor = (total if watched else total.detach()) / samples
    return mean


def relative_residual(map: Map, z: Tensor, *condition: Tensor) -> Tensor:
    """Return ||f(z) - z|| / ||f(z)|| of each sample, (B,): how far z is from an equilibrium.

    The answer of a flow carries no such number; this says how near z(t1) is to the root.
    """
    image = Guard(map)(z, *condition).to(z.dtype)
    return relative(image - z, image)


def residual_penalty(map: Map, z: Tensor, *condition: Tensor) -> Tensor:
    """Return the mean squared relative residual, mean_i ||f(z_i) - z_i||^2 / ||f(z_i)||^2.

    Added to the loss of a flow with a rest point, it draws z(t1) to the equilibrium, so that a
    fixed-point solver can stand in for the flow. Arguments as in `jacobian_penalty`.
    """
    return relative_residual(map, z, *condition).square().mean()
