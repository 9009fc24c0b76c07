"""Certificates of a classifier whose smoothed version is known exactly.

With W = I / 2 and the injections w v and -w v of a unit vector w, the equilibrium is
2 relu(+-w v), so the logits' difference has the sign of w v: a linear classifier. Its smoothed
version is itself, P(class) = Phi(|w v| / sigma), and the true radius is |w v|.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from experiments.rules import SrsPaper
from homotopy_deq import DEQ
from homotopy_deq.certification import (
    ABSTAIN,
    Along,
    Audited,
    Clean,
    Cold,
    Converged,
    Policy,
    Sampling,
    Serial,
    Smoother,
    Smoothing,
    Tangent,
    Truncated,
    Verified,
)
from homotopy_deq.certification.policies import EXACT, OWN
from homotopy_deq.certification.statistics import radius, required_probability
from homotopy_deq.models import ImageModel
from solvers import ODE, Davidenko, Robust, RungeKutta, Then

SHAPE = (1, 3, 4)
SIGMA = 0.5
SOUND: tuple[Policy, ...] = (
    Converged(),
    Converged(start=Tangent()),
    Verified(),
    Verified(start=Serial()),
    Audited(audit=200),
    Truncated(steps=3),
)


def linear() -> tuple[ImageModel, Tensor]:
    """The classifier, and w."""
    torch.manual_seed(0)
    w = torch.tensor([1.0, -1.0] * 6) / 12**0.5  # grey images lie on the boundary
    model = DEQ(SHAPE, 2, hidden=2, contraction=0.5, kernel=None)
    state = model.state_dict()
    state["layer.cell.raw"] = torch.eye(2)
    state["stem.1.weight"] = torch.stack((w, -w))
    state["stem.1.bias"] = torch.zeros(2)
    state["head.linear.weight"] = torch.eye(2)
    state["head.linear.bias"] = torch.zeros(2)
    model.load_state_dict(state)
    return model.eval(), w


def image_at(distance: float, w: Tensor) -> Tensor:
    """An image in [0, 1] at a signed distance from the boundary."""
    image = torch.full((12,), 0.5)
    return (image + (distance - image @ w) * w).view(SHAPE)


def certified(policy: Policy, distance: float, **changes: Any) -> Any:
    model, w = linear()
    smoothing = Smoothing(**{"sigma": SIGMA, "n": 4000, **changes})
    return Smoother(model, policy, smoothing).certify(image_at(distance, w), 0, 7)


@pytest.mark.parametrize(
    "policy", SOUND, ids=lambda p: f"{type(p).__name__}-{type(p.start).__name__}"
)
@pytest.mark.parametrize("distance", (0.2, -0.3))
def test_radius_is_below_the_true_one_and_near_it(policy: Policy, distance: float) -> None:
    found = certified(policy, distance)
    assert found.prediction == (0 if distance > 0 else 1)
    assert 0 < found.radius <= abs(distance)
    # 4000 samples at alpha 1e-3 bound p to 0.025 below it, the audit of 200 to 0.05.
    loss = 0.1 if isinstance(policy, Audited) else 0.04
    assert found.claim.lower > norm.cdf(abs(distance) / SIGMA) - loss
    assert found.evidence.undecided == 0


@pytest.mark.parametrize("sigma", (0.3, 0.7))
def test_no_radius_is_claimed_for_more_noise_than_was_drawn(sigma: float) -> None:
    # float32(0.7) is less than 0.7, and float32(0.3) more than 0.3.
    drawn = min(sigma, float(np.float32(sigma)))
    found = certified(Verified(), 0.4, sigma=sigma)
    assert 0 < found.radius == radius(found.claim.lower, drawn)
    assert radius(found.claim.lower, sigma) > found.radius or drawn == sigma
    model, w = linear()
    asked = Smoother(model, Verified(), Smoothing(sigma)).decide(image_at(0.6, w), 0, 0, 0.2)
    assert asked.claim.stop == "certified" and asked.claim.lower >= required_probability(0.2, drawn)


def test_a_discrete_certificate_is_of_the_classifier_that_rounds_its_input() -> None:
    # Rounding to steps of 1/255 moves each of 12 numbers by 1/510 at most, and w x by 12^.5 / 510.
    near = 12**0.5 / 510
    model, w = linear()
    image = (image_at(0.2, w) * 255).round() / 255
    distance = float(image.flatten() @ w)
    runs = {
        discrete: Smoother(model, Verified(), Smoothing(SIGMA, n=4000, discrete=discrete)).certify(
            image, 0, 7
        )
        for discrete in (False, True)
    }
    assert 0 < runs[True].radius <= distance + near
    # 4000 other samples: 6 deviations of a count.
    assert (
        abs(runs[True].evidence.votes - runs[False].evidence.votes) < 6 * (2 * 4000 * 0.25) ** 0.5
    )
    smoother = Smoother(model, Verified(), Smoothing(SIGMA, discrete=True))
    with pytest.raises(ValueError, match="values k/255 for discrete noise"):
        smoother.certify(image_at(0.2, w), 0, 7)


def test_nothing_is_claimed_near_the_boundary() -> None:
    found = certified(Verified(), 0.005)
    assert (found.prediction, found.radius) == (ABSTAIN, 0.0)


@pytest.mark.parametrize("policy", (Converged(), Verified(start=Clean()), Truncated()))
def test_deterministic_runs_do_not_depend_on_the_batch(policy: Policy) -> None:
    runs = [certified(policy, 0.1, batch=batch, n=1500, deterministic=True) for batch in (64, 400)]
    assert runs[0] == runs[1]


def test_proven_votes_do_not_depend_on_start_or_batch_at_all() -> None:
    votes = {
        certified(Verified(start=start), 0.1, batch=batch, n=1500).evidence.votes
        for start in (Cold(), Clean(), Tangent(), Serial())
        for batch in (64, 400)
    }
    assert len(votes) == 1


def test_decide_agrees_with_the_truth_on_both_sides_and_takes_fewer_samples() -> None:
    model, w = linear()
    smoother = Smoother(model, Verified(), Smoothing(SIGMA, n=10_000))
    within = smoother.decide(image_at(0.6, w), 0, 0, radius=0.3)
    beyond = smoother.decide(image_at(0.2, w), 0, 0, radius=0.5)
    assert (within.prediction, within.radius, within.claim.stop) == (0, 0.3, "certified")
    assert (beyond.prediction, beyond.radius, beyond.claim.stop) == (ABSTAIN, 0.0, "futile")
    assert within.evidence.samples < 1000
    assert beyond.evidence.samples < 1000


def test_progress_counts_every_sample_that_is_drawn() -> None:
    model, w = linear()
    seen: list[int] = []
    smoother = Smoother(model, Verified(), Smoothing(SIGMA, n=1000, n0=20), advance=seen.append)
    certificate = smoother.decide(image_at(0.6, w), 0, 0, radius=0.3)
    assert certificate.evidence.samples + 20 <= sum(seen) <= 1020
    seen.clear()
    smoother.certify(image_at(0.6, w), 0, 0)
    assert sum(seen) == 1020


def test_a_decision_does_not_depend_on_how_samples_are_drawn_together() -> None:
    model, w = linear()
    found = []
    for batch in (64, 1000):
        smoother = Smoother(model, Verified(), Smoothing(SIGMA, batch=batch))
        certificate = smoother.decide(image_at(0.4, w), 0, 0, radius=0.3)
        found.append(replace(certificate, evaluations=0))  # what was drawn beyond the decision
    assert found[0] == found[1]


def test_false_certificates_are_as_rare_as_alpha_says() -> None:
    # End to end, at the true radius itself: a decision for it would be false.
    model, w = linear()
    smoother = Smoother(model, Verified(), Smoothing(SIGMA, n=500, n0=20, alpha=0.1))
    image = image_at(0.2, w)
    false = sum(smoother.certify(image, 0, index).radius > 0.2 for index in range(150))
    # Binomial(150, 0.1) is above 33 with a probability of 1e-5, and below 2 with 1e-5.
    assert 2 <= false <= 33


def test_predict_returns_the_class_or_abstains() -> None:
    model, w = linear()
    smoother = Smoother(model, Verified(), Smoothing(SIGMA, n=500))
    sure, counts = smoother.predict(image_at(-0.4, w), 0)
    assert sure == 1
    assert counts.sum() == 500
    assert smoother.predict(image_at(0.0, w), 0)[0] == ABSTAIN


def test_policies_are_refused_where_they_are_not_sound() -> None:
    model, w = linear()
    torch.manual_seed(0)
    plain = DEQ(SHAPE, 2, hidden=4, head=8, groups=2).eval()
    smoothing = Smoothing(SIGMA)
    with pytest.raises(ValueError, match="another answer"):
        Smoother(plain, Converged(start=Clean()), smoothing)
    with pytest.raises(ValueError, match="input-independent"):
        Smoother(model, Truncated(start=Clean()), smoothing)
    with pytest.raises(ValueError, match="worst sample of the batch"):
        Smoother(model.with_solver(ODE("dopri5")), Converged(), smoothing)
    inner = Then(Davidenko(method="dopri5"), model.layer.solver)
    with pytest.raises(ValueError, match="worst sample of the batch"):
        Smoother(model.with_solver(inner), Converged(), smoothing)
    Smoother(model.with_solver(RungeKutta()), Converged(), smoothing)  # steps of each its own
    for ladder in (Robust(), Then(model.layer.solver), Davidenko()):
        for policy in (Truncated(), Audited()):
            with pytest.raises(ValueError, match="a whole solve"):
                Smoother(model.with_solver(ladder), policy, smoothing)
    with pytest.raises(ValueError, match="eval mode"):
        Smoother(DEQ(SHAPE, 2, hidden=4, head=8, groups=2), Converged(), smoothing)
    with pytest.raises(ValueError, match="judges all votes together"):
        Smoother(model, Audited(), smoothing).decide(image_at(0.2, w), 0, 0, 0.1)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        Smoother(model, Verified(), smoothing).certify(image_at(0.2, w) * 255, 0, 0)


def test_the_papers_rule_claims_more_than_is_true_where_its_chain_is_biased() -> None:
    # One step from where the batch before ended mixes two draws of noise, and the mean of two
    # draws is nearer to the image than either: S votes for A more often than G.
    true = norm.cdf(0.2 / SIGMA)
    wrong = certified(SrsPaper(steps=1), 0.2)
    assert wrong.claim.lower > true
    assert certified(Audited(steps=1), 0.2).claim.lower <= true
    with pytest.raises(ValueError, match="PaperTally for a Tally"):  # and no journal takes it
        Sampling(SIGMA, 1e-3, 4000, audits=True).check(wrong)


def test_logits_that_are_no_numbers_are_refused_before_sampling() -> None:
    model, w = linear()
    with torch.no_grad():
        model.head.linear.bias.fill_(float("nan"))  # type: ignore[union-attr, operator]
    drawn: list[int] = []
    with pytest.raises(ValueError, match="not finite"):
        Smoother(model, Converged(), Smoothing(SIGMA), drawn.append).certify(image_at(0.2, w), 0, 0)
    assert not drawn


@pytest.mark.parametrize("name, value", (("n", 0), ("n0", 0), ("batch", 0), ("alpha", 1.0)))
def test_numbers_out_of_range_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        Smoothing(**{"sigma": SIGMA, name: value})


def test_a_vote_that_is_undecided_counts_for_no_class() -> None:
    model, w = linear()
    stuck = Converged()
    smoother = Smoother(
        model.with_solver(replace(model.layer.solver, max_steps=0)), stuck, Smoothing(SIGMA, n=200)
    )
    found = smoother.certify(image_at(0.4, w), 0, 0)
    assert (found.evidence.votes, found.evidence.undecided, found.prediction) == (0, 200, ABSTAIN)
    assert np.isclose(found.claim.lower, 0)


def test_a_flow_may_start_from_the_clean_images_own_path_under_an_audit() -> None:
    # dz/dt = f(z; x) - z with W = I / 2 nears 2 relu(+-w v): sign and class are the same.
    model, w = linear()
    flow = model.with_solver(ODE("rk4", step_size=0.5), t1=5.0)
    smoothing = Smoothing(SIGMA, n=1500)
    cold = Smoother(flow, Converged(), smoothing).certify(image_at(0.3, w), 0, 0)
    late = Smoother(flow, Audited(start=Along(4.0), audit=300), smoothing)
    warm = late.certify(image_at(0.3, w), 0, 0)
    assert warm.prediction == cold.prediction == 0
    assert 0 < warm.radius <= 0.3
    # A fifth of the way: 8 evaluations for 40, and the audit's 300 samples in full.
    assert warm.evaluations < 0.45 * cold.evaluations
    with pytest.raises(ValueError, match="past the flow's end"):
        Smoother(flow, Audited(start=Along(5.0)), smoothing)
    with pytest.raises(ValueError, match="no time along which"):
        Smoother(model, Audited(start=Along(1.0)), smoothing)


def test_policies_name_what_they_certify() -> None:
    """From a start that follows the image only a proof tells that the answer is its own."""
    assert Converged().certifies == OWN and not Converged().proven
    warm = Converged(Tangent())
    assert warm.certifies == EXACT == Verified().certifies and warm.proven


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (torch.zeros(1, 2, 3), r"\(1, 2, 3\) of torch.float32"),
        (torch.zeros(2, 3), r"\(2, 3\)"),
        (torch.zeros(3), r"\(3,\)"),
        (torch.zeros(1, 1), r"\(1, 1\)"),  # of which the largest is always the first
        (torch.zeros(1, 3, dtype=torch.int64), r"\(1, 3\) of torch.int64"),
        ((torch.zeros(1, 3), None), "a tuple"),
    ],
)
def test_a_classifier_that_makes_no_row_of_logits_is_refused(made: Any, told: str) -> None:
    smoother = Smoother(lambda images: made, Converged(), Smoothing(SIGMA))
    with pytest.raises(ValueError, match=rf"logits \(B, classes\).*it made {told}"):
        smoother.certify(torch.zeros(1, 2, 2), 0, 0)
