"""Interval bounds of monotone equilibrium networks, for perturbations of each entry."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..cells.bounds import SLACK, UNIT
from .lben import EquilibriumNetwork
from .network import form_of, modules, refused

STEPS = 10_000


@dataclass(frozen=True)
class Box:
    """Bounds of each output over all inputs of a box.

    Arguments:
        low: (B, K).
        high: (B, K).
    """

    low: Tensor
    high: Tensor

    def classes(self) -> Tensor:
        """Return the class whose low is above every other's high, or -1, int64 (B,)."""
        best = self.low.argmax(1)
        others = self.high.scatter(1, best[:, None], -float("inf")).amax(1)
        return torch.where(self.low.gather(1, best[:, None])[:, 0] > others, best, -1)


@torch.no_grad()
def interval_bounds(network: EquilibriumNetwork, x: Tensor, radius: float) -> Box:
    """Bound the outputs over all inputs within `radius` of x in each entry (l-infinity):

        high = phi(W+ high + W- low + h),   low = phi(W+ low + W- high + l),

    with W+, W- the positive and negative part of W and [l, h] the bounds of U x + b. The pair is
    the unique fixed point of a map that contracts for rho(|W|) < 1, found from above: the iteration
    starts at a box that the map takes into itself, and every box on the way holds, so that stopping
    early loosens the bound and cannot break it.

    Arguments:
        network: with matrices, no images.
        x: (B, n).
        radius: of the box about x, at least 0.

    Raises:
        ValueError: |W| is not proved to have a spectral radius below 1, as for an IBP-MonDEQ, whose
            I - |W| is monotone; or the network maps images.

    References:
        C. Wei, J. Z. Kolter (2022), Certified robustness for deep equilibrium models via interval
        bound propagation.
    """
    if not 0 <= radius < float("inf"):
        raise ValueError(f"radius must be 0 or more, and finite; got {radius}.")
    ((name, part),) = modules(network)
    form = form_of(part)
    if form is None:
        raise refused(name, part)
    if form.grid is not None:
        raise ValueError("interval_bounds takes a network of vectors; this one maps images.")
    network.cell.check_input(x, network.cell.inputs)
    w, u, v = form.w[0], form.u[0], form.v[0]
    x = x.double()
    n = len(w)
    given, reach = x @ u.mT + form.b, radius * u.abs().sum(1)
    out = 1 + SLACK * (n + x.shape[1] + 4) * UNIT  # rounding, outward
    reach = (reach + (given.abs() + x.abs() @ u.abs().mT) * (out - 1)) * out
    # A positive vector s with |W| s <= q s, q < 1, bounds the spectral radius (Collatz, Wielandt).
    size = w.abs()
    s = torch.ones(n, dtype=w.dtype, device=w.device)
    for _ in range(200):
        s = size @ s + 1e-3 * s.mean()
        s = s / s.amax()
    q = float(((size @ s) / s).amax()) * out
    if not q < 1:
        raise ValueError(
            f"the spectral radius of |W| is not proved to be below 1 (at most {q:.3g}), and the "
            "interval bounds have no fixed point. Train with a smaller W, or use the l2 margin."
        )
    # With t large, center |z| <= t s contains its own image: |W| t s + |given| + reach <= t s.
    t = ((given.abs() + reach) / s).amax(1, keepdim=True) / (1 - q) * out
    high, low = t * s, torch.where(form.linear, -t * s, torch.zeros_like(t * s))
    plus, minus = w.clamp_min(0), w.clamp_max(0)
    for _ in range(STEPS):
        slack = (out - 1) * (torch.maximum(high.abs(), low.abs()) @ size.mT + given.abs() + reach)
        up = form.phi(high @ plus.mT + low @ minus.mT + given + reach + slack)
        down = form.phi(low @ plus.mT + high @ minus.mT + given - reach - slack)
        up, down = torch.minimum(up, high), torch.maximum(down, low)
        moved = float(torch.maximum(high - up, down - low).amax()) if len(up) else 0.0
        high, low = up, down
        if moved <= 1e-12 * float(t.amax() if len(t) else 1.0):
            break
    plus, minus = v.clamp_min(0), v.clamp_max(0)
    slack = (out - 1) * (torch.maximum(high.abs(), low.abs()) @ v.abs().mT + form.c.abs())
    return Box(
        low @ plus.mT + high @ minus.mT + form.c - slack,
        high @ plus.mT + low @ minus.mT + form.c + slack,
    )
