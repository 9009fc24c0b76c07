"""torchdeq's losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from solvers.norms import divisor, expand, norm

from ..diagnosis.spectrum import growth


def jac_reg(f0: Tensor, z0: Tensor, vecs: int = 1, create_graph: bool = True) -> Tensor:
    """Estimate ||df/dz||_F^2 per entry of the state, as `regularization.jacobian_penalty` does.

    Arguments:
        f0: f(z0), with its graph.
        z0: the state, (B, ...), that requires a gradient.
        vecs: random vectors, by default 1.
        create_graph: so that it can be trained on.
    """
    total = f0.new_zeros(())
    for _ in range(vecs):
        (pulled,) = torch.autograd.grad(
            f0, z0, torch.randn_like(f0), retain_graph=True, create_graph=create_graph
        )
        total = total + pulled.square().mean()
    mean: Tensor = total / vecs
    return mean


def power_method(f0: Tensor, z0: Tensor, n_iters: int = 100) -> tuple[Tensor, Tensor]:
    """Return a vector of df/dz's leading left space, (B, ...), and the spectral radius, (B,).

    torchdeq's is the Rayleigh quotient of the last vector, which is 0 for a rotation; this is the
    rate at which products grow.

    Arguments:
        f0: f(z0), with its graph.
        z0: the state, (B, ...), that requires a gradient.
        n_iters: products.
    """
    last = torch.randn_like(f0)

    def pull(v: Tensor) -> Tensor:
        nonlocal last
        (out,) = torch.autograd.grad(f0, z0, v, retain_graph=True)
        last = out
        return out

    rate = growth(pull, last, n_iters)
    return last / divisor(expand(norm(last), last)), rate.to(f0.dtype)


def _exponential(n: int, k: int, gamma: float = 0.8) -> float:
    return float(gamma ** (n - k - 1))


def _linear(n: int, k: int, gamma: float = 0.9, bias: float = 0.0) -> float:
    return 1 - (n - k - 1) / n * gamma + bias


def _constant(n: int, k: int, c: float = 1.0) -> float:
    return c


WEIGHTS: dict[str, Callable[..., float]] = {
    "exp": _exponential,
    "linear": _linear,
    "const": _constant,
}


def fp_correction(
    crit: Callable[..., Tensor],
    args: Sequence[Any],
    weight_func: str = "exp",
    return_loss_values: bool = False,
    **kwargs: float,
) -> Any:
    """Add up a loss over the states of `n_states`, the last with weight 1.

    Arguments:
        crit: the loss of one state, a number or of any shape, as one a token is.
        args: its arguments; lists are gone through, anything else is given each time.
        weight_func: "exp" (gamma^(n - k - 1)), "linear" or "const".
        return_loss_values: return the values of each, too.
        kwargs: of the weights: gamma, bias or c.
    """
    if weight_func not in WEIGHTS:
        raise ValueError(f"weight_func must be one of {', '.join(WEIGHTS)}; got {weight_func!r}.")
    listed = [each if isinstance(each, list | tuple) else [each] for each in args]
    count = max(map(len, listed))
    if any(len(each) not in (1, count) for each in listed):
        got = ", ".join(str(len(each)) for each in listed)
        raise ValueError(f"lists of args need one length, that of the states; got {got}.")
    losses = [crit(*(each[k % len(each)] for each in listed)) for k in range(count)]
    weights = [WEIGHTS[weight_func](count, k, **kwargs) for k in range(count)]
    total = torch.stack([w * loss for w, loss in zip(weights, losses, strict=True)]).sum(0)
    return (total, [float(loss.detach()) for loss in losses]) if return_loss_values else total
