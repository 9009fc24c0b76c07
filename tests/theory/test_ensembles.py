"""Many networks without their weight matrices: they have the law of those that have them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from homotopy_deq.theory import (
    Activation,
    DEQKernel,
    MLPKernel,
    ReLU,
    deq_ntk,
    gaussianity,
    sample_deq,
    sample_deqs,
    sample_mlp,
    sample_mlps,
    tanh,
)
from homotopy_deq.theory.ensembles import _split

X = torch.from_numpy(np.random.default_rng(4567).normal(size=(3, 10)))
BOTH = pytest.mark.parametrize("phi", [ReLU(), tanh()], ids=["relu", "tanh"])
NARROW = 24  # so that networks differ from their limit, by the same as those with matrices


def moments(drawn: Tensor) -> Tensor:
    """The mean of k and of its square, and their errors, each (3, 3)."""
    each = torch.stack((drawn, drawn.square()), 1)
    return torch.stack((each.mean(0), each.std(0) / len(each) ** 0.5))


def agree(one: Tensor, other: Tensor) -> bool:
    """Whether two samples' moments are within 4.5 of their errors: 18 tests, each at 7e-6."""
    (a, ea), (b, eb) = moments(one), moments(other)
    return bool(((a - b).abs() <= 4.5 * (ea**2 + eb**2).sqrt()).all())


@BOTH
@pytest.mark.parametrize("depth", [None, 3])
def test_networks_without_matrices_have_the_law_of_those_with(
    phi: Activation, depth: int | None
) -> None:
    lazy = sample_deqs(X, NARROW, 1500, activation=phi, depth=depth, seed=1).nngp
    with_w = torch.stack(
        [sample_deq(X, NARROW, activation=phi, depth=depth, seed=s).nngp for s in range(300)]
    )
    assert agree(lazy, with_w)
    assert not agree(lazy, 1.3 * with_w)


def test_plain_networks_without_matrices_have_the_law_of_those_with() -> None:
    lazy = sample_mlps(X, NARROW, 4, 1500, sigma_w=1.2)
    with_w = torch.stack([sample_mlp(X, NARROW, 4, sigma_w=1.2, seed=s) for s in range(600)])
    assert agree(lazy, with_w)
    mean, error = moments(sample_mlps(X, 400, 4, 400, sigma_w=1.2, seed=2))
    assert bool(((mean - MLPKernel(sigma_w=1.2, depth=4)(X))[0].abs() < 5 * error[0]).all())


def test_inputs_that_are_0_or_come_twice_have_states_that_are() -> None:
    x = torch.cat((X, 0 * X[:1], X[:1]))
    k = sample_deqs(x, 200, 20).nngp
    assert float(k[:, 3].abs().max()) == 0
    assert torch.allclose(k[:, 0], k[:, 4], rtol=1e-6)


def test_a_vector_is_split_into_what_is_in_a_span_and_an_orthonormal_rest() -> None:
    g = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(2, 40, 5, generator=g, dtype=torch.float64))[0].mT
    h = torch.randn(2, 3, 40, generator=g, dtype=torch.float64)
    h[:, 1] = h[:, 0] + 1e-7 * h[:, 1]  # nearly dependent
    inside, new, length = _split(basis, h)
    assert torch.allclose(inside @ basis + length @ new, h, atol=1e-14)
    whole = torch.cat((basis, new), 1)
    assert torch.allclose(whole @ whole.mT, torch.eye(8, dtype=torch.float64), atol=1e-8)


def test_a_network_that_does_not_settle_is_refused() -> None:
    with pytest.raises(ValueError, match="smaller sigma_w"):
        sample_deqs(X, 100, 2, sigma_w=3.0, activation=tanh(), max_steps=50)
    with pytest.raises(ValueError, match="networks must be at least 1"):
        sample_deqs(X, 100, 0)


@BOTH
def test_the_squared_error_of_the_covariance_falls_like_one_over_the_width(
    phi: Activation,
) -> None:
    kernel = DEQKernel(phi)(X)
    widths, errors = (64, 128, 256, 512), []
    for n in widths:
        drawn = sample_deqs(X, n, 400, activation=phi, seed=n).nngp
        errors.append(float(((drawn - kernel).square().sum((1, 2)) / kernel.square().sum()).mean()))
    slope = np.polyfit(np.log(widths), np.log(errors), 1)[0]
    # A mean's relative deviation is at most 1 / sqrt(400) = .05, so the slope's is .03.
    assert -1.1 <= slope <= -0.9
    if isinstance(phi, ReLU):
        each = [n * error for n, error in zip(widths, errors, strict=True)]
        assert all(7.8 * 0.85 < n_error < 8.6 * 1.15 for n_error in each)  # 3 deviations


@BOTH
def test_networks_of_width_4000_are_as_far_from_their_limit_as_published(phi: Activation) -> None:
    low, high = (0.026, 0.048) if isinstance(phi, ReLU) else (0.014, 0.029)
    kernel = DEQKernel(phi)(X)
    drawn = sample_deqs(X, 4000, 24, activation=phi, seed=5).nngp
    error = ((drawn - kernel).square().sum((1, 2)) / kernel.square().sum()).sqrt()
    assert low < float(error.median()) < high  # the published range is of a few networks


def test_the_tangent_kernel_of_width_2000_is_within_8_percent() -> None:
    theta = deq_ntk(X)
    for seed in range(3):
        found = sample_deq(X, 2000, seed=seed).ntk
        assert float((found - theta).norm() / theta.norm()) < 0.08


@pytest.mark.slow
@BOTH
def test_the_output_of_ten_thousand_networks_is_normal_with_the_predicted_variance(
    phi: Activation,
) -> None:
    kernel = DEQKernel(phi)(X[:1])
    drawn = sample_deqs(X[:1], 1000, 10_000, activation=phi, seed=0).outputs[..., 0]
    found = gaussianity(drawn, kernel)
    # Published: .0049 (tanh), .0061 (ReLU). Of 10,000 normal numbers .0136 is passed by one draw
    # in 20, and half of them pass .0083.
    assert float(found.marginal[0]) < 0.0136
    assert float(gaussianity(drawn, 0.8 * kernel).marginal[0]) > 0.0136
