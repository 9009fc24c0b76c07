"""A small recurrent-equilibrium network for optical flow, after DEQ-Flow."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from homotopy_deq import ImplicitLayer, Phantom, Picard

STRIDE = 4  # pixels of a cell of the state
RADIUS = 3  # steps to each side at which views are compared
STEPS = (0.5, 1.0)  # cells of a step, near and far
PATCH = 6  # pairs of pixels a side of what is compared
AROUND = 5  # cells a side of what a flow is averaged over


class FlowCell(nn.Module):
    """Update a hidden state h and a flow w, z = (h, w): (B, width + 2, H/4, W/4).

        t_s = w + softmax(beta_s c_s) . offsets,   c_s the correlations around w in steps s,
        h <- GRU(h; encoder(c, w, t - w), context),
        w_p <- sum_ks a_pks t_s(p+k) + r_p,        a, r = head(h), a >= 0, sum_ks a_pks = 1.

    t is where the views are most alike, which depends little on w once w is near: the flow is
    drawn to it. (RAFT's w + head(h) leaves w in neutral equilibrium, to drift.) The averages bring
    it to cells without texture or without a partner in the other view. What is compared are
    patches, their means taken out, by the cosine: that need not be learned, so some minutes of a
    core train the rest.

    What the context adds to the gates does not depend on z: it is computed once a solve.

    References:
        Z. Teed, J. Deng (2020), RAFT. S. Bai et al. (2022), Deep equilibrium optical flow.
    """

    rowwise: ClassVar[bool] = True

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        half, seen = width // 2, len(STEPS) * (2 * RADIUS + 1) ** 2
        # Kernels of 4 in steps of 2 keep the middle of a cell in the middle of its pixels.
        self.context = nn.Sequential(
            nn.Conv2d(3, half, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(half), nn.ReLU(),
            nn.Conv2d(half, width, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 3 * width, 3, padding=1),
        )  # fmt: skip
        self.encoder = nn.ModuleDict({
            "correlation": nn.Conv2d(seen, width, 1),
            "flow": nn.Conv2d(2, half, 7, padding=3),
            "both": nn.Conv2d(width + half, width, 3, padding=1),
        })  # fmt: skip
        self.sharpness = nn.Parameter(torch.full((len(STEPS),), math.log(15)))
        taken = 2 * width + 2 + 2 * len(STEPS)
        self.gru = nn.ModuleDict({
            "gates": nn.Conv2d(taken, 2 * width, 3, padding=1, bias=False),
            "candidate": nn.Conv2d(taken, width, 3, padding=1, bias=False),
        })  # fmt: skip
        self.head = nn.ModuleDict({
            "hidden": nn.Conv2d(width, width, 3, padding=1),
            "flow": nn.Conv2d(width, len(STEPS) * AROUND**2 + 2, 1),
        })  # fmt: skip
        nn.init.zeros_(self.head["flow"].weight)  # at first all of a mean weigh the same
        nn.init.zeros_(self.head["flow"].bias)

    def condition(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the correlations of the cells of one view with the other, and the context's part.

        Arguments:
            x: two views, (B, 6, H, W), in [0, 1].

        Returns:
            (B, N, M) with N = HW/16 cells, M places, two pixels apart; and (B, 3 width, H/4, W/4).
        """
        one, other = x.chunk(2, 1)
        correlations = patches(one, 2).mT @ patches(other, 1)
        return correlations, self.context(2 * one - 1)

    def initial(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), self.width + 2, x.shape[2] // STRIDE, x.shape[3] // STRIDE)

    def forward(self, z: Tensor, volume: Tensor, injected: Tensor) -> Tensor:
        h, w = z[:, :-2], z[:, -2:]
        seen = looked_up(volume, w)
        alike = self.sharpness.exp()[:, None, None, None] * seen.unflatten(1, (len(STEPS), -1))
        where = offsets(w).view(len(STEPS), -1, 2)
        best = torch.einsum("bsnhw,snk->bskhw", alike.softmax(2), where)
        near = F.relu(self.encoder["correlation"](seen))
        both = torch.cat([near, F.relu(self.encoder["flow"](w))], 1)
        m = torch.cat([F.relu(self.encoder["both"](both)), w, best.flatten(1, 2)], 1)
        update, reset, bias = injected.chunk(3, 1)
        gates = self.gru["gates"](torch.cat([h, m], 1))
        update = torch.sigmoid(gates[:, : self.width] + update)
        reset = torch.sigmoid(gates[:, self.width :] + reset)
        q = torch.tanh(self.gru["candidate"](torch.cat([reset * h, m], 1)) + bias)
        h = torch.lerp(h, q, update)
        said = self.head["flow"](F.relu(self.head["hidden"](h)))
        target = averaged((w[:, None] + best).flatten(1, 2), said[:, :-2].softmax(1))
        return torch.cat([h, target + said[:, -2:]], 1)


def patches(view: Tensor, step: int) -> Tensor:
    """Return what is around each place, without its mean and of norm 1, (B, 3 PATCH^2, places).

    Arguments:
        view: (B, 3, H, W).
        step: from place to place, in pairs of pixels: with 2 they are the cells.
    """
    edge = PATCH // 2 - 1
    coarse = F.pad(F.avg_pool2d(view, 2), (edge, edge, edge, edge), mode="replicate")
    found = F.unfold(coarse, PATCH, stride=step)
    found = (found.unflatten(1, (3, -1)) - found.unflatten(1, (3, -1)).mean(2, True)).flatten(1, 2)
    # A hundredth of white in each pixel is noise, not texture.
    return found / (found.square().sum(1, True) + found.shape[1] * 1e-4).sqrt()


def averaged(t: Tensor, weights: Tensor) -> Tensor:
    """Return at each cell the mean of flows around it, (B, 2, H, W).

    Arguments:
        t: some flows, (B, 2 S, H, W).
        weights: of each around the cell, (B, S K^2, H, W), of sum 1.
    """
    edge, size = AROUND // 2, t.shape[2:]
    around = F.unfold(F.pad(t, (edge, edge, edge, edge), mode="replicate"), AROUND)
    flows = around.view(len(t), -1, 2, AROUND**2, *size)
    return torch.einsum("bskchw,bschw->bkhw", flows, weights.view(len(t), -1, AROUND**2, *size))


def looked_up(volume: Tensor, w: Tensor) -> Tensor:
    """Return the correlations around p + w for each cell p, (B, S (2 RADIUS + 1)^2, H, W).

    Arguments:
        volume: (B, HW, (2 H - 1) (2 W - 1)), see `FlowCell.condition`.
        w: in cells, (B, 2, H, W).
    """
    batch, _, height, width = w.shape
    device = w.device
    y, x = torch.meshgrid(
        torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
    )
    centre = (w + torch.stack([x, y])).permute(0, 2, 3, 1).reshape(-1, 1, 1, 2)
    extent = w.new_tensor([width - 1, height - 1])
    grid = 2 * (centre + offsets(w)[:, None]) / extent - 1
    places = volume.reshape(-1, 1, 2 * height - 1, 2 * width - 1)
    seen = F.grid_sample(places, grid, align_corners=True)
    return seen.view(batch, height, width, -1).permute(0, 3, 1, 2)


def offsets(like: Tensor) -> Tensor:
    """Return where around a cell views are compared, in cells, x first, (S (2 RADIUS + 1)^2, 2)."""
    side = torch.arange(-RADIUS, RADIUS + 1, device=like.device)
    steps = like.new_tensor(STEPS)[:, None, None]
    return (steps * torch.cartesian_prod(side, side).flip(1)).flatten(0, 1)


class FlowNet(nn.Module):
    """Estimate the flow between two views, (B, 6, H, W) -> (B, 2, H, W), in pixels."""

    def __init__(self, width: int = 48, *, damping: float = 0.9, steps: int = 60) -> None:
        super().__init__()
        self.damping = damping
        km = Picard(rtol=1e-3, damping=damping, max_steps=steps)
        self.layer = ImplicitLayer(FlowCell(width), km, Phantom(), on_failure="ignore")

    def forward(self, x: Tensor) -> Tensor:
        return read(self.layer(x))


def read(z: Tensor) -> Tensor:
    """Return the flow of a state in pixels, at the resolution of the views."""
    return F.interpolate(STRIDE * z[:, -2:], scale_factor=STRIDE, mode="bilinear")


def errors(found: Tensor, true: Tensor) -> dict[str, Tensor]:
    """Return each sample's end-point error in pixels and F1 in percent, (B,).

    F1: the share of pixels wrong by more than 3 pixels and 5% of the flow, as KITTI defines it.
    """
    far = (found - true).norm(dim=1)
    wrong = (far > 3) & (far > 0.05 * true.norm(dim=1))
    return {"EPE": far.mean((1, 2)), "F1": 100 * wrong.float().mean((1, 2))}


def train(
    net: FlowNet,
    batches: Callable[[], tuple[Tensor, Tensor]],
    *,
    steps: int,
    lr: float,
    seconds: float = math.inf,
    free: int = 12,
    watched: int = 3,
    rest: float = 1.0,
) -> tuple[int, float]:
    """Train a flow network; return the steps taken and the mean loss of the last tenth.

    A random number of iterations up to `free` is taken without gradients, then `watched` with:
    the loss is the end-point error after each of these, so that late iterates stay where the
    early ones arrive, and `rest` times the last step relative to the state. Every other batch
    starts from what the batch before ended with, a wrong start, as starts from another frame are.

    Arguments:
        batches: returns views and their flow.
        steps: at most.
        lr: its largest; it rises over the first twentieth, and falls by the cosine.
        seconds: at most.
        free: iterations without gradients, at most.
        watched: iterations with gradients.
        rest: weight of the last step.
    """
    losses: list[Tensor] = []
    last: Tensor | None = None
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=1e-5)
    begun, step = time.perf_counter(), 0
    while (done := max(step / steps, (time.perf_counter() - begun) / seconds)) < 1:
        rising = min(1.0, 20 * done + 0.05)
        for group in optimizer.param_groups:
            group["lr"] = lr * rising * (1 + math.cos(math.pi * done)) / 2
        x, true = batches()
        equation = net.layer.equation(net.layer.condition(x))
        z = net.layer.initial(x) if last is None or step % 2 == 0 else last
        with torch.no_grad():
            for _ in range(int(torch.randint(free + 1, ()))):
                z = z.lerp(equation(z), net.damping)
        loss = z.new_zeros(())
        for _ in range(watched):
            before, z = z, z.lerp(equation(z), net.damping)
            loss = loss + (read(z) - true).abs().sum(1).mean() / watched
        total = loss + rest * (z - before).norm() / z.norm()
        optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        last, step = z.detach(), step + 1
        losses.append(loss.detach())
    return step, float(torch.stack(losses[int(0.9 * step) :]).mean())
