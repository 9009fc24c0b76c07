from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from homotopy_deq import DEQ, Anderson, Implicit, Picard, Unroll
from homotopy_deq.adversary import ascend, distance, frozen, project, slope
from homotopy_deq.certification.attack import Attack, pgd, smoothed_pgd
from homotopy_deq.certification.falsify import (
    CertificateViolated,
    Trial,
    attack_certificates,
    require_consistent,
)
from homotopy_deq.data import load
from homotopy_deq.models import ImageModel
from tests.training.tiny import data, model

SEEDS = st.integers(0, 2**31)
SIGMA = 0.5


def linear(seed: int = 0, n: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two classes split by a hyperplane: w of length 1, images, their classes and distances."""
    torch.manual_seed(seed)
    w = F.normalize(torch.randn(12, dtype=torch.float64), dim=0)
    images = torch.rand(n, 1, 3, 4, dtype=torch.float64)
    margins = images.flatten(1) @ w
    return w, images, (margins > 0).long(), margins.abs()


def halves(w: Tensor, images: Tensor) -> Tensor:
    side = 4 * images.flatten(1) @ w.to(images)
    return torch.stack([-side, side], 1)


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
        lambda x, y, a, k: smoothed_pgd(network, x, y, 0.5, SIGMA, a, keys=k),
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
    smoothed_pgd(network, batch, labels, 0.5, SIGMA, Attack(2, draws=2))
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


@pytest.fixture(scope="module")
def undefended() -> tuple[ImageModel, Tensor, Tensor]:
    """A small DEQ trained without any noise, and test images; seconds."""
    images = load("digits")
    torch.manual_seed(0)
    network = model(images, DEQ, hidden=8, head=32, pool=2)
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    for _ in range(4):
        for rows in torch.randperm(len(images.train_labels)).split(64):  # type: ignore[no-untyped-call]
            logits = network.solve(images.train_images[rows].float() / 255).logits
            optimizer.zero_grad()
            F.cross_entropy(logits, images.train_labels[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return network.eval(), images.test_images[:60].float() / 255, images.test_labels[:60]


def test_pgd_finds_adversarial_images_of_an_undefended_model(
    undefended: tuple[ImageModel, Tensor, Tensor],
) -> None:
    network, images, labels = undefended

    def accuracy(points: Tensor) -> float:
        with torch.no_grad():
            return float((network(points).argmax(1) == labels).float().mean())

    adversarial = pgd(network, images, labels, 1.0, Attack(15))
    aside = F.normalize(torch.randn(images.shape).flatten(1), dim=1).reshape(images.shape)
    assert accuracy(images) > 0.85
    assert accuracy(images + aside) > 0.6  # as far, but at random
    assert accuracy(adversarial) < 0.25


def test_false_certificates_of_a_model_are_found_to_be_violated(
    undefended: tuple[ImageModel, Tensor, Tensor],
) -> None:
    network, images, labels = undefended
    some = images[:8], labels[:8]
    trials = attack_certificates(network, *some, [3.0] * 8, 0.1, Attack(10, draws=8), votes=200)
    assert sum(trial.outcome == "violated" for trial in trials) >= 6
    with pytest.raises(CertificateViolated, match="image 0: certified class"):
        require_consistent([replace(trial, image=0) for trial in trials])


def test_the_smoothed_adversary_of_a_linear_classifier_is_told_apart_at_its_exact_radius() -> None:
    # The smoothed classifier's class is certified exactly up to the distance to the hyperplane.
    w, images, labels, margins = linear(n=4)
    seen: list[int] = []

    def trials(share: float, **changes: int) -> list[Trial]:
        return attack_certificates(
            lambda x: halves(w, x), images, labels, share * margins, 0.05,
            Attack(20, draws=16), advance=seen.append, **changes,
        )  # fmt: skip

    inside, outside = trials(0.6), trials(1.4)
    assert {trial.outcome for trial in inside} == {"consistent"}
    require_consistent(inside)
    assert {trial.outcome for trial in outside} == {"violated"}
    assert sum(seen) == 8
    for trial, margin, label in zip(outside, margins.tolist(), labels.tolist(), strict=True):
        assert margin < trial.distance < trial.radius == pytest.approx(1.4 * margin)
        assert trial.certified == label == 1 - trial.rival and sum(trial.counts) == 1000
    assert {trial.outcome for trial in trials(1.4, votes=3)} == {"undecided"}


def test_at_the_edge_of_true_certificates_hardly_any_is_called_violated() -> None:
    # At distance R the two classes are equally probable: the hardest case for the test.
    w, images, labels, margins = linear(n=200)
    found = attack_certificates(
        lambda x: halves(w, x), images, labels, margins, SIGMA, Attack(5, draws=8), votes=100
    )
    assert not [trial for trial in found if trial.outcome == "violated"]


def test_the_votes_are_those_of_the_classifier_that_was_certified() -> None:
    w, images, labels, margins = linear(n=3)

    def vote(x: Tensor) -> Tensor:
        side = halves(w, x)
        return torch.where(side.abs().amax(1) > 1e9, side.argmax(1), -1)

    found = attack_certificates(lambda x: halves(w, x), images, labels, margins, SIGMA, vote=vote)
    assert all(sum(trial.counts) == 0 and trial.outcome == "undecided" for trial in found)


def test_votes_are_drawn_under_noise_that_no_search_has_seen() -> None:
    w, images, labels, _ = linear(n=2)
    searched: list[Tensor] = []
    voted: list[Tensor] = []

    def logits(x: Tensor) -> Tensor:
        searched.append(x.detach().flatten(1))
        return halves(w, x)

    def vote(x: Tensor) -> Tensor:
        voted.append(x.flatten(1))
        return halves(w, x).argmax(1)

    tiny = [1e-9, 1e-9]  # so that points differ by their noise alone
    attack_certificates(logits, images, labels, tiny, SIGMA, Attack(2, draws=64), vote=vote)
    assert len(torch.cat(voted)) == 2000
    assert float(torch.cdist(torch.cat(voted), torch.cat(searched)).min()) > 1e-3


def test_equal_attacks_find_equal_points_and_votes() -> None:
    w, images, labels, margins = linear()
    first, second = (
        attack_certificates(lambda x: halves(w, x), images, labels, margins, SIGMA, Attack(3))
        for _ in range(2)
    )
    assert first == second


@pytest.mark.parametrize(
    ("settings", "told"),
    [({"steps": 0}, "steps must be at least 1; got 0"), ({"seed": -1}, "seed must be 0 or more")],
)
def test_settings_out_of_range_are_named(settings: dict[str, int], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Attack(**settings)


def test_what_does_not_fit_together_is_named_before_any_work() -> None:
    def never(x: Tensor) -> Tensor:
        raise AssertionError("work was started")

    x, y = torch.rand(2, 1, 3, 3), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="labels must have shape"):
        pgd(never, x, y[:1], 1.0)
    with pytest.raises(ValueError, match="finite and 0 or more; got -1"):
        pgd(never, x, y, -1.0)
    with pytest.raises(ValueError, match="radius must be a number or 2 of them"):
        pgd(never, x, y, torch.ones(3))
    with pytest.raises(ValueError, match="floating point"):
        pgd(never, x.to(torch.uint8), y, 1.0)
    with pytest.raises(ValueError, match="keys must be 2"):
        pgd(never, x, y, 1.0, keys=[1])
    with pytest.raises(ValueError, match="sigma must be above 0"):
        smoothed_pgd(never, x, y, 1.0, 0.0)
    for labels, radii in ((y, [1.0, 0.0]), (torch.tensor([-1, 1]), [1.0, 1.0])):
        with pytest.raises(ValueError, match="leave abstentions out"):
            attack_certificates(never, x, labels, radii, SIGMA)
    with pytest.raises(ValueError, match="finite"):
        attack_certificates(never, x, y, [math.nan, 1.0], SIGMA)
    with pytest.raises(ValueError, match="votes must be at least 1"):
        attack_certificates(never, x, y, [1.0, 1.0], SIGMA, votes=0)
    assert attack_certificates(never, x[:0], y[:0], [], SIGMA) == []
