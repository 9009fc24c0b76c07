"""Networks of bounded layers: rewritten as equilibrium networks, and their bounds checked."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..cells import FixedCell, MonotoneCell
from ..cells.bounds import SLACK, UNIT
from ..layers import ImplicitLayer
from .cells import LBENCell
from .convolution import convolution_norm
from .form import Form
from .layers import AOL, CPL, SLL, BoundedLayer, Sandwich, explicit
from .lben import LBEN, EquilibriumNetwork, MonDEQ
from .linear import Lift, affine
from .mondeq import MonDEQCell

KNOWN = (AOL, CPL, SLL, Lift, Sandwich, LBEN, MonDEQ, EquilibriumNetwork)
INNER = (ImplicitLayer, LBENCell, MonDEQCell, MonotoneCell, FixedCell)
ROUND = 1 + 16 * UNIT
OUTSIDE = {
    "MaxPool2d": "the maximum is no elementwise slope in [0, 1] of an LBEN; use AvgPool2d",
    "AdaptiveMaxPool2d": "the maximum is no elementwise slope in [0, 1] of an LBEN; use AvgPool2d",
    "MaxMin": "it sorts pairs of neurons, which no elementwise slope in [0, 1] does; use ReLU",
    "NormalizedLinear": "its rows have norm 1, which bounds no norm of all logits together; it is "
    "certified by pairs of rows, as the last layer of certify_margins",
    "Normalize": "write (x - mean) / std as a Conv2d of side 1, with 1 / std on its diagonal",
    "GroupSort": "it sorts neurons, which no elementwise slope in [0, 1] does; use ReLU",
    "BatchNorm1d": "its statistics come from the batch, or its scale is not bounded by its form",
    "BatchNorm2d": "its statistics come from the batch, or its scale is not bounded by its form",
    "GroupNorm": "it divides by a deviation that may be 0, so it has no Lipschitz constant",
    "LayerNorm": "it divides by a deviation that may be 0, so it has no Lipschitz constant",
}


@dataclass(frozen=True)
class LipschitzBound:
    """A Lipschitz constant in the 2-norm, and what proves it.

    Arguments:
        value: of the whole network, the product of its parts', rounded up.
        parts: name in the network, kind and bound of each module.
    """

    value: float
    parts: tuple[tuple[str, str, float], ...]


def certify_lipschitz(network: nn.Module) -> LipschitzBound:
    """Return a Lipschitz constant of a network that its stored weights prove.

    Nothing is taken from how a layer was made: each one's inequality (`Form`) is checked in double
    precision, and each linear map's norm is computed, rounded outward. The constant is of the map
    of the stored weights in exact arithmetic, equilibria included: a network that runs in single
    precision, or solves loosely, differs from it by its own error.

    Arguments:
        network: a `torch.nn.Sequential`, nested as it likes, of the layers of this package, Linear,
            Conv2d, ReLU, LeakyReLU, AvgPool2d, Flatten, Identity and, in eval mode, Dropout.

    Raises:
        ValueError: a module has no bound that is known; the message names it and says why.
    """
    parts = [(name, type(m).__name__, _bound(name, m)) for name, m in modules(network)]
    value = 1.0
    for *_, bound in parts:
        value *= bound * ROUND
    return LipschitzBound(value, tuple(parts))


def to_lben(network: nn.Module) -> EquilibriumNetwork | nn.Sequential:
    """Return a network of the same map as one equilibrium network, in double precision.

    Layers that follow each other on one grid become one `LBEN` whose W is block-triangular: Picard
    and `PeacemanRachford(step_size=1.0)` solve it exactly, in as many steps as it is deep and one
    to see it. Average pooling and flattening stay as they are between two of them.

    Arguments:
        network: as in `certify_lipschitz`; the modules of torch may be Linear, ReLU, AvgPool2d,
            Flatten, Identity and, in eval mode, Dropout.

    Raises:
        ValueError: a module is not of this form; the message names it and says why.
    """
    made: list[nn.Module] = []
    form: Form | None = None
    for name, module in modules(network):
        kind = type(module)
        if kind in (nn.AvgPool2d, nn.Flatten):
            _bound(name, module)
            made += [*_network(form), module]
            form = None
            continue
        if kind in (nn.Identity, nn.Dropout, nn.Dropout2d):
            _bound(name, module)
            continue
        if kind is nn.ReLU:
            if form is None:
                raise refused(name, module, "it has no layer before it on this grid")
            part = _relu(form)
        elif isinstance(module, nn.Linear) and kind is nn.Linear:
            part = _linear(module)
        elif (own := form_of(module)) is not None:
            part = own
        else:
            raise refused(name, module)
        try:
            form = part if form is None else form.then(part)
        except ValueError as error:
            raise refused(name, module, str(error)) from error
    made += _network(form)
    return made[0] if len(made) == 1 else nn.Sequential(*made)  # type: ignore[return-value]


def _network(form: Form | None) -> list[nn.Module]:
    return [] if form is None else [EquilibriumNetwork(LBENCell.of(form))]


def modules(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the name and module of each part that a network applies in turn.

    Raises:
        ValueError: see `check_unaltered`.
    """
    check_unaltered(network)
    return list(_parts("", network))


def copied_modules(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return `modules` of a copy in double precision.

    What is refused is refused before it is copied: not all that a hook leaves behind can be.
    """
    check_unaltered(network)
    return modules(copy.deepcopy(network).double())


def check_unaltered(network: nn.Module) -> None:
    """Raise ValueError where a part may return something else than its class says.

    A hook, at any depth, or a method that was put in the place of the class's could change it.
    """
    for name, part in network.named_modules():
        if altered(part):
            reason = "a forward hook, or a method that is not its class's, may change its value"
            raise refused(name or "the network", part, reason)


def altered(part: nn.Module) -> bool:
    """Whether a hook, or a method in the place of its class's, may change what a part returns."""
    every = nn.modules.module
    hooks = every._global_forward_hooks, every._global_forward_pre_hooks
    own = any(callable(getattr(type(part), name, None)) for name in vars(part))
    return own or any(map(len, (*hooks, part._forward_hooks, part._forward_pre_hooks)))


def _parts(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    if type(module) is not nn.Sequential:
        yield name or type(module).__name__, module
        return
    for key, child in module._modules.items():  # named_children() names one that comes twice once
        assert child is not None
        yield from _parts(f"{name}.{key}" if name else key, child)


def form_of(module: nn.Module) -> Form | None:
    """Return the form of a layer of this package; None of another, or of a subclass of one.

    An equilibrium network must be one to its cells, which a flow to a finite time is not.
    """
    if not (isinstance(module, BoundedLayer | EquilibriumNetwork) and type(module) in KNOWN):
        return None
    inner = [type(part) for part in module.modules() if part is not module]
    return module.form() if set(inner) <= set(INNER) else None


def _bound(name: str, module: nn.Module) -> float:
    form = form_of(module)
    if form is not None:
        try:
            return form.proved()
        except ValueError as error:
            raise refused(name, module, str(error)) from error
    find = _BOUNDS.get(type(module))
    reason = None if find is None else find(module)
    if isinstance(reason, float):
        return reason
    raise refused(name, module, reason if isinstance(reason, str) else None)


def refused(name: str, module: nn.Module, reason: str | None = None) -> ValueError:
    """Return the error that names a module and says why it cannot be certified."""
    kind = type(module).__name__
    if reason is None and callable(getattr(module, "network", None)):
        reason = "it is a whole model, whose network() gives the parts; pass that"
    reason = reason or OUTSIDE.get(kind, "its Lipschitz constant is not known here")
    return ValueError(f"{name} ({kind}) cannot be certified: {reason.rstrip('.')}.")


def norm_bound(weight: Tensor) -> float:
    """Return an upper bound of the 2-norm of matrices (..., m, n) as they are stored."""
    w = weight.detach()
    w = w if w.is_complex() else w.double()
    if not bool(w.isfinite().all()):
        return math.inf
    slack = SLACK * max(w.shape[-2:]) * UNIT * float(torch.linalg.matrix_norm(w).amax())
    return float(torch.linalg.matrix_norm(w, 2).amax()) + slack


def _linear_norm(module: nn.Module) -> float | str:
    norm = norm_bound(module.weight)  # type: ignore[arg-type]
    return norm if math.isfinite(norm) else "its weight is not finite"


def _pool_norm(module: nn.Module) -> float | str:
    assert isinstance(module, nn.AvgPool2d)
    size, stride = pair(module.kernel_size), pair(module.stride)
    if size != stride or module.padding not in (0, (0, 0)):
        return "only pooling over cells that do not overlap, without padding, is bounded here"
    if module.ceil_mode:
        return "ceil_mode averages over parts of cells"
    area = size[0] * size[1]
    return ROUND * math.sqrt(area) / abs(module.divisor_override or area)


def pair(value: object) -> tuple[int, int]:
    """Return the two numbers that a setting of a module of images stands for."""
    return (value, value) if isinstance(value, int) else tuple(value)  # type: ignore


def _leaky(module: nn.Module) -> float | str:
    slope = abs(float(module.negative_slope))  # type: ignore[arg-type]
    return max(1.0, slope) if math.isfinite(slope) else "its slope is not finite"


def _flatten(module: nn.Module) -> float | str:
    apart = int(module.start_dim) >= 1  # type: ignore[arg-type]
    return 1.0 if apart else "it may mix the samples of a batch; let it start at dimension 1"


def _dropout(module: nn.Module) -> float | str:
    return "it draws at random while training; call eval()" if module.training else 1.0


_BOUNDS: dict[type, Callable[[nn.Module], float | str]] = {
    nn.Linear: _linear_norm,
    nn.Conv2d: lambda module: convolution_norm(module),  # type: ignore[arg-type]
    nn.AvgPool2d: _pool_norm,
    nn.ReLU: lambda module: 1.0,
    nn.LeakyReLU: _leaky,
    nn.Flatten: _flatten,
    nn.Identity: lambda module: 1.0,
    nn.Dropout: _dropout,
    nn.Dropout2d: _dropout,
}


def _relu(before: Form) -> Form:
    count, n = before.v.shape[:2]
    eye = torch.eye(n, dtype=before.w.dtype, device=before.w.device).expand(count, -1, -1)
    return explicit(eye, before.c.new_zeros(n), eye, before.c.new_ones(n), before.grid)


def _linear(module: nn.Linear) -> Form:
    weight = module.weight.detach().double()
    bias = weight.new_zeros(len(weight)) if module.bias is None else module.bias.detach().double()
    return affine(weight, bias, max(norm_bound(weight), torch.finfo(weight.dtype).tiny))
