"""The DEQ and the explicit network that are trained until they collapse."""

from __future__ import annotations

import pytest
import torch

from homotopy_deq.layers import ImplicitLayer
from homotopy_deq.theory import UnconstrainedFeatures
from homotopy_deq.theory.peers import (
    Answer,
    Descent,
    Peer,
    Sizes,
    class_weight,
    deq_peer,
    explicit_peer,
    right_by_class,
)

SIZES = Sizes((1, 8, 8), classes=3, channels=2, features=6)


def squares(each: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy images with one bright square, whose place is the class."""
    labels = torch.arange(3 * each) % 3
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 100, (len(labels), 1, 8, 8), generator=draw, dtype=torch.uint8)
    for k in range(3):
        images[labels == k, :, 2 * k : 2 * k + 3, 2 * k : 2 * k + 3] = 255
    return images, labels


def test_the_peers_have_equal_parameters_and_equal_first_weights_but_for_the_block() -> None:
    before = torch.random.get_rng_state()
    deq, explicit = deq_peer(SIZES, seed=3), explicit_peer(SIZES, seed=3)
    ours, theirs = (dict(p.named_parameters()) for p in (deq, explicit))
    assert [p.shape for p in ours.values()] == [p.shape for p in theirs.values()]
    assert all(torch.equal(ours[name], theirs[name]) for name in ours if "block" not in name)
    other = dict(deq_peer(SIZES, seed=4).named_parameters())
    assert not torch.equal(ours["classifier.weight"], other["classifier.weight"])
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("make", [deq_peer, explicit_peer])
def test_features_are_at_most_the_gain_larger_than_x_whatever_is_learnt(make: object) -> None:
    network: Peer = make(SIZES)  # type: ignore[operator]
    gain = 1 / (1 - SIZES.contraction) if isinstance(network.block, ImplicitLayer) else 1.0
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    for scale in (0.1, 1.0, 30.0):
        with torch.no_grad():
            for p in network.block.parameters():
                p.copy_(scale * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
            z = network.block(x)
        # The solver's 1e-4 of ||z|| leaves an error of 1e-4 * gain at most.
        assert bool((z.norm(dim=1) <= gain * x.norm(dim=1) * (1 + 2e-3)).all())
    assert torch.equal(network.block(torch.zeros(1, 6)), torch.zeros(1, 6))


def test_the_objective_is_that_of_unconstrained_features_whose_optimum_bounds_it() -> None:
    draw = torch.Generator().manual_seed(0)
    network = explicit_peer(SIZES)
    labels = torch.tensor([0] * 6 + [1] * 3 + [2])
    h = torch.randn(3, 6, generator=draw)
    x = h[labels]
    model = UnconstrainedFeatures((6.0, 3.0, 1.0), dimension=6, decay=0.1)
    w = network.classifier.weight.detach()
    found = network.objective(Answer(x, x, x @ w.mT), labels, 0.1, class_weight(labels, 3))
    free = model.loss(w.double(), h.double())
    assert float(found.detach()) == pytest.approx(float(free), rel=1e-6)
    assert float(found.detach()) > model.solve()[2]


@pytest.mark.parametrize("make", [deq_peer, explicit_peer])
def test_a_short_training_collapses_and_stays_above_the_bound(make: object) -> None:
    images, labels = squares(40)
    network: Peer = make(SIZES)  # type: ignore[operator]
    descent = Descent(steps=60, batch=40, rate=1e-2, points=3)
    points = descent.train(network, images, labels, [1, 2])
    assert [p["step"] for p in points] == [20, 40, 60]
    assert points[-1]["epoch"] == 20.0
    assert points[-1]["error"] == 0
    assert points[-1]["nc1"] < min(points[0]["nc1"], 0.05)
    gain = 10.0 if isinstance(network.block, ImplicitLayer) else 1.0
    bound = UnconstrainedFeatures((1.0,) * 3, 6, descent.decay, gain).balanced_optimum()[1]
    assert points[-1]["objective"] > bound
    assert right_by_class(network, *squares(7)) == pytest.approx([1.0] * 3)
    again: Peer = make(SIZES)  # type: ignore[operator]
    assert descent.train(again, images, labels, [1, 2]) == points  # a seed decides it
