"""Layers and stacks as plain modules of torch.nn, for tools that know nothing of this package."""

from __future__ import annotations

import copy
from itertools import chain

import torch
from torch import Tensor, nn

from .blocks import Grid, kernel_of
from .form import Form
from .layers import BoundedLayer, Sandwich
from .lben import EquilibriumNetwork
from .linear import NormalizedLinear


def to_vanilla(network: nn.Module) -> nn.Module:
    """Return modules of `torch.nn` with the outputs of a network, to rounding.

    A layer becomes two linear maps around a ReLU: for x - K^T (t * relu(K x + b)), x is carried as
    relu(x) - relu(-x). Circular convolutions become `Conv2d` with circular padding, those of
    `Sandwich` with kernels of the whole grid. A `Sequential` stays one, and what is of torch.nn is
    copied.

    Arguments:
        network: an explicit layer of this package, or a `torch.nn.Sequential` of them and others.

    Raises:
        ValueError: it holds an equilibrium, which no finite stack of torch.nn computes, or another
            module that is not known here.
    """
    if isinstance(network, nn.Sequential):
        return nn.Sequential(*map(to_vanilla, network)).train(network.training)
    if isinstance(network, NormalizedLinear):
        last = nn.Linear(network.inputs, network.outputs).to(network.weight)
        with torch.no_grad():
            last.weight.copy_(network.computed()[0])
            last.bias.copy_(network.bias)
        return last
    if isinstance(network, BoundedLayer):
        whole = isinstance(network, Sandwich)
        like = next(chain(network.parameters(), network.buffers()))
        return _plain(network.form(), None if whole else network.kernel).to(like)
    parts = list(network.modules())
    if all(type(part).__module__.startswith("torch.nn.") for part in parts):
        return copy.deepcopy(network)
    reason = "it is neither of torch.nn nor an explicit layer of this package"
    if any(isinstance(part, EquilibriumNetwork) for part in parts):
        reason = "an equilibrium is solved for; take the explicit network that it was made from"
    raise ValueError(f"{type(network).__name__} has no equal in torch.nn: {reason}.")


def _plain(form: Form, kernel: int | None) -> nn.Sequential:
    """Return modules with the map of a form with W = 0:

        [V, D, -D] relu([U; I; -I] x + [b; 0; 0]) + c,

    without the identities where D = 0; D x + c where there are no neurons.

    Arguments:
        form: of a layer.
        kernel: side of its kernels; None where they cover the grid.
    """
    u, v, b = form.u, form.v, form.b
    if not len(b):
        return nn.Sequential(_module(form.d, form.c, kernel, form.grid))
    if bool(form.d.any()):
        eye = torch.eye(u.shape[2], dtype=u.dtype, device=u.device).expand(len(u), -1, -1)
        u = torch.cat((u, eye, -eye), 1)
        v = torch.cat((v, form.d, -form.d), 2)
        b = torch.cat((b, b.new_zeros(2 * eye.shape[-1])))
    first, last = ((_module(a, c, kernel, form.grid)) for a, c in ((u, b), (v, form.c)))
    return nn.Sequential(first, nn.ReLU(), last)


def _module(blocks: Tensor, bias: Tensor, side: int | None, grid: Grid) -> nn.Module:
    """Return a Linear, or a circular Conv2d, with blocks."""
    weight = kernel_of(blocks, grid)
    made: nn.Linear | nn.Conv2d
    if grid is None:
        made = nn.Linear(weight.shape[1], weight.shape[0]).to(weight)
    else:
        # conv2d's "same" has this many pixels before the one in place.
        sides = grid if side is None else (side, side)
        before = [(k - 1) // 2 for k in sides]
        weight = weight.roll(before, (2, 3))[:, :, : sides[0], : sides[1]]
        made = nn.Conv2d(
            weight.shape[1], weight.shape[0], sides, padding="same", padding_mode="circular"
        ).to(weight)
    with torch.no_grad():
        made.weight.copy_(weight)
        assert made.bias is not None
        made.bias.copy_(bias)
    return made.eval()
