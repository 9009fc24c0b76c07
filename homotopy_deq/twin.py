"""The same weights in a module of its own."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def twin(module: M) -> M:
    """Return a module with the parameters and buffers of this one, and a mode of its own.

    `train` and `eval` of either leave the other, and all modules within it, as they are. What
    else a module keeps in attributes is shared where it is no module.

    Arguments:
        module: any.
    """
    return _twin(module, {})


def held(module: M) -> M:
    """Return the module itself, or a twin that keeps the tensors that stand in for its parameters.

    `torch.func.functional_call` puts tensors in the place of parameters while a call lasts. A
    backward pass that evaluates the module again comes later, and needs them still.

    Arguments:
        module: any.
    """
    parameters = (p for each in module.modules() for p in each._parameters.values())
    if all(p is None or isinstance(p, nn.Parameter) for p in parameters):
        return module
    other = twin(module)
    for each in other.modules():
        for name in ("_parameters", "_buffers"):
            each.__dict__[name] = dict(each.__dict__[name])
    return other


def _twin(module: M, made: dict[nn.Module, nn.Module]) -> M:
    if module in made:
        return made[module]  # type: ignore[return-value]
    # Not by copy.copy, which parametrized modules refuse, nor by setattr, which a compiled module
    # passes on to the one that it wraps.
    made[module] = other = type(module).__new__(type(module))
    other.__dict__.update(module.__dict__)
    other.__dict__["_modules"] = {
        name: None if child is None else _twin(child, made)
        for name, child in module._modules.items()
    }
    if hasattr(module, "_orig_mod"):  # a compiled module binds what it calls when it is restored
        made[module] = other = copy.copy(other)
    return other
