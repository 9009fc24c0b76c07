"""A DEQ and an explicit network of as many parameters, trained until their features collapse."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from solvers import Anderson, Implicit, PeacemanRachford

from ..cells import ContractiveCell
from ..cells.bounds import gram_norm
from ..layers import ImplicitLayer
from .neural_collapse import collapse_of

FORWARD, BACKWARD = 1e-4, 1e-3  # relative residuals of the DEQ
SLICE = 2000  # images looked at together where nothing is learnt


@dataclass(frozen=True)
class Sizes:
    """Say how large both peers are.

    Arguments:
        shape: (C, H, W) of the images.
        classes: K.
        channels: of the first of three convolutions; the next have twice and four times as many.
        features: p, what the classifier reads.
        contraction: bound rho < 1 of ||W|| in the DEQ, whose gain is at most 1 / (1 - rho).
    """

    shape: tuple[int, int, int]
    classes: int = 10
    channels: int = 16
    features: int = 64
    contraction: float = 0.9


class ExplicitBlock(nn.Module):
    """Map x to relu(W relu(x)) with ||W|| <= 1: two layers of an explicit network, of gain 1.

    Arguments:
        width: p, of x (B, p).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.eye(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return the features, (B, p)."""
        return F.relu(F.linear(F.relu(x), self.raw / gram_norm(self.raw)))


class Answer(NamedTuple):
    """What a peer makes of images.

    Attributes:
        x: of the backbone, (B, p).
        features: what the classifier reads, (B, p).
        logits: (B, K).
    """

    x: Tensor
    features: Tensor
    logits: Tensor


class Peer(nn.Module):
    """Classify images: convolutions, a block of p x p weights, one linear map.

    Equal seeds give both peers equal first weights.

    Arguments:
        sizes: of all but the block.
        block: makes what takes x (B, p) to the features (B, p), once all else is drawn.
    """

    def __init__(self, sizes: Sizes, block: Callable[[], nn.Module]) -> None:
        super().__init__()
        channels, c = sizes.shape[0], sizes.channels
        widths = [channels, c, 2 * c, 4 * c]
        layers: list[nn.Module] = []
        for k, (before, after) in enumerate(zip(widths, widths[1:], strict=False)):
            stride = 2 if k < 2 else 1
            layers += [
                nn.Conv2d(before, after, 3, stride, 1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
        self.backbone = nn.Sequential(
            *layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16 * c, sizes.features)
        )
        self.classifier = nn.Linear(sizes.features, sizes.classes, bias=False)
        self.block = block()

    def forward(self, images: Tensor) -> Answer:
        """Return what all is computed of images in [0, 1], (B, C, H, W)."""
        x = self.backbone(images)
        h = self.block(x)
        return Answer(x, h, self.classifier(h))

    def objective(self, found: Answer, labels: Tensor, decay: float, weight: Tensor) -> Tensor:
        """Return the layer-peeled loss, which `UnconstrainedFeatures` minimises over free x:

            cross entropy + decay / 2 (||W||^2 / K + mean over classes of the class's mean ||x||^2),

        W the classifier's.

        Arguments:
            found: of images.
            labels: of these, (B,).
            decay: above 0.
            weight: of a sample of each class, N / (K n_k), (K,).
        """
        w = self.classifier.weight
        size = (weight[labels] * found.x.square().sum(1)).mean() + w.square().sum() / len(w)
        return F.cross_entropy(found.logits, labels) + decay / 2 * size


def deq_peer(sizes: Sizes, seed: int = 0) -> Peer:
    """Return the peer whose features solve z = relu(W z + x), ||W|| <= rho by its construction.

    A decay of W would not hold it there. W starts at rho I, the linear model's, as a random one
    favours few directions and takes long to forget them.
    """

    # The step of the best rate that rho proves: no sample ever fails, as at relu's kinks Anderson's
    # do, and a batch is as slow as its slowest sample.
    step = (1 - sizes.contraction**2) ** -0.5
    solver = PeacemanRachford(rtol=FORWARD, step_size=step)

    def block() -> nn.Module:
        cell = ContractiveCell((sizes.features,), contraction=sizes.contraction)
        nn.init.eye_(cell.raw)
        return ImplicitLayer(cell, solver, Implicit(Anderson(rtol=BACKWARD)))

    with seeded(seed):
        return Peer(sizes, block)


def explicit_peer(sizes: Sizes, seed: int = 0) -> Peer:
    """Return the peer whose features are relu(W relu(x)), W at first I."""
    with seeded(seed):
        return Peer(sizes, lambda: ExplicitBlock(sizes.features))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw weights by a seed, and leave the random numbers of others as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@dataclass(frozen=True)
class Descent:
    """Train by Adam until well after the last error on the train images.

    Arguments:
        steps: of the optimiser.
        batch: images a step.
        rate: the first learning rate; a cosine takes it to a hundredth. The block's p x p weights
            learn at rate / p: Adam then moves them as far in norm whatever p is.
        decay: of the classifier and of x; see `Peer.objective`. Nothing else decays.
        points: times at which the collapse is measured, evenly; the last is the end.
        seed: of the order of the images.
    """

    steps: int = 600
    batch: int = 128
    rate: float = 3e-3
    decay: float = 2e-2
    points: int = 10
    seed: int = 0

    def train(
        self, network: Peer, images: Tensor, labels: Tensor, minority: list[int] | None = None
    ) -> list[dict[str, Any]]:
        """Train a network in place; return the figures of its collapse on the train images.

        Arguments:
            network: on the device of the images.
            images: uint8, (N, C, H, W), all on one device.
            labels: int64, (N,), likewise.
            minority: classes whose classifiers are compared.
        """
        rest = [*network.backbone.parameters(), *network.classifier.parameters()]
        block = list(network.block.parameters())
        optimizer = torch.optim.Adam([{"params": rest}, {"params": block}])
        generator = torch.Generator().manual_seed(self.seed)
        size, batch = len(labels), min(self.batch, len(labels))
        width = network.classifier.in_features
        weight = class_weight(labels, network.classifier.out_features)
        marks = {max(1, round(self.steps * k / self.points)) for k in range(1, self.points + 1)}
        order, found = torch.empty(0, dtype=torch.long), []
        for step in range(1, self.steps + 1):
            if len(order) < batch:  # what is left of an epoch goes before the next
                order = torch.cat((order, torch.randperm(size, generator=generator)))
            index, order = order[:batch].to(images.device), order[batch:]
            fall = (1 + math.cos(math.pi * (step - 1) / self.steps)) / 2
            for group, share in zip(optimizer.param_groups, (1, 1 / width), strict=True):
                group["lr"] = share * self.rate * (0.01 + 0.99 * fall)
            network.train()
            answer = network(images[index].float() / 255)
            loss = network.objective(answer, labels[index], self.decay, weight)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            if step in marks:
                reached = {"step": step, "epoch": round(step * batch / size, 1)}
                found.append({**reached, **self.state(network, images, labels, minority)})
        return found

    @torch.no_grad()
    def state(
        self, network: Peer, images: Tensor, labels: Tensor, minority: list[int] | None = None
    ) -> dict[str, Any]:
        """Return objective, error and the figures of collapse of a network on images."""
        network.eval()
        looked = [network(x.float() / 255) for x in torch.split(images, SLICE)]
        whole = Answer(*map(torch.cat, zip(*looked, strict=True)))
        parts = [(whole.features, labels, whole.logits)]
        w = network.classifier.weight
        weight = class_weight(labels, len(w))
        return {
            "objective": float(network.objective(whole, labels, self.decay, weight)),
            "error": float((whole.logits.argmax(1) != labels).double().mean()),
            **collapse_of(lambda: parts, w, minority=minority).figures(),
        }


def class_weight(labels: Tensor, classes: int) -> Tensor:
    """Return N / (K n_k), (K,), with which a mean over samples is one over classes."""
    return len(labels) / (classes * torch.bincount(labels, minlength=classes).float())


@torch.no_grad()
def right_by_class(network: Peer, images: Tensor, labels: Tensor) -> list[float]:
    """Return the share of the images of each class that a network classifies rightly."""
    network.eval()
    parts = zip(torch.split(images, SLICE), torch.split(labels, SLICE), strict=True)
    right = torch.cat([network(x.float() / 255).logits.argmax(1) == y for x, y in parts]).double()
    classes = network.classifier.out_features
    sums = right.new_zeros(classes).index_add_(0, labels, right)
    shares: list[float] = (sums / torch.bincount(labels, minlength=classes)).tolist()
    return shares
