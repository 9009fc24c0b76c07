"""Kernels of infinitely wide DEQs, against golden values, quadrature and finite networks."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from homotopy_deq.theory import (
    Activation,
    DEQKernel,
    Erf,
    KernelRegression,
    KernelWarning,
    LeakyReLU,
    MLPKernel,
    ReLU,
    Smooth,
    deq_nngp,
    deq_ntk,
    empirical_nngp,
    empirical_ntk,
    gaussianity,
    gelu,
    least_eigenvalue,
    sample_deq,
    sample_mlp,
    tanh,
)
from homotopy_deq.theory.adapters import SklearnKernel
from solvers import Anderson

X = torch.from_numpy(np.random.default_rng(4567).normal(size=(3, 10)))
EVERY = [ReLU(), LeakyReLU(0.2), Erf(), tanh(), gelu()]
NAMES = ["relu", "leaky", "erf", "tanh", "gelu"]


def rows(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_kernel_of_a_relu_deq_has_the_published_digits() -> None:
    # Those of neural-tangents 0.6.5 with 12 injected layers.
    k = deq_nngp(X)
    want = rows(0.346749, 0.143664, 0.208395, 0.640609, 0.106898, 0.945809)
    assert torch.allclose(k[tuple(torch.triu_indices(3, 3))], want, rtol=0, atol=6e-7)
    assert least_eigenvalue(k) == pytest.approx(0.250886, abs=6e-7)
    theta = deq_ntk(X)[tuple(torch.triu_indices(3, 3))]
    want = rows(0.76961, 0.13675, 0.23804, 1.42184, -0.01947, 2.09924)
    assert torch.allclose(theta, want, rtol=0, atol=6e-6)


def test_the_kernel_of_one_layer_has_the_published_digits() -> None:
    relu, erf = MLPKernel(ReLU()), MLPKernel(Erf())
    assert torch.allclose(relu(X)[0], rows(0.28433453, 0.10429169, 0.15616989), atol=6e-9)
    assert torch.allclose(relu.ntk(X)[0], rows(0.56866905, 0.08618335, 0.16292268), atol=6e-9)
    assert torch.allclose(erf(X)[0], rows(0.35721521, -0.0382874, 0.01141001), atol=6e-9)


@pytest.mark.parametrize("phi", EVERY, ids=NAMES)
def test_duals_are_the_expectations(phi: Activation) -> None:
    # Where phi has a kink the quadrature in two dimensions converges like 1 / nodes.
    nodes, weights = np.polynomial.hermite_e.hermegauss(150)
    n, w = torch.from_numpy(nodes), torch.from_numpy(weights / weights.sum())
    q1, q2 = rows(2.3), rows(0.7)
    for c in (-0.6, 0.0, 0.8):
        k = c * (q1 * q2).sqrt()
        u = q1.sqrt() * n[:, None]
        v = q2.sqrt() * (c * n[:, None] + math.sqrt(1 - c * c) * n[None])
        mean = (phi(u) * phi(v) * w[:, None] * w[None]).sum()
        slope = torch.func.grad(lambda x: phi(x).sum())
        both = (slope(u) * slope(v) * w[:, None] * w[None]).sum()
        tolerance = 2e-2 if isinstance(phi, LeakyReLU) else 3e-9  # of the quadrature
        assert float(phi.dual(q1, q2, k)) == pytest.approx(float(mean), abs=tolerance)
        assert float(phi.dual_slope(q1, q2, k)) == pytest.approx(float(both), abs=tolerance)


@pytest.mark.parametrize("phi", EVERY, ids=NAMES)
def test_a_dual_at_full_correlation_is_the_second_moment(phi: Activation) -> None:
    nodes, weights = np.polynomial.hermite_e.hermegauss(150)
    u = math.sqrt(1.7) * torch.from_numpy(nodes)
    mean = float(phi(u).square() @ torch.from_numpy(weights / weights.sum()))
    q = rows(1.7)
    assert float(phi.dual(q, q, q)) == pytest.approx(mean, rel=1e-6)


@pytest.mark.parametrize("phi", [torch.relu, torch.abs, torch.sign])
def test_a_function_with_a_kink_or_a_jump_is_refused_by_the_series(phi: object) -> None:
    q, k = rows(1.0), rows(0.5)
    with pytest.raises(ValueError, match="leaves out"):
        Smooth(phi, name="phi").dual(q, q, k)  # type: ignore[arg-type]


@pytest.mark.parametrize("phi", EVERY, ids=NAMES)
def test_the_diagonal_the_blocks_and_the_whole_agree(phi: Activation) -> None:
    kernel = DEQKernel(phi)
    for call in (kernel, kernel.ntk, kernel.preactivation, kernel.recurrent):
        whole = call(X)
        assert torch.allclose(call(X, diag=True), whole.diagonal(), rtol=1e-12)
        assert torch.allclose(call(X[:2], X), whole[:2], rtol=1e-12)
        assert torch.allclose(call(X[1:], X[:2], diag=True), whole[1:, :2].diagonal(), rtol=1e-12)


def test_the_three_kernels_differ_by_what_they_are_named_for() -> None:
    kernel = DEQKernel(sigma_w=0.5, sigma_u=1.5, sigma_v=0.7)
    k0 = 1.5**2 * X @ X.mT / 10
    assert torch.allclose(kernel.preactivation(X), kernel.recurrent(X) + k0, rtol=1e-12)
    assert torch.allclose(kernel(X) / 0.7**2, kernel.recurrent(X) / 0.5**2, rtol=1e-12)


def test_the_variance_of_a_relu_deq_is_the_closed_form() -> None:
    q = DEQKernel(sigma_w=0.9, sigma_u=1.2).preactivation(X, diag=True)
    want = 1.2**2 * X.square().sum(1) / 10 / (1 - 0.9**2 / 2)
    assert torch.allclose(q, want, rtol=1e-12)


def test_the_equilibrium_is_the_limit_of_depth_at_the_predicted_rate() -> None:
    limit = DEQKernel(sigma_w=0.8)
    errors = [
        float((DEQKernel(sigma_w=0.8, depth=d)(X) - limit(X)).abs().max()) for d in (10, 11, 12)
    ]
    rate = 0.8**2 / 2
    assert errors[1] / errors[0] == pytest.approx(rate, rel=1e-3)
    assert errors[2] / errors[1] == pytest.approx(rate, rel=1e-3)
    deep = DEQKernel(sigma_w=0.8, depth=80).ntk(X)
    assert torch.allclose(deep, limit.ntk(X), rtol=1e-8)


def test_a_shallow_network_has_its_own_variances() -> None:
    # By hand: K_2 = sigma_w^2 E_{K_1} phi phi + K_1 for the injection K_1 = X X^T / n_in.
    for phi in EVERY:
        k1 = X @ X.mT / 10
        q = k1.diagonal()
        k2 = 0.8**2 * phi.dual(q[:, None], q[None], k1) + k1
        q = k2.diagonal()
        want = phi.dual(q[:, None], q[None], k2)
        assert torch.allclose(DEQKernel(phi, sigma_w=0.8, depth=2)(X), want, rtol=1e-12)


def test_a_network_that_does_not_contract_keeps_its_diagonal() -> None:
    kernel = DEQKernel(tanh(), sigma_w=1.5)
    x = 0.1 * X
    q = kernel.preactivation(x, diag=True)
    assert torch.allclose(kernel.preactivation(x).diagonal(), q, rtol=1e-9)
    assert torch.allclose(kernel.recurrent(x, diag=True) + 0.01 * X.square().sum(1) / 10, q)


def test_any_solver_finds_the_kernel() -> None:
    other = DEQKernel(solver=Anderson(rtol=1e-12))
    assert torch.allclose(other(X), DEQKernel()(X), rtol=1e-10)


def test_the_iteration_of_a_relu_kernel_contracts_by_half_of_sigma_w_squared() -> None:
    limit = DEQKernel()(X)
    near = [float((DEQKernel(depth=d)(X) - limit).norm()) for d in (10, 11)]
    assert near[1] / near[0] == pytest.approx(0.6**2 / 2, rel=2e-4)  # the diagonal's, the slowest


def test_a_kernel_in_blocks_of_rows_is_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = DEQKernel(tanh())
    calls = kernel, kernel.ntk, kernel.preactivation, kernel.recurrent
    whole = [call(X) for call in calls]
    monkeypatch.setattr("homotopy_deq.theory.kernels.ROOM", 6)  # two rows of three
    for call, want in zip(calls, whole, strict=True):
        assert torch.allclose(call(X), want, rtol=1e-12)
        assert call(X[:0], X).shape == (0, 3)


def test_distinct_inputs_have_a_positive_definite_kernel() -> None:
    x = torch.randn(60, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for phi in EVERY:
        assert least_eigenvalue(DEQKernel(phi)(x)) > 1e-8


def test_an_odd_activation_is_singular_at_antipodal_inputs_and_at_0_and_warns() -> None:
    for other, singular in ((-X[:1], True), (0 * X[:1], True), (-2 * X[:1], False)):
        x = torch.cat((X, other))
        assert (abs(least_eigenvalue(deq_nngp(x, activation=tanh()))) < 1e-14) == singular
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            DEQKernel(tanh()).check(x)
            assert ["antipodal" in str(each.message) for each in caught] == [True] * singular
            DEQKernel(ReLU()).check(x)
        assert len(caught) == singular
    assert least_eigenvalue(DEQKernel(ReLU())(torch.cat((X, -X[:1])))) > 1e-3


def test_a_weight_scale_that_need_not_contract_warns() -> None:
    with pytest.warns(KernelWarning, match="not below 1"):
        DEQKernel(tanh(), sigma_w=1.5).check(0.1 * X)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DEQKernel(sigma_w=-1.0), "sigma_w must be 0 or more"),
        (lambda: DEQKernel(depth=0), "depth must be at least 1"),
        (lambda: DEQKernel()(X[0]), "inputs must be floats"),
        (lambda: DEQKernel()(X * float("nan")), "finite"),
        (lambda: DEQKernel()(X, X[:, :4]), "fit each other"),
        (lambda: DEQKernel()(X, X[:2], diag=True), "fit each other"),
        (lambda: DEQKernel(depth=2)(X.clone().requires_grad_()), "no gradient in its inputs"),
        (lambda: MLPKernel(depth=0), "depth must be at least 1"),
        (lambda: MLPKernel(sigma_w=-1.0), "sigma_w must be 0 or more"),
        (lambda: MLPKernel()(X, X[:, :4]), "fit each other"),
        (lambda: empirical_nngp(lambda seed: X, 0), "networks must be at least 1"),
        (lambda: KernelRegression(DEQKernel(), ridge=float("inf")), "ridge"),
        (lambda: LeakyReLU(2.0), "slope"),
        (lambda: KernelRegression(DEQKernel(), ridge=-1.0), "ridge"),
    ],
)
def test_malformed_input_gets_one_line(make: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()  # type: ignore[operator]


@pytest.mark.parametrize("depth", [None, 1, 3])
def test_the_tangent_kernel_of_a_sample_is_that_of_its_gradients(depth: int | None) -> None:
    torch.manual_seed(0)
    n, x = 40, X[:, :4]
    sample = sample_deq(x, n, seed=3, sigma_w=0.7, sigma_u=1.3, sigma_v=0.9, depth=depth)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            g = torch.Generator().manual_seed(3)
            self.w, self.u, self.v = (
                nn.Parameter(torch.randn(a, b, generator=g, dtype=torch.float64))
                for a, b in ((n, n), (n, 4), (1, n))
            )

        def forward(self, x: Tensor) -> Tensor:
            h = torch.zeros(len(x), n, dtype=torch.float64)
            for _ in range(depth or 80):
                h = torch.relu(
                    h @ self.w.mT * (0.7 / n**0.5) + x @ self.u.mT * (1.3 / x.shape[1] ** 0.5)
                )
            return h @ self.v.mT * (0.9 / n**0.5)

    net = Net()
    assert torch.allclose(net(x), sample.outputs, rtol=1e-8)
    for block in (1, 64):
        assert torch.allclose(empirical_ntk(net, x, block=block), sample.ntk, rtol=1e-6)


def test_a_sample_may_be_in_single_precision() -> None:
    single, double = (sample_deq(x, 64, seed=1) for x in (X.float(), X))
    assert single.ntk.dtype == torch.float32
    assert double.residual < 1e-10 < single.residual < 3e-6


def test_outputs_are_jointly_gaussian_with_the_predicted_covariance() -> None:
    kernel = deq_nngp(X)
    drawn = torch.stack(
        [sample_deq(X, 200, seed=s, outputs=2).outputs.mT.flatten() for s in range(250)]
    )
    both = torch.block_diag(kernel, kernel)
    found = gaussianity(drawn, both)
    assert float(found.p_marginal.min()) > 1e-3
    assert found.p_joint > 1e-3
    wrong = gaussianity(drawn, 1.3 * both)  # the variance is the predicted one, not the samples'
    assert wrong.p_joint < 1e-6


def test_width_and_depth_commute_for_a_deq_and_not_for_a_plain_network() -> None:
    # At depth = width the square of a plain network's features is log-normal; a DEQ's concentrates.
    width, seeds = 32, 60
    x = X[:1]
    deq = torch.tensor(
        [float(sample_deq(x, width, depth=width, seed=s).nngp) for s in range(seeds)]
    )
    deq = deq / float(DEQKernel(depth=width)(x))
    mlp = torch.tensor(
        [
            float(sample_mlp(x, width, width, sigma_w=2**0.5, sigma_u=2**0.5, seed=s))
            for s in range(seeds)
        ]
    )
    mlp = mlp / float(MLPKernel(sigma_w=2**0.5, sigma_u=2**0.5, depth=width)(x))
    assert 0.1 < float(deq.std()) < 0.8  # of order 1 / sqrt(width)
    assert float(deq.median()) > 0.8
    assert float(mlp.median()) < 0.4
    assert float(mlp.log().std()) > 1.5


def test_regression_fits_its_targets_and_flows_to_them() -> None:
    y = torch.tensor([0, 1, 2])
    for kernel in (DEQKernel(), DEQKernel().ntk):
        model = KernelRegression(kernel).fit(X, y)
        assert torch.allclose(model.predict(X), torch.eye(3, dtype=torch.float64) - 1 / 3)
        assert model.score(X, y) == 1
        assert torch.allclose(model.at(X, 1e6), model.predict(X))
        assert float(model.at(X, 0.0).abs().max()) == 0
        step = 1e-6  # f' = K (y - f) at 0
        slope = model.at(X, step) / step
        want = kernel(X, X) @ (torch.eye(3, dtype=torch.float64) - 1 / 3)
        assert torch.allclose(slope, want, rtol=1e-4)


def test_a_kernel_that_is_not_positive_definite_is_refused_with_its_least_eigenvalue() -> None:
    twice = torch.cat((X, X[:1]))
    with pytest.raises(ValueError, match="least eigenvalue"):
        KernelRegression(lambda a, b: DEQKernel()(a, b) - 0.5).fit(twice, torch.arange(4))
    fitted = KernelRegression(DEQKernel(), ridge=1e-6).fit(twice, torch.arange(4))
    assert fitted.predict(X).isfinite().all()


@pytest.mark.parametrize(
    "y",
    [torch.eye(3).long(), torch.zeros(4), torch.tensor([-1, 0, 1]), torch.zeros(3, 1, 1),
     torch.zeros(3, dtype=torch.complex64)],
)  # fmt: skip
def test_targets_that_do_not_fit_get_one_line(y: Tensor) -> None:
    with pytest.raises(ValueError, match="y must be targets") as caught:
        KernelRegression(DEQKernel()).fit(X, y)
    assert "\n" not in str(caught.value)


def test_classes_of_any_type_are_the_same_classes() -> None:
    y = torch.tensor([0, 1, 1])
    want = KernelRegression(DEQKernel()).fit(X, y).predict(X)
    for other in (y.byte(), y.bool(), y.int()):
        assert torch.equal(KernelRegression(DEQKernel()).fit(X, other).predict(X), want)


@pytest.mark.parametrize("phi", [ReLU(), Erf(), tanh(), Smooth(nn.functional.softplus)])
def test_inputs_that_are_0_or_come_twice_have_the_kernel_of_their_limit(phi: Activation) -> None:
    kernel = DEQKernel(phi)
    x = torch.cat((X[:1], 0 * X[:1], X[:1]))
    near = x + torch.tensor([[0.0], [1e-9], [0.0]]) * X[1]
    for of in (kernel, kernel.ntk, MLPKernel(phi, depth=3).ntk):
        assert torch.allclose(of(x), of(near), rtol=1e-6, atol=1e-8)
        assert torch.allclose(of(x)[0], of(x)[2], rtol=1e-12, atol=1e-15)
        assert torch.allclose(of(x).diagonal(), of(x, diag=True), rtol=1e-12, atol=1e-15)
        assert of(x[:0]).shape == (0, 0)
        assert of(x[:1], x).shape == (1, 3)


def test_the_slope_of_a_smooth_function_at_variance_0_is_its_derivative() -> None:
    none = torch.zeros(1, dtype=torch.float64)
    for q in (none, none + 1e-40, none + 1e-20):
        assert float(tanh().dual_slope(q, q, q)) == pytest.approx(1, abs=1e-9)
        assert float(gelu().dual_slope(q, q, q)) == pytest.approx(0.25, abs=1e-9)
        softplus = Smooth(nn.functional.softplus)
        assert float(softplus.dual_slope(q, q, q)) == pytest.approx(0.25, abs=1e-9)


def test_a_chaotic_kernel_keeps_its_diagonal_and_has_no_tangent_kernel() -> None:
    kernel = DEQKernel(Erf(), sigma_w=3.0)
    q = kernel.preactivation(X, diag=True)
    for at in (kernel(X).diagonal(), kernel(X, diag=True)):
        assert torch.allclose(at, 2 / math.pi * torch.arcsin(2 * q / (1 + 2 * q)), rtol=1e-10)
    with pytest.raises(ValueError, match="tangent kernel of the equilibrium diverges"):
        kernel.ntk(X)


def test_scikit_learn_takes_the_kernel() -> None:
    from sklearn.base import clone
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, WhiteKernel

    x, y = X.numpy(), np.array([1.0, -1.0, 2.0])
    plain = GaussianProcessRegressor(clone(SklearnKernel()), alpha=0.1).fit(x, y)
    k = deq_nngp(X).numpy()
    want = k @ np.linalg.solve(k + 0.1 * np.eye(3), y)
    assert np.allclose(plain.predict(x), want)
    tuned = ConstantKernel() * SklearnKernel(tangent=True) + WhiteKernel()
    mean, deviation = GaussianProcessRegressor(tuned).fit(x, y).predict(x, return_std=True)
    assert np.isfinite(mean).all()
    assert (deviation >= 0).all()
    assert np.allclose(SklearnKernel().diag(x), k.diagonal())
