"""A model's map in modules whose Lipschitz constants `homotopy_deq.lipschitz` can prove."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..cells import ProvableCell
from ..layers import Layer
from ..lipschitz import EquilibriumNetwork, MonDEQCell
from .blocks import AffineHead, Normalize

if TYPE_CHECKING:
    from .image import ImageModel


@torch.no_grad()
def network_of(model: ImageModel) -> nn.Sequential:
    """Return `ImageModel.network`; what has no bound stays as it is, to be refused by its name."""
    layer = model.layer
    parts: dict[str, nn.Module] = {
        "normalize": normalized(model.normalize),
        "stem": _folded(model.stem),
        "layer": _equilibrium(layer),
        "head": model.head,
    }
    if isinstance(model.head, AffineHead) and isinstance(layer.cell, ProvableCell):
        weight, bias = model.head.affine(layer.cell.shape)
        parts["head"] = nn.Sequential(nn.Flatten(), _linear(weight, bias))
    copied = {name: copy.deepcopy(part).double() for name, part in parts.items()}
    return nn.Sequential(OrderedDict(copied)).train(model.training)


@torch.no_grad()
def normalized(normalize: Normalize) -> nn.Module:
    """Return (images - mean) / std as a convolution with a diagonal kernel of side 1."""
    mean, std = (t.double().flatten() for t in (normalize.mean, normalize.std))
    plain = nn.Conv2d(len(std), len(std), 1).double().to(std.device)
    plain.weight.copy_(torch.diag(1 / std)[:, :, None, None])
    assert plain.bias is not None
    plain.bias.copy_(-mean / std)
    return plain


def _folded(stem: nn.Module) -> nn.Module:
    """Return a stem with the norms of batches, which are affine in eval mode, in what they follow.

    A convolution and its norm have a smaller constant together than the product of both.
    """
    if type(stem) is not nn.Sequential:
        return stem
    found: list[nn.Module] = []
    for part in flat(stem):
        before = found[-1] if found else None
        if (
            type(part) is nn.BatchNorm2d
            and isinstance(before, nn.Conv2d)
            and not (part.training or before.training or part.running_mean is None)
        ):
            conv, norm = copy.deepcopy(before).double(), copy.deepcopy(part).double()
            found[-1] = fuse_conv_bn_eval(conv, norm)
        else:
            found.append(part)
    return nn.Sequential(*found)


def flat(stem: nn.Sequential) -> Iterable[nn.Module]:
    """Yield the modules of a Sequential, and of those within it, in their order."""
    for part in stem:
        yield from flat(part) if type(part) is nn.Sequential else (part,)


def _equilibrium(layer: Layer) -> nn.Module:
    """Return the map from a condition to the equilibrium, whatever path the layer takes to it."""
    if not (layer.rest_point and isinstance(layer.cell, ProvableCell)):
        return layer
    return EquilibriumNetwork(MonDEQCell.around(layer.cell))


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    plain = nn.Linear(weight.shape[1], weight.shape[0]).to(weight)
    plain.weight.copy_(weight)
    plain.bias.copy_(bias)
    return plain
