"""Interval bounds of networks with monotone equilibria, for perturbations of each entry."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..cells.bounds import SLACK, UNIT
from .blocks import convolve, spread
from .form import Form
from .layers import BoundedLayer
from .lben import EquilibriumNetwork
from .mondeq import MonDEQCell
from .network import _bound, copied_modules, form_of, pair, refused

STEPS = 10_000
SETTLED = 1e-10
"""Relative change at which the iteration ends: any box on its way holds."""
HALVINGS = 16
"""Of the range in which the largest radius is looked for."""

Product = Callable[[Tensor, Tensor], Tensor]
Step = Callable[["Box"], "Box"]


@dataclass(frozen=True)
class Box:
    """Bounds of each output over all inputs of a box.

    Arguments:
        low: (B, K).
        high: (B, K).
    """

    low: Tensor
    high: Tensor

    @property
    def size(self) -> Tensor:
        """The largest absolute value of each entry."""
        return torch.maximum(self.low.abs(), self.high.abs())

    def through(self, weight: Tensor, product: Product, offset: Tensor | None = None) -> Box:
        """Return the box of W x + offset, rounded outward.

        Arguments:
            weight: of W, one row an output.
            product: W x, given weight and x; linear in both.
            offset: added; 0 by default.
        """
        offset = weight.new_zeros(()) if offset is None else offset
        plus, minus = weight.clamp_min(0), weight.clamp_max(0)
        slack = _rounding(weight[:1].numel())
        low = product(plus, self.low) + product(minus, self.high) + offset
        high = product(plus, self.high) + product(minus, self.low) + offset
        room = slack * (product(weight.abs(), self.size) + offset.abs())
        return Box(low - room, high + room)


@dataclass(frozen=True)
class Boxed:
    """What intervals prove of a batch of images, for the map in exact arithmetic.

    Arguments:
        prediction: the class, int64 (B,).
        radius: of the box that was looked at, float64 (B,).
        margin: least difference of its logit to any other's over the box, float64 (B,): where it is
            above 0 no image of the box has another class.
    """

    prediction: Tensor
    radius: Tensor
    margin: Tensor


@torch.no_grad()
def interval_bounds(network: nn.Module, x: Tensor, radius: float | Tensor) -> Box:
    """Bound the outputs over all inputs within `radius` of x in each entry (l-infinity).

    Intervals go through a network part by part. Those of an equilibrium are

        high = phi(W+ high + W- low + h),   low = phi(W+ low + W- high + l),

    with W+, W- the positive and negative part of W and [l, h] the bounds of U x + b. The pair is
    the unique fixed point of a map that contracts for rho(|W|) < 1, found from above: the iteration
    starts at a box that the map takes into itself, and every box on the way holds, so that stopping
    early loosens the bound and cannot break it.

    Arguments:
        network: one part or a Sequential of them: `MonDEQ` of vectors or images, other layers of
            this package of vectors, and those modules of torch that `certify_lipschitz` knows.
        x: (B, ...).
        radius: of the box about x, at least 0, one number or (B,).

    Raises:
        ValueError: |W| is not proved to have a spectral radius below 1, as for an IBP-MonDEQ, whose
            I - |W| is monotone; or a part is not known, named with the reason.

    References:
        C. Wei, J. Z. Kolter (2022), Certified robustness for deep equilibrium models via interval
        bound propagation.
    """
    far = torch.as_tensor(radius, dtype=torch.float64, device=x.device)
    if not bool(((far >= 0) & far.isfinite()).all()):
        raise ValueError(f"radius must be 0 or more, and finite; got {radius}.")
    box = _around(x, far)
    for step in _steps(copied_modules(network)):
        box = step(box)
    return box


class BoxProof:
    """Prove for images an l-infinity radius within which their class is the same.

    The largest that intervals prove is looked for by halving; the answer is of the last box in
    which they do. Differences of logits are bounded as they are, not one by one.

    Arguments:
        network: as in `interval_bounds`; may end in a Linear, whose rows are then taken apart.
        largest: no larger radius is looked for.

    Raises:
        ValueError: as in `interval_bounds`, when it is made; and for images of another shape.
    """

    def __init__(self, network: nn.Module, largest: float = 1.0) -> None:
        parts = copied_modules(network)
        self.steps, self.largest = _steps(parts), largest
        last = parts[-1][1] if parts else None
        self.head = last if isinstance(last, nn.Linear) else None
        if self.head is not None:
            self.steps.pop()

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Boxed:
        """Return what is proved of images, (B, ...)."""
        low = torch.zeros(len(images), dtype=torch.float64, device=images.device)
        high = torch.full_like(low, self.largest)
        state = self._reached(images, low)
        rows, bias = self._rows(state)
        chosen = ((state.low + state.high) / 2 @ rows.mT + bias).argmax(1)
        margin = self._margins(state, chosen)
        for _ in range(HALVINGS if len(images) else 0):
            tried = (low + high) / 2
            found = self._margins(self._reached(images, tried), chosen)
            holds = found > 0
            low, high = torch.where(holds, tried, low), torch.where(holds, high, tried)
            margin = torch.where(holds, found, margin)
        return Boxed(chosen, low, margin)

    def _reached(self, images: Tensor, radius: Tensor) -> Box:
        """Return the box of what the last Linear reads, or of the logits."""
        box = _around(images, radius)
        for step in self.steps:
            box = step(box)
        if box.low.dim() != 2:
            raise ValueError(
                f"a network that ends in logits (B, K) is wanted; got {tuple(box.low.shape)}."
            )
        return box

    def _rows(self, state: Box) -> tuple[Tensor, Tensor]:
        """Return the rows and the bias of the last Linear; of none, those of the identity."""
        if self.head is None:
            return torch.eye(state.low.shape[1]).to(state.low), state.low.new_zeros(())
        rows: Tensor = self.head.weight.detach()
        bias = self.head.bias
        return rows, rows.new_zeros(()) if bias is None else bias.detach()

    def _margins(self, state: Box, chosen: Tensor) -> Tensor:
        """Return lower bounds of the least difference to the logit of another class, (B,)."""
        rows, bias = self._rows(state)
        least = state.low.new_empty(len(state.low))
        for k in set(chosen.tolist()):
            own = chosen == k
            # A difference of rows rounds once, which the room for a sum of products covers.
            shift = bias - bias[k] if bias.dim() else bias
            ahead = Box(state.low[own], state.high[own]).through(rows - rows[k], _matrix, shift)
            ahead.high[:, k] = -float("inf")
            least[own] = -ahead.high.amax(1)
        return least


def _around(x: Tensor, radius: Tensor) -> Box:
    if x.dim() < 2:
        raise ValueError(f"a batch (B, ...) is wanted; got {tuple(x.shape)}.")
    center = x.detach().double()
    far = radius.reshape(-1, *(1,) * (x.dim() - 1))
    # A sum is rounded to nearest: the next number beyond is outside.
    low, high = (torch.nextafter(center + s * far, far.new_tensor(s * math.inf)) for s in (-1, 1))
    return Box(torch.where(far == 0, center, low), torch.where(far == 0, center, high))


def _matrix(weight: Tensor, x: Tensor) -> Tensor:
    return x @ weight.mT


def _rounding(terms: int) -> float:
    """Return the share of so many products' absolute values that their sum may round by."""
    return SLACK * (terms + 4) * UNIT


def _steps(parts: Iterable[tuple[str, nn.Module]]) -> list[Step]:
    """Return what each part makes of a box; all that is refused is refused here."""
    return [_step(name, part) for name, part in parts]


def _step(name: str, part: nn.Module) -> Step:
    if isinstance(part, EquilibriumNetwork | BoundedLayer):
        return _layer(name, part)
    _bound(name, part)
    kind = type(part)
    if isinstance(part, nn.Linear | nn.Conv2d):
        weight = part.weight.detach()
        offset = weight.new_zeros(()) if part.bias is None else part.bias.detach()
        if isinstance(part, nn.Conv2d):
            convolution, offset = part, offset[..., None, None]

            def conv(weight: Tensor, x: Tensor) -> Tensor:
                found: Tensor = convolution._conv_forward(x, weight, None)
                return found

            return lambda box: box.through(weight, conv, offset)
        return lambda box: box.through(weight, _matrix, offset)
    if kind in (nn.ReLU, nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout2d):
        return lambda box: Box(part(box.low.clone()), part(box.high.clone()))
    if isinstance(part, nn.AvgPool2d) and (part.divisor_override or 1) > 0:
        pool, slack = part, _rounding(math.prod(pair(part.kernel_size)))

        def pooled(box: Box) -> Box:
            room = slack * pool(box.size)
            return Box(pool(box.low) - room, pool(box.high) + room)

        return pooled
    raise refused(name, part, "no interval is known of it")


def _layer(name: str, part: EquilibriumNetwork | BoundedLayer) -> Step:
    """Return the step of a layer of this package, by its weights as matrices or as kernels."""
    form = form_of(part)
    if form is None:
        raise refused(name, part)
    cell = part.cell if isinstance(part, EquilibriumNetwork) else None
    inputs = part if isinstance(part, BoundedLayer) else part.cell
    if form.grid is None:
        w, u, v = form.w[0], form.u[0], form.v[0]
    elif type(cell) is MonDEQCell:
        w, u, v = cell.cell.weight().detach(), cell.u.detach(), cell.v.detach()
    else:
        raise refused(name, part, "intervals go through no other layer of images than MonDEQ")
    state_of = _equilibrium(name, part, form, w)
    d = form.d[0] if bool(form.d.any()) else None
    d_slack = _rounding(inputs.inputs)

    def step(box: Box) -> Box:
        inputs.check_input(box.low, inputs.inputs)
        state = state_of(box.through(u, convolve, spread(form.b, box.low)))
        out = state.through(v, convolve, spread(form.c, box.low))
        if d is None:
            return out
        beside = box.through(d, _matrix)
        room = d_slack * (beside.size + out.size)
        return Box(out.low + beside.low - room, out.high + beside.high + room)

    return step


def _equilibrium(name: str, part: nn.Module, form: Form, w: Tensor) -> Step:
    """Return the step from the box of what is given to one of z = phi(W z + given)."""
    if not len(w):
        return lambda given: given
    size = w.abs() if w.dim() == 2 else w.abs().sum((2, 3))
    out = 1 + _rounding(w[:1].numel())
    # A positive vector s, a number a channel, with |W| s <= q s, q < 1, bounds the spectral
    # radius (Collatz, Wielandt): a circular convolution keeps constant images constant.
    s = torch.ones(len(size), dtype=w.dtype, device=w.device)
    for _ in range(200):
        s = size @ s + 1e-3 * s.mean()
        s = s / s.amax()
    q = float(((size @ s) / s).amax()) * out
    if not q < 1:
        raise refused(
            name,
            part,
            f"the spectral radius of |W| is not proved to be below 1 (at most {q:.3g}), and the "
            "interval bounds have no fixed point. Train with a smaller W, or use the l2 margin",
        )

    def step(given: Box) -> Box:
        linear, scale = spread(form.linear, given.low), spread(s, given.low)
        # With t large, center |z| <= t s contains its own image: |W| t s + |given| <= t s.
        t = (given.size / scale).flatten(1).amax(1) / (1 - q) * out
        reach = t.view(-1, *(1,) * (given.low.dim() - 1)) * scale.expand_as(given.low)
        state = Box(torch.where(linear, -reach, torch.zeros_like(reach)), reach)
        for _ in range(STEPS):
            image = state.through(w, convolve)
            room = (out - 1) * (image.size + given.size)
            low = torch.maximum(form.phi(image.low + given.low - room), state.low)
            high = torch.minimum(form.phi(image.high + given.high + room), state.high)
            moved = torch.maximum(state.high - high, low - state.low)
            state = Box(low, high)
            if not len(low) or bool((moved <= SETTLED * reach).all()):
                break
        return state

    return step
