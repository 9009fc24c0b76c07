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
from ..layers import FlowLayer, ImplicitLayer, Layer
from ..lipschitz import EquilibriumNetwork, MonDEQCell
from ..lipschitz.network import altered, check_unaltered
from .blocks import AffineHead, Normalize

if TYPE_CHECKING:
    from .image import ImageModel

READS = ("forward", "features")
"""What an affine head's `affine` speaks of."""
PLAIN = ImplicitLayer, FlowLayer
"""Layers whose equation is their cell's; a subclass may have another."""


@torch.no_grad()
def network_of(model: ImageModel) -> nn.Sequential:
    """Return `ImageModel.network`; what has no bound stays as it is, to be refused by its name."""
    check_own(model)
    layer = model.layer
    parts: dict[str, nn.Module] = {
        "normalize": normalized(model.normalize),
        "stem": _folded(model.stem),
        "layer": _equilibrium(layer),
        "head": model.head,
    }
    own = departs(model.head, "affine", READS)
    if isinstance(model.head, AffineHead) and not own and isinstance(layer.cell, ProvableCell):
        weight, bias = model.head.affine(layer.cell.shape)
        parts["head"] = nn.Sequential(nn.Flatten(), _linear(weight, bias))
    return sequential(parts)


def sequential(parts: dict[str, nn.Module]) -> nn.Sequential:
    """Return copies of the parts in double precision, each in the mode that it is in."""
    copied = {name: copy.deepcopy(part).double() for name, part in parts.items()}
    return nn.Sequential(OrderedDict(copied))


def check_own(model: ImageModel) -> None:
    """Raise ValueError unless the model's logits are what its parts make of images, in turn."""
    check_unaltered(model)
    if departs(model, "network", ("forward", "solve", "condition")):
        name = type(model).__name__
        raise ValueError(
            f"{name} has a forward, solve or condition of its own, which may not be the map of its "
            "parts: give it a network() that returns its map."
        )


def touched(part: nn.Module) -> bool:
    """Whether something is `altered` in a part, at any depth."""
    return any(map(altered, part.modules()))


def answers_by_its_parts(model: ImageModel) -> bool:
    """Whether a call returns the logits of `solve`, and these are what the parts make in turn."""
    return not (altered(model) or departs(model, "linear_head", ("forward", "solve")))


def departs(part: nn.Module, promise: str, methods: Iterable[str]) -> bool:
    """Whether a subclass has other methods than the class whose `promise` speaks of them."""
    for kind in type(part).__mro__:
        if promise in vars(kind):
            return False
        if any(name in vars(kind) for name in methods):
            return True
    return True


@torch.no_grad()
def normalized(normalize: nn.Module) -> nn.Module:
    """Return (images - mean) / std as a convolution with a diagonal kernel of side 1."""
    if type(normalize) is not Normalize:
        return normalize
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
            and type(before) is nn.Conv2d
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
    cell = provable(layer)
    if cell is None or not layer.rest_point:
        return layer
    network = EquilibriumNetwork(MonDEQCell.around(cell)).eval()
    drops = getattr(cell, "dropout", 0.0) if layer.cell.training else 0.0
    return nn.Sequential(nn.Dropout(drops), network) if drops else network


def provable(layer: Layer) -> ProvableCell | None:
    """Return the cell of a layer if the layer's equation is that of the cell's W, and no other."""
    cell = layer.cell
    if not (type(layer) in PLAIN and isinstance(cell, ProvableCell)) or touched(layer):
        return None
    own = departs(cell, "weight", ("forward", "condition", "equation", "operator"))
    return None if own else cell


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    plain = nn.Linear(weight.shape[1], weight.shape[0]).to(weight)
    plain.weight.copy_(weight)
    plain.bias.copy_(bias)
    return plain
