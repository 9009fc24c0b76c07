"""A small recurrent-equilibrium network for optical flow, after DEQ-Flow."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from homotopy_deq import ImplicitLayer, Phantom, Picard

STRIDE = 4  # pixels of a cell of the state
RADIUS = 3  # cells around the present estimate at which views are compared


def features(width: int) -> nn.Sequential:
    """Map views (B, 3, H, W) to features, (B, width, H/4, W/4)."""
    return nn.Sequential(
        nn.Conv2d(3, width, 5, stride=2, padding=2), nn.InstanceNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1), nn.InstanceNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, width, 3, stride=2, padding=1), nn.InstanceNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
    )  # fmt: skip


class FlowCell(nn.Module):
    """Update a hidden state h and a flow w, z = (h, w): (B, width + 2, H/4, W/4).

        m = encoder(correlations c around w, w, softmax(beta c) . offsets),
        h <- GRU(h; m, context),  w <- w + head(h).

    The offset at which the views correlate best is where w should go: the network need not find
    that out, and is trained in a minute or two.

    What the context adds to the gates does not depend on z: it is computed once a solve.

    References:
        Z. Teed, J. Deng (2020), RAFT. S. Bai et al. (2022), Deep equilibrium optical flow.
    """

    rowwise: ClassVar[bool] = True

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.features, self.context = features(width), features(width)
        self.inject = nn.Conv2d(width, 3 * width, 3, padding=1)
        seen = (2 * RADIUS + 1) ** 2
        self.encoder = nn.ModuleDict({
            "correlation": nn.Conv2d(seen, width, 1),
            "flow": nn.Conv2d(2, width // 2, 7, padding=3),
            "both": nn.Conv2d(width + width // 2, width - 4, 3, padding=1),
        })  # fmt: skip
        self.sharpness = nn.Parameter(torch.tensor(2.0))
        self.gru = nn.ModuleDict({
            "gates": nn.Conv2d(2 * width, 2 * width, 3, padding=1, bias=False),
            "candidate": nn.Conv2d(2 * width, width, 3, padding=1, bias=False),
        })  # fmt: skip
        self.head = nn.ModuleDict({
            "hidden": nn.Conv2d(width, width, 3, padding=1),
            "flow": nn.Conv2d(width, 2, 3, padding=1),
        })  # fmt: skip

    def condition(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the correlations of all cells of two views, and the context's part of the gates.

        Arguments:
            x: two views, (B, 6, H, W), in [0, 1].

        Returns:
            (B, N, N) with N = HW/16, and (B, 3 width, H/4, W/4).
        """
        one, other = (2 * x - 1).chunk(2, 1)
        a, b = (F.normalize(self.features(view), dim=1).flatten(2) for view in (one, other))
        # Cosines, so scaled that those of cells that have nothing to do with each other are about 1
        return a.mT @ b * self.width**0.5, self.inject(self.context(one))

    def initial(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), self.width + 2, x.shape[2] // STRIDE, x.shape[3] // STRIDE)

    def forward(self, z: Tensor, volume: Tensor, injected: Tensor) -> Tensor:
        h, w = z[:, :-2], z[:, -2:]
        seen = looked_up(volume, w)
        best = torch.einsum("bnhw,nk->bkhw", (self.sharpness * seen).softmax(1), offsets(w))
        near = F.relu(self.encoder["correlation"](seen))
        both = torch.cat([near, F.relu(self.encoder["flow"](w))], 1)
        m = torch.cat([F.relu(self.encoder["both"](both)), w, best], 1)
        update, reset, bias = injected.chunk(3, 1)
        gates = self.gru["gates"](torch.cat([h, m], 1))
        update = torch.sigmoid(gates[:, : self.width] + update)
        reset = torch.sigmoid(gates[:, self.width :] + reset)
        q = torch.tanh(self.gru["candidate"](torch.cat([reset * h, m], 1)) + bias)
        h = torch.lerp(h, q, update)
        step = self.head["flow"](F.relu(self.head["hidden"](h)))
        return torch.cat([h, w + step], 1)


def looked_up(volume: Tensor, w: Tensor) -> Tensor:
    """Return the correlations around p + w for each cell p, (B, (2 RADIUS + 1)^2, H, W).

    Arguments:
        volume: (B, HW, HW).
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
    seen = F.grid_sample(volume.reshape(-1, 1, height, width), grid, align_corners=True)
    return seen.view(batch, height, width, -1).permute(0, 3, 1, 2)


def offsets(like: Tensor) -> Tensor:
    """Return where around a cell views are compared, x first, ((2 RADIUS + 1)^2, 2)."""
    side = torch.arange(-RADIUS, RADIUS + 1, device=like.device)
    return torch.cartesian_prod(side, side).flip(1).to(like.dtype)


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
    free: int = 40,
    watched: int = 5,
    rest: float = 3.0,
) -> float:
    """Train a flow network; return the mean loss of the last tenth.

    A random number of iterations up to `free` is taken without gradients, then `watched` with:
    the loss is the end-point error after each of these, so that late iterates stay where the
    early ones arrive, and `rest` times the last step relative to the state. Every other batch
    starts from what the batch before ended with, a wrong start, as starts from another frame are.

    Arguments:
        batches: returns views and their flow.
    """
    late: list[Tensor] = []
    last: Tensor | None = None
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=1e-5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
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
        schedule.step()
        last = z.detach()
        if step >= int(0.9 * steps):
            late.append(loss.detach())
    return float(torch.stack(late).mean())
