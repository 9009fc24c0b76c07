from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from homotopy_deq.certification.attack import Attack
from homotopy_deq.certification.falsify import (
    CertificateViolated,
    Trial,
    attack_certificates,
    require_consistent,
)
from tests.certification.cases import SIGMA, halves, linear, undefended


def test_false_certificates_of_a_model_are_found_to_be_violated() -> None:
    network, images, labels = undefended()
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


def test_one_vote_is_counted_and_decides_nothing() -> None:
    w, images, labels, margins = linear(n=2)
    found = attack_certificates(lambda x: halves(w, x), images, labels, margins, SIGMA, votes=1)
    assert [sum(trial.counts) for trial in found] == [1, 1]
    assert "violated" not in {trial.outcome for trial in found}


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
