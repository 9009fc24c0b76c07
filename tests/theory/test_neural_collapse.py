"""Measures of neural collapse, and the unconstrained-features model."""

from __future__ import annotations

import math

import pytest
import torch

from homotopy_deq.theory import (
    CollapseMeter,
    UnconstrainedFeatures,
    make_imbalanced,
    minority_cosine,
    simplex_etf,
    simplex_gram,
)


def measured(features: torch.Tensor, labels: torch.Tensor, w: torch.Tensor, **settings: object):  # type: ignore[no-untyped-def]
    first = CollapseMeter(len(w), **settings)  # type: ignore[arg-type]
    first.update(features, labels)
    second = CollapseMeter(len(w), means=first.means, **settings)  # type: ignore[arg-type]
    for part in torch.arange(len(labels)).chunk(3):
        second.update(features[part], labels[part], features[part] @ w.mT)
    return second.compute(w)


@pytest.mark.parametrize("centre", ["samples", "classes"])
def test_a_simplex_is_perfect_collapse(centre: str) -> None:
    e = simplex_etf(6, 9)
    assert torch.allclose(e @ e.mT / (e @ e.mT).norm(), simplex_gram(6), atol=1e-15)
    found = measured(2 * e.repeat(4, 1), torch.arange(6).repeat(4), e, centre=centre)
    for value in (found.nc1, found.nc1_trace, found.nc2_means, found.nc2_weights, found.nc2_angles,
                  found.nc3, found.nc3_direct):  # fmt: skip
        assert abs(value) <= 1e-14
    assert found.nc4 == 0
    assert found.vertices
    assert found.self_dual
    assert torch.allclose(found.norms, torch.full((6,), 2.0, dtype=torch.float64))


def test_the_measures_are_their_formulas_however_the_samples_come() -> None:
    g = torch.Generator().manual_seed(0)
    k, p, n = 4, 7, 90
    labels = torch.randint(k, (n,), generator=g)
    h = 1e3 + torch.randn(n, p, generator=g, dtype=torch.float64) + 2 * labels[:, None]
    w = torch.randn(k, p, generator=g, dtype=torch.float64)
    found = measured(h, labels, w)
    mu = torch.stack([h[labels == c].mean(0) for c in range(k)])
    m = mu - h.mean(0)
    within = sum((x - mu[c])[:, None] * (x - mu[c]) for x, c in zip(h, labels, strict=True)) / n
    between = m.mT @ m / k
    assert found.nc1 == pytest.approx(
        float(torch.trace(within @ torch.linalg.pinv(between))) / k, rel=1e-8
    )
    assert found.nc1_trace == pytest.approx(float(torch.trace(within) / torch.trace(between)))
    cosines = [float(torch.cosine_similarity(m[a], m[b], 0)) for a in range(k) for b in range(a)]
    assert found.nc2_angles == pytest.approx(sum(abs(c + 1 / (k - 1)) for c in cosines) / 6)
    product = w @ m.mT
    assert found.nc3 == pytest.approx(float((product / product.norm() - simplex_gram(k)).norm()))
    v = torch.stack([(h[labels == c] - mu[c]).square().sum(1).mean() for c in range(k)])
    pairs = [
        (v[a] + v[b]) / (2 * (mu[a] - mu[b]).square().sum())
        for a in range(k) for b in range(k) if a != b
    ]  # fmt: skip
    assert found.nc1_cdnv == pytest.approx(float(sum(pairs)) / len(pairs), rel=1e-8)
    near = torch.cdist(h, mu).argmin(1)
    assert found.nc4 == pytest.approx(1 - float((near == (h @ w.mT).argmax(1)).double().mean()))


def test_no_digit_is_lost_to_means_that_are_huge_and_far_apart() -> None:
    g = torch.Generator().manual_seed(0)
    labels, w = torch.arange(60) % 2, torch.eye(2, 3, dtype=torch.float64)
    noise = torch.randn(60, 3, generator=g, dtype=torch.float64)
    far = 2.0**30 * (1 + labels[:, None]) + noise
    exact = far - 2.0**30 * (1 + labels[:, None])  # what float64 kept of the noise
    within = sum(exact[labels == c].sub(exact[labels == c].mean(0)).square().sum() for c in (0, 1))
    mu = torch.stack([far[labels == c].mean(0) for c in (0, 1)])
    between = (mu[0] - mu[1]).square().sum() / 4
    for order in (torch.arange(60), labels.argsort()):
        found = measured(far[order], labels[order], w)
        assert found.nc1_trace == pytest.approx(float(within / 60 / between), rel=1e-6)


def test_features_and_labels_of_any_type_are_measured() -> None:
    labels = torch.arange(12) % 2
    h = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)).half()
    w = torch.randn(2, 4, generator=torch.Generator().manual_seed(1)).half()
    want = measured(h.double(), labels, w.double()).nc1
    assert measured(h, labels.byte(), w).nc1 == want
    for wrong in (labels.float(), labels[:-1], labels[:, None]):
        with pytest.raises(ValueError, match="labels must be integers"):
            CollapseMeter(2).update(h, wrong)


def test_one_sample_a_class_has_no_variability() -> None:
    h = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    meter = CollapseMeter(3)
    meter.update(h, torch.arange(3))
    found = meter.compute(torch.randn(3, 4))
    assert found.nc1 == found.nc1_trace == found.nc1_cdnv == 0


def test_the_two_centres_differ_where_classes_are_imbalanced() -> None:
    e = simplex_etf(3, 4)
    labels = torch.tensor([0] * 10 + [1, 2])
    assert measured(e[labels], labels, e, centre="classes").nc2_means < 1e-14
    assert measured(e[labels], labels, e, centre="samples").nc2_means > 0.1


def test_a_class_without_samples_is_named() -> None:
    meter = CollapseMeter(3)
    meter.update(torch.randn(4, 5), torch.tensor([0, 0, 1, 1]))
    with pytest.raises(ValueError, match=r"classes \[2\]"):
        meter.compute(torch.randn(3, 5))
    with pytest.raises(ValueError, match=r"labels must be in 0\.\.2"):
        meter.update(torch.randn(1, 5), torch.tensor([3]))


def test_an_imbalanced_subset_has_the_sizes_that_were_asked_for() -> None:
    labels = torch.arange(10).repeat(100)[torch.randperm(1000)]
    index = make_imbalanced(labels, 20, 3, 7, most=80)
    assert torch.bincount(labels[index]).tolist() == [80] * 3 + [4] * 7
    assert torch.equal(index, make_imbalanced(labels, 20, 3, 7, most=80))
    with pytest.raises(ValueError, match="class 0 has 100"):
        make_imbalanced(labels, 20, 3, 7, most=120)
    with pytest.raises(ValueError, match="no sample"):
        make_imbalanced(labels, 200, 3, 7, most=80)
    for ratio, majority, minority in ((0.5, 3, 7), (float("nan"), 3, 7), (2, 0, 0)):
        with pytest.raises(ValueError, match="ratio must be at least 1"):
            make_imbalanced(labels, ratio, majority, minority, most=80)


def test_a_simplex_needs_room() -> None:
    with pytest.raises(ValueError, match="5 dimensions"):
        simplex_etf(6, 4)


def test_the_balanced_optimum_is_a_simplex_and_its_bound_is_attained() -> None:
    model = UnconstrainedFeatures((1.0,) * 6)
    s, bound = model.balanced_optimum()
    assert s == pytest.approx(5.905, abs=5e-4)
    assert bound == pytest.approx(0.033700, abs=5e-7)
    w, h, value = model.solve()
    assert value == pytest.approx(bound, abs=1e-9)
    assert value >= bound - 1e-12
    assert minority_cosine(w, [0, 1, 2]) == pytest.approx(-0.2, abs=1e-5)
    assert float((w[0] - w[1]).norm()) == pytest.approx(3.7645, abs=1e-3)
    assert torch.allclose(w, h, atol=1e-4)


@pytest.mark.parametrize(
    ("gain", "cosines"),
    [
        (1.0, (-0.2, -0.1425, -0.0579, 0.0131, 1.0, 1.0)),
        (2.0, (-0.2, -0.1496, -0.0830, -0.0351, 1.0, 1.0)),
        (10.0, (-0.2, -0.1607, -0.1157, -0.0881, 0.0987, 1.0)),
    ],
)
def test_the_gain_of_a_deq_delays_minority_collapse(
    gain: float, cosines: tuple[float, ...]
) -> None:
    for ratio, want in zip((1.0, 10.0, 50.0, 100.0, 1e3, 1e4), cosines, strict=True):
        model = UnconstrainedFeatures((ratio,) * 3 + (1.0,) * 3, gain=gain)
        assert minority_cosine(model.solve()[0], [3, 4, 5]) == pytest.approx(want, abs=1e-4)


def test_a_bound_is_refused_where_there_is_none() -> None:
    with pytest.raises(ValueError, match="of one size"):
        UnconstrainedFeatures((2.0, 1.0)).balanced_optimum()
    with pytest.raises(ValueError, match="optimum is 0"):
        UnconstrainedFeatures((1.0, 1.0), decay=1.5).balanced_optimum()
    with pytest.raises(ValueError, match="dimension"):
        UnconstrainedFeatures((1.0,) * 9)
    assert math.isfinite(UnconstrainedFeatures((1.0, 1.0)).balanced_optimum()[1])
