"""Two optimisers, one for the task and one for the shared initial point, and their rates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from torch import Tensor
from torch.nn import Parameter
from torch.optim import SGD, Adam, Optimizer


def cosine(step: int, total: int, first: float, last: float) -> float:
    """Return the learning rate of a step: a function of the step, with no state to be saved.

        last + (first - last) (1 + cos(pi step / total)) / 2.

    References:
        I. Loshchilov, F. Hutter (2017), SGDR: stochastic gradient descent with warm restarts.
    """
    return last + (first - last) * (1 + math.cos(math.pi * min(step / total, 1.0))) / 2


def task_optimizer(parameters: Iterable[Parameter], lr: float) -> Optimizer:
    """Return Adam without weight decay, as in HomoODE's release."""
    return Adam(list(parameters), lr=lr)


def start_optimizer(parameters: Iterable[Parameter], lr: float) -> Optimizer:
    """Return plain SGD for the shared initial point, as in HomoODE's release."""
    return SGD(list(parameters), lr=lr)


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
