from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from homotopy_deq import DEQ, Anderson, Implicit, Picard, Unroll
from homotopy_deq.adversary import ascend, distance, frozen, project, slope
from homotopy_deq.certification.attack import Attack, _start, pgd
from homotopy_deq.certification.falsify import (
    attack_certificates,
)
from homotopy_deq.models import ImageModel
from tests.certification.cases import SIGMA, halves, linear, undefended
from tests.training.tiny import data, model

SEEDS = st.integers(0, 2**31)


def contractive() -> ImageModel:
    """A DEQ with fresh weights that every solver answers quickly and to the last digits."""
    tight = Anderson(rtol=1e-6)
    network = model(data(), DEQ, dropout=0.0, solver=tight, gradient=Implicit(tight))
    with torch.no_grad():
        network.layer.cell.norm1.weight.mul_(0.3)  # type: ignore[union-attr]
    return network


@given(
    seed=SEEDS,
    scale=st.floats(-12, 3).map(lambda e: 10.0**e),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_no_point_is_left_outside_its_ball(seed: int, scale: float, dtype: torch.dtype) -> None:
    torch.manual_seed(seed)
    images = torch.rand(8, 1, 4, 4).to(dtype)
    points = (images.double() + 3 * scale * torch.randn(images.shape).double()).to(dtype)
    radius = scale * torch.rand(8).double()
    found = project(points, images, radius)
    assert found.dtype == dtype and bool((distance(found, images) <= radius).all())
    kept = distance(points, images) <= radius
    assert torch.equal(found[kept], points[kept])
    if dtype == torch.float64 and scale > 1e-3:
        torch.testing.assert_close(distance(found, images)[~kept], radius[~kept])


def test_restarts_begin_anywhere_in_the_ball_with_the_same_probability() -> None:
    images, radius = torch.zeros(400, 3, 1, 1).double(), torch.full((400,), 2.0).double()
    starts = _start(images, radius, range(400), 1, seed=0)
    share = (distance(starts, images) / 2) ** 3  # of the volume of a ball of three dimensions
    # The mean of 400 numbers uniform in [0, 1] is 1/2 to within 4 / sqrt(12 * 400).
    assert float(share.max()) <= 1 and abs(float(share.mean()) - 0.5) < 0.06
    assert float(starts.mean(0).abs().max()) < 0.25  # 2 / sqrt(5 * 400) times 5, from all sides
    assert _start(images, radius, range(400), 1, seed=0).equal(starts)
    assert not _start(images, radius, range(400), 2, seed=0).equal(starts)


def test_a_gradient_that_is_zero_or_not_finite_moves_nothing() -> None:
    points = torch.rand(4, 1, 2, 2)
    gradient = torch.ones_like(points)
    gradient[0] = 0
    gradient[1, 0, 0, 0] = math.nan
    gradient[2] = math.inf
    gradient[3] = 1e-30  # its square is below the smallest number
    moved = ascend(points, gradient, torch.full((4,), 0.5))
    assert torch.equal(moved[:3], points[:3])
    assert float(distance(moved, points)[3]) == pytest.approx(0.5)


@given(seed=SEEDS, restarts=st.integers(1, 2))
def test_pgd_finds_the_worst_point_of_a_linear_classifier(seed: int, restarts: int) -> None:
    w, images, labels, margins = linear(seed)
    radius = margins * torch.tensor([0.5, 0.99, 1.01, 1.5, 2, 3]).double()
    points = pgd(lambda x: halves(w, x), images, labels, radius, Attack(40, restarts))
    assert bool((distance(points, images) <= radius).all())
    sign = (2 * labels - 1).double()
    reached = sign * (points.flatten(1) @ w)
    best = margins - radius  # x - r w
    # From the image, which is the first start, the gradient points at the best point.
    assert bool(((reached - best) <= 1e-9 * radius).all())
    wrong = halves(w, points).argmax(1) != labels
    assert wrong.tolist() == [False, False, True, True, True, True]


def test_the_gradient_of_an_attack_is_the_gradient_through_the_unrolled_solve() -> None:
    images = data()
    network = contractive().double()
    batch = images.train_images[:4].double() / 255
    labels = images.train_labels[:4]
    exact = network.with_solver(
        Anderson(rtol=1e-13, max_steps=200), Implicit(Anderson(rtol=1e-13, max_steps=200))
    )
    unrolled = network.with_solver(Picard(rtol=1e-13, max_steps=500), Unroll())

    def gradient(by: ImageModel) -> Tensor:
        with frozen(by):
            found = slope(lambda x: F.cross_entropy(by(x), labels, reduction="none"), batch)
        return found[1]

    implicit, through = gradient(exact), gradient(unrolled)
    assert float(implicit.abs().max()) > 1e-6
    # Both solve to 1e-13, and a slowest mode of at most 0.9 makes that 1e-12 of the answer.
    torch.testing.assert_close(implicit, through, rtol=1e-9, atol=1e-11)


def test_an_attack_does_not_see_batch_mates_batch_size_or_grad_mode() -> None:
    images = data()
    network = contractive()
    batch, labels = images.train_images[:6].float() / 255, images.train_labels[:6]
    attack = Attack(4, 2, draws=3)
    for search in (
        lambda x, y, a, k: pgd(network, x, y, 0.5, a, keys=k),
        lambda x, y, a, k: pgd(network, x, y, 0.5, a, sigma=SIGMA, keys=k),
    ):
        whole = search(batch, labels, attack, range(6))
        with torch.no_grad():
            small = search(batch, labels, replace(attack, batch=5), range(6))
            alone = search(batch[4:5], labels[4:5], attack, [4])
        # Batches of another size round otherwise, which a normalised gradient may multiply.
        torch.testing.assert_close(whole, small, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(whole[4:5], alone, rtol=1e-3, atol=1e-4)
        other = search(batch, labels, replace(attack, seed=1), range(6))
        assert float((whole - other).abs().max()) > 1e-2


def test_an_attack_leaves_the_model_and_the_images_as_they_were() -> None:
    images = data()
    network = contractive().train()
    batch, labels = images.train_images[:4].float() / 255, images.train_labels[:4]
    before, kept = {k: v.clone() for k, v in network.state_dict().items()}, batch.clone()
    pgd(network, batch, labels, 0.5, Attack(2, draws=2), sigma=SIGMA)
    assert network.training and all(p.requires_grad for p in network.parameters())
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert torch.equal(batch, kept) and not batch.requires_grad

    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("out of order")

    broken = Broken()
    with pytest.raises(RuntimeError, match="out of order"):
        pgd(broken, batch, labels, 0.5)
    assert broken.training


def test_an_image_whose_logits_are_not_finite_can_be_left() -> None:
    w, images, labels, margins = linear(n=2)
    images[:] = 0.5 * w.reshape(1, 1, 3, 4)

    def broken(x: Tensor) -> Tensor:
        at_image = (x - images).flatten(1).norm(dim=1) < 1e-6
        return torch.where(at_image[:, None], math.nan, halves(w, x))

    points = pgd(broken, images, torch.ones(2).long(), 1.0, Attack(5))
    assert bool((halves(w, points).argmax(1) == 0).all())


def test_pgd_finds_adversarial_images_of_an_undefended_model() -> None:
    network, images, labels = undefended()

    def accuracy(points: Tensor) -> float:
        with torch.no_grad():
            return float((network(points).argmax(1) == labels).float().mean())

    adversarial = pgd(network, images, labels, 1.0, Attack(15))
    aside = F.normalize(torch.randn(images.shape).flatten(1), dim=1).reshape(images.shape)
    assert accuracy(images) > 0.85
    assert accuracy(images + aside) > 0.6  # as far, but at random
    assert accuracy(adversarial) < 0.25


@pytest.mark.parametrize(
    ("settings", "told"),
    [({"steps": 0}, "steps must be at least 1; got 0"), ({"seed": -1}, "seed must be 0 or more")],
)
def test_settings_out_of_range_are_named(settings: dict[str, int], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Attack(**settings)


X, Y = torch.rand(2, 1, 3, 3), torch.tensor([0, 1])


def never(x: Tensor) -> Tensor:
    raise AssertionError("work was started")


@pytest.mark.parametrize(
    ("named", "wrong"),
    [
        ("labels", lambda: pgd(never, X, Y[:1], 1.0)),
        ("got -1", lambda: pgd(never, X, Y, -1.0)),
        ("radius", lambda: pgd(never, X, Y, torch.ones(3))),
        ("floating point", lambda: pgd(never, X.to(torch.uint8), Y, 1.0)),
        ("keys", lambda: pgd(never, X, Y, 1.0, keys=[1])),
        ("sigma", lambda: pgd(never, X, Y, 1.0, sigma=0.0)),
        ("abstentions", lambda: attack_certificates(never, X, Y, [1.0, 0.0], SIGMA)),
        ("abstentions", lambda: attack_certificates(never, X, Y - 1, [1.0, 1.0], SIGMA)),
        ("finite", lambda: attack_certificates(never, X, Y, [math.nan, 1.0], SIGMA)),
        ("votes", lambda: attack_certificates(never, X, Y, [1.0, 1.0], SIGMA, votes=0)),
    ],
)
def test_what_does_not_fit_together_is_named_before_any_work(
    named: str, wrong: Callable[[], Any]
) -> None:
    with pytest.raises(ValueError, match=named):
        wrong()


def test_no_images_are_no_work() -> None:
    assert attack_certificates(never, X[:0], Y[:0], [], SIGMA) == []
