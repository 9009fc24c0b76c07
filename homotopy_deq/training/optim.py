"""Two optimisers, one for the task and one for the shared initial point, and their rates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from torch import Tensor
from torch.nn import Parameter
from torch.optim import SGD, Adam, Optimizer

from ..settings import TrainConfig


def cosine(step: int, total: int, first: float, last: float) -> float:
    """Return the learning rate of a step: a function of the step, with no state to be saved.

        last + (first - last) (1 + cos(pi step / total)) / 2.

    References:
        I. Loshchilov, F. Hutter (2017), SGDR: stochastic gradient descent with warm restarts.
    """
    return last + (first - last) * (1 + math.cos(math.pi * min(step / total, 1.0))) / 2


def triangular(step: int, total: int, first: float, last: float) -> float:
    """Return the learning rate of a step that is linear between

        0 at 0,   `first` at 2/5 of `total`,   `first` / 20 at 4/5,   `last` at the end.

    References:
        A. Araujo, A. Havens, B. Delattre, A. Allauzen, B. Hu (2023), A unified algebraic
        perspective on Lipschitz neural networks: the authors' release.
    """
    # A step takes the rate at its middle, so that the first and the last learn.
    at = min((step + 0.5) / total, 1.0)
    corners = (0.0, 0.0), (0.4, first), (0.8, max(first / 20, last)), (1.0, last)
    for (left, low), (right, high) in zip(corners, corners[1:], strict=False):
        if at <= right:
            return low + (high - low) * (at - left) / (right - left)
    return last


SCHEDULES: Mapping[str, Callable[[int, int, float, float], float]] = {
    "cosine": cosine,
    "triangular": triangular,
}


def task_optimizer(
    parameters: Iterable[Parameter], lr: float, betas: tuple[float, float] = (0.9, 0.999)
) -> Optimizer:
    """Return Adam without weight decay, as in HomoODE's release."""
    return Adam(list(parameters), lr=lr, betas=betas)


def start_optimizer(parameters: Iterable[Parameter], lr: float) -> Optimizer:
    """Return plain SGD for the shared initial point, as in HomoODE's release."""
    return SGD(list(parameters), lr=lr)


RESTING = 0.2, 1  # rate and frequency of a start's steps towards equilibria, which do not move
# The release's 0.02 of a mean over 64 channels, every 20 steps. Without a rest point z1 - z0 keeps
# its size, so that a start that follows runs away: at (0.2, 1) HomoODE as published reached 64% on
# CIFAR-10 where its peers reached 76 to 79 (experiments/results/cifar10.json).
FLOWING = 3e-4, 20


def start_rates(config: TrainConfig, rests: bool) -> tuple[float, int]:
    """Return the start's first learning rate and the steps between two of its own.

    Arguments:
        config: says them, or leaves them to us.
        rests: whether the answers are equilibria.
    """
    lr, every = RESTING if rests else FLOWING
    return (
        lr if config.start_lr is None else config.start_lr,
        every if config.start_every is None else config.start_every,
    )


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Give every parameter group the learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def state_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """Return an optimiser's state as {"3.exp_avg": tensor}: parameter 3's running mean."""
    return {
        f"{index}.{name}": value
        for index, entries in optimizer.state_dict()["state"].items()
        for name, value in entries.items()
        if isinstance(value, Tensor)
    }


def load_state(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put what `state_tensors` returned back in an optimiser of the same parameters.

    Raises:
        ValueError: these are not what it returned for such parameters.
    """
    shapes = [p.shape for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        known = index.isdecimal() and int(index) < len(shapes)
        if not known or value.shape not in ((), shapes[int(index)]):
            raise ValueError(f"the optimiser has no state {key} of shape {tuple(value.shape)}")
        state.setdefault(int(index), {})[name] = value
    names = {name for entries in state.values() for name in entries}
    for parameter, entries in state.items():
        if lacking := names - entries.keys():
            raise ValueError(f"the optimiser's state lacks {parameter}.{min(lacking)}")
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
