"""Votes under noise: a certificate's cost a sample, ours beside a plain loop over torchdeq."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from homotopy_deq import DEQ, Anderson
from homotopy_deq.certification import Converged, Policy, Smoother, Smoothing, Verified
from homotopy_deq.data import load

from .problems import finish, race

SIGMA, SAMPLES, STEPS, TOLERANCE = 0.25, 10_000, 200, 1e-3


def trained(device: str) -> tuple[DEQ, Tensor, Tensor]:
    """Return a dense DEQ, ||W|| = 0.9, trained for some seconds on noisy digits, and these."""
    torch.manual_seed(0)
    data = load("digits")
    images = (data.train_images.float() / 255).to(device)
    labels = data.train_labels.to(device)
    solver = Anderson(rtol=TOLERANCE)
    model = DEQ(data.shape, hidden=128, contraction=0.9, kernel=0, solver=solver).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(STEPS):
        rows = torch.randint(len(images), (256,), device=device)
        noisy = images[rows] + SIGMA * torch.randn_like(images[rows])
        optimizer.zero_grad()
        F.cross_entropy(model(noisy), labels[rows]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    finish()
    return model.eval(), images, labels


def certify(device: str = "cpu") -> dict[str, Any]:
    """Time the votes of 10,000 noise samples of one image, by each way to solve them."""
    from torchdeq import solver as peer

    model, images, labels = trained(device)
    image, label = images[0], int(labels[0])
    smoothing = Smoothing(SIGMA, n0=128, n=SAMPLES, batch=SAMPLES)
    evaluations: dict[str, float] = {}

    def ours(name: str, policy: Policy) -> Callable[[], object]:
        smoother = Smoother(model, policy, smoothing)

        def call() -> object:
            found = smoother.certify(image, label, 0)
            evaluations[name] = found.evaluations / (SAMPLES + smoothing.n0)
            return found

        return call

    def theirs() -> object:
        with torch.no_grad():
            noise = torch.randn(SAMPLES, *image.shape, device=device)
            x = model.condition(image + SIGMA * noise)
            cell, condition = model.layer.cell, model.layer.condition(x)
            z, _, info = peer.anderson_solver(
                lambda z: cell(z, *condition),
                torch.zeros_like(model.start(x)),
                max_iter=100,
                tol=TOLERANCE,
                stop_mode="rel",
                lam=1e-8,
            )
            evaluations["a loop over torchdeq's Anderson"] = float(info["nstep"].max())
            return model.head(z).argmax(1).bincount(minlength=10).cpu()

    calls = {
        "cold, Converged()": ours("cold, Converged()", Converged()),
        "Verified()": ours("Verified()", Verified()),
        "a loop over torchdeq's Anderson": theirs,
    }
    times = race(calls, repeats=5)
    scale = 1e3 / SAMPLES  # ms a call to us a sample
    return {
        name: {
            "us a sample": {key: scale * ms for key, ms in vars(times[name]).items()},
            "evaluations": evaluations[name],
        }
        for name in calls
    }


def decide(device: str = "cpu", count: int = 64) -> dict[str, Any]:
    """Time decisions at a radius of sigma for images side by side, cold and by verified votes."""
    model, images, labels = trained(device)
    smoothing = Smoothing(SIGMA, n0=10, n=SAMPLES, batch=2000)
    rows: dict[str, Any] = {}
    calls = {}
    for name, policy in {"cold, Converged()": Converged(), "Verified()": Verified()}.items():
        smoother = Smoother(model, policy, smoothing)

        def call(smoother: Smoother = smoother) -> list[Any]:
            some = images[:count], labels[:count].tolist(), range(count)
            return list(smoother.decide_all(*some, SIGMA))

        found = call()
        calls[name] = call
        rows[name] = {
            "certified": sum(c.claim.radius > 0 for c in found),
            "samples an image": sum(c.evidence.samples for c in found) / count,
            "evaluations an image": sum(c.evaluations for c in found) / count,
        }
    for name, timing in race(calls, repeats=5).items():
        rows[name]["ms an image"] = {key: ms / count for key, ms in vars(timing).items()}
    return rows
