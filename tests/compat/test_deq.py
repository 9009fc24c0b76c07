"""A script of torchdeq's does the same through our solvers; the library itself beside, if there."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from homotopy_deq import Broyden, SolveError, Status
from homotopy_deq.compat import add_deq_args, deq, fp_correction, get_deq, jac_reg, power_method
from homotopy_deq.layer import ConvergenceWarning

TIGHT = {"f_tol": 1e-12, "f_max_iter": 200, "b_tol": 1e-12, "b_max_iter": 200}


class Map(nn.Module):
    """tanh(W z + x) with ||W|| = .8 in double precision: it contracts, so iterates improve."""

    def __init__(self, n: int = 5) -> None:
        super().__init__()
        weight = torch.randn(n, n, generator=torch.Generator().manual_seed(0)).double()
        self.weight = nn.Parameter(0.8 * weight / torch.linalg.matrix_norm(weight, 2))

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(z @ self.weight.T + x)


def inputs(n: int = 5) -> Tensor:
    x = torch.randn(4, n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return x.requires_grad_()


def gradients(z_out: list[Tensor], *to: Tensor) -> tuple[Tensor, ...]:
    """Return those of a loss over all states, the last with more weight."""
    loss = torch.stack([(k + 1) * z.sin().sum() for k, z in enumerate(z_out)]).sum()
    return torch.autograd.grad(loss, to)


def close(a: Any, b: Any, atol: float) -> bool:
    return all(torch.allclose(x, y, rtol=0, atol=atol) for x, y in zip(a, b, strict=True))


SETTINGS: list[dict[str, Any]] = [
    {"n_states": 1, "grad": 1},
    {"n_states": 3, "grad": 2, "tau": 0.7},
    {"n_states": 4, "grad": [1, 2, 3, 4]},
    {"indexing": [2, 5], "grad": 1},
    {"n_states": 1, "grad": 4, "sup_gap": 2},
    {"n_states": 1, "grad": 4, "sup_loc": [1, 3]},
]


@pytest.mark.parametrize("core", ["sliced", "indexing"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_states_and_gradients_are_those_of_torchdeq(core: str, settings: dict[str, Any]) -> None:
    """Picard's iterates are the same, and no sample stops early: only rounding differs."""
    torchdeq = pytest.importorskip("torchdeq")
    f, x = Map(), inputs()
    options = {"core": core, "f_max_iter": 12, "f_tol": 1e-15, **settings}
    found = []
    for make in (torchdeq.get_deq, get_deq):
        z_out, _ = make(**options).train()(lambda z: f(z, x), torch.zeros_like(x))
        found.append((z_out, gradients(z_out, x, f.weight)))
    assert len(found[0][0]) == len(found[1][0])
    assert close(found[0][0], found[1][0], 1e-14) and close(found[0][1], found[1][1], 1e-13)


@pytest.mark.parametrize("solver", ["fixed_point_iter", "anderson", "broyden"])
@pytest.mark.parametrize("which", ["ift", "hook_ift"])
def test_implicit_gradient_is_that_of_torchdeq(solver: str, which: str) -> None:
    torchdeq = pytest.importorskip("torchdeq")
    f, x = Map(), inputs()
    found = []
    for make in (torchdeq.get_deq, get_deq):
        module = make(f_solver=solver, b_solver="fixed_point_iter", **{which: True}, **TIGHT)
        z_out, info = module(lambda z: f(z, x), torch.zeros_like(x))
        assert float(info["abs_lowest"].max()) < 1e-9
        found.append((z_out, gradients(z_out, x, f.weight)))
    # 1e-9 in z, times 1 / (1 - .8)
    assert close(found[0][0], found[1][0], 1e-8) and close(found[0][1], found[1][1], 1e-7)


@pytest.mark.parametrize("core", ["sliced", "indexing"])
def test_gradients_of_several_states_are_those_of_autograd(core: str) -> None:
    """The last by (I - J)^-1, those before by the steps that follow them."""
    f, x = Map(), inputs()
    module = get_deq(
        core=core, n_states=3, ift=True, grad=2, tau=0.6, **{**TIGHT, "f_max_iter": 90}
    )
    z_out, _ = module(lambda z: f(z, x), torch.zeros_like(x))
    loss = z_out[0].sum() + 2 * z_out[1].sum() + 3 * z_out[2].sum()
    (got,) = torch.autograd.grad(loss, f.weight)

    z = torch.zeros_like(x)
    expected = torch.zeros_like(f.weight)
    for k in range(2):
        with torch.no_grad():
            for _ in range(30):
                z = f(z, x)
        at = z.detach()
        for _ in range(2):
            at = at + 0.6 * (f(at, x) - at)
        expected += torch.autograd.grad((k + 1) * at.sum(), f.weight)[0]
        z = at.detach() if core == "sliced" else z  # a difference of .8^30 that the root forgets
    with torch.no_grad():
        for _ in range(300):
            z = f(z, x)
    for row, one in zip(z, x.detach(), strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda r, one=one: f(r[None], one)[0], row)
        u = torch.linalg.solve(torch.eye(5).double() - jacobian.T, torch.full((5,), 3.0).double())
        image = f(row[None].detach(), one[None])
        expected += torch.autograd.grad((image * u).sum(), f.weight)[0]
    assert torch.allclose(got, expected, rtol=1e-8)


def test_a_list_of_states_and_several_injections_go_through() -> None:
    torchdeq = pytest.importorskip("torchdeq")
    x, y = inputs(3), inputs(2)
    w = torch.nn.Parameter(torch.full((3, 2), 0.3).double())

    def f(a: Tensor, b: Tensor) -> list[Tensor]:
        return [torch.tanh(b @ w.T + x), torch.tanh(0.3 * a @ w + 0.2 * b + y)]

    found = []
    for make in (torchdeq.get_deq, get_deq):
        z_out, _ = make(ift=True, **TIGHT)(f, [torch.zeros_like(x), torch.zeros_like(y)])
        (pair,) = z_out
        assert isinstance(pair, list) and [each.shape for each in pair] == [x.shape, y.shape]
        loss = pair[0].sum() + 2 * pair[1].sum()
        found.append((pair, torch.autograd.grad(loss, (w, x, y))))
    assert close(found[0][0], found[1][0], 1e-10) and close(found[0][1], found[1][1], 1e-9)


def test_one_call_takes_injections_as_arguments_and_gives_the_same() -> None:
    f, x = Map(), inputs()
    (z,), info = deq(f, torch.zeros_like(x), x, ift=True, **TIGHT)
    (other,), _ = get_deq(ift=True, **TIGHT)(lambda z: f(z, x), torch.zeros_like(x))
    assert torch.allclose(z, other, rtol=0, atol=1e-11)
    assert close(
        torch.autograd.grad(z.sum(), (x, f.weight)),
        torch.autograd.grad(other.sum(), (x, f.weight)), 1e-10,
    )  # fmt: skip
    assert set(info["status"].tolist()) == {Status.CONVERGED}
    assert torch.allclose(info["abs_lowest"], (f(z, x) - z).norm(dim=1), rtol=1e-2)


def test_evaluation_returns_one_state_with_its_gradient_and_says_what_failed() -> None:
    f, x = Map(), inputs()
    module = get_deq(n_states=3, ift=True, f_tol=1e-8, eval_factor=5).eval()
    z_out, info = module(lambda z: f(z, x), torch.zeros_like(x), sradius_mode=True)
    assert len(z_out) == 1 and z_out[0].requires_grad  # torchdeq's has none
    z = z_out[0].detach()
    slope = 1 - f(z, x).detach().square()
    exact = torch.linalg.eigvals(slope[:, :, None] * f.weight.detach()).abs().amax(1)
    # a power iteration of 50 steps between eigenvalues of one size: within a hundredth
    assert torch.allclose(info["sradius"], exact, rtol=0.02)
    with pytest.warns(ConvergenceWarning, match="4 of 4 samples"):
        module(lambda z: f(z, x), torch.zeros_like(x), {"f_max_iter": 2})
    strict = get_deq(f_max_iter=2, f_tol=1e-8, on_failure="raise").eval()
    with pytest.raises(SolveError):
        strict(lambda z: f(z, x), torch.zeros_like(x))


def test_a_solver_of_this_library_can_stand_for_a_name() -> None:
    f, x = Map(), inputs()
    (z,), info = deq(f, torch.zeros_like(x), x, f_solver=Broyden(rtol=1e-10), training=False)
    assert float(info["rel_lowest"].max()) <= 1e-10 and info["solution"].converged.all()
    assert torch.allclose(f(z, x), z, atol=1e-9)


def test_options_come_from_a_namespace_that_holds_others_and_keywords_go_first() -> None:
    args = Namespace(lr=0.1, f_solver="anderson", f_max_iter=7, grad=[2], epochs=3)
    options = get_deq(args, f_max_iter=9).options
    assert (options.f_solver, options.f_max_iter, options.grad) == ("anderson", 9, (2,))
    assert args == Namespace(lr=0.1, f_solver="anderson", f_max_iter=7, grad=[2], epochs=3)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"f_sovler": "anderson"}, "f_sovler: no option of get_deq"),
        ({"f_solver": "secant"}, "f_solver must be one of fixed_point_iter"),
        ({"f_stop_mode": "l2"}, "must be one of abs, rel"),
        ({"grad": 0}, "grad must be at least 1"),
        ({"grad": [1, 2], "n_states": 3}, "one number or 3"),
        ({"tau": 0.0}, "tau must be in"),
        ({"core": "none"}, "core must be one of sliced, indexing"),
    ],
)
def test_what_is_not_valid_is_one_line_and_never_taken(options: dict[str, Any], told: str) -> None:
    with pytest.raises((TypeError, ValueError), match=told):
        get_deq(**options)


def test_what_is_not_offered_is_told_at_the_call() -> None:
    f, x = Map(), inputs()
    module, z0 = get_deq(f_solver="anderson"), torch.zeros(4, 5).double()
    for call in ({"lam": 1e-3}, {"return_final": True}, {"misspelt": 1}):
        with pytest.raises(TypeError):
            module(lambda z: f(z, x), z0, call)
    with pytest.raises(TypeError, match="backward_writer"):
        module(lambda z: f(z, x), z0, backward_writer=print)


def test_jac_reg_estimates_the_squared_norm_of_the_jacobian() -> None:
    matrix = torch.randn(6, 6, dtype=torch.float64)
    z = torch.zeros(500, 6, dtype=torch.float64, requires_grad=True)
    got = jac_reg(z @ matrix.T, z, vecs=20)
    # 10,000 Gaussian vectors: the mean of ||A^T v||^2 is within 5 standard errors of 2%
    assert float(got.detach()) == pytest.approx(float(matrix.square().sum() / 6), rel=0.1)


def test_power_method_finds_the_radius_of_a_rotation() -> None:
    turn = 0.9 * torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    z = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    vector, radius = power_method(z @ turn.T, z, n_iters=20)
    assert torch.allclose(radius, torch.full((3,), 0.9).double(), atol=1e-12)
    assert torch.allclose(vector.norm(dim=1), torch.ones(3).double())


@pytest.mark.parametrize("weights", ["exp", "linear"])
def test_corrections_weigh_states_as_torchdeq_does(weights: str) -> None:
    theirs = pytest.importorskip("torchdeq.loss").fp_correction
    x, y = [torch.randn(3, 2) for _ in range(4)], torch.randn(3, 2)
    args = (nn.functional.mse_loss, (x, y))
    assert torch.allclose(fp_correction(*args, weights), theirs(*args, weights))
    assert len(fp_correction(*args, weights, True, gamma=0.5)[1]) == 4
    each = (nn.MSELoss(reduction="none"), (x, y))  # a loss of each entry stays one
    assert torch.allclose(fp_correction(*each, weights), theirs(*each, weights))
    assert fp_correction(*each, weights).shape == y.shape


def test_corrections_of_lists_that_are_not_of_one_length_are_refused() -> None:
    x, y = [torch.zeros(2)] * 3, torch.zeros(2)
    assert fp_correction(nn.functional.mse_loss, (x, [y])) == 0
    with pytest.raises(ValueError, match="one length, that of the states; got 3, 2"):
        fp_correction(nn.functional.mse_loss, (x, [y, y]))


def test_a_parser_has_torchdeqs_options_and_their_defaults() -> None:
    theirs = pytest.importorskip("torchdeq.utils").add_deq_args
    parsers = ArgumentParser(), ArgumentParser()
    theirs(parsers[0])
    add_deq_args(parsers[1])
    expected, got = (vars(parser.parse_args([])) for parser in parsers)
    assert {name: got[name] for name in expected} == expected
    words = ["--ift", "--grad", "2", "3", "--n_states", "2", "--f_solver", "anderson"]
    options = get_deq(parsers[1].parse_args(words)).options
    assert options.ift and options.grad == (2, 3) and options.f_solver == "anderson"


def test_rows_that_are_one_system_are_solved_as_one() -> None:
    """A graph of features by nodes, as implicit graph networks have it: rows mix through W."""
    w = 0.5 * torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]
    a = torch.eye(6, dtype=torch.float64).roll(1, 0)
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    module = get_deq(ift=True, coupled=True, **TIGHT).eval()
    (z,), info = module(lambda z: w @ z @ a + x, torch.zeros_like(x), sradius_mode=True)
    inverse = torch.linalg.inv(
        torch.eye(24).double() - torch.kron(w.contiguous(), a.T.contiguous())
    )
    assert torch.allclose(z, (inverse @ x.flatten()).view(4, 6), atol=1e-9)
    (got,) = torch.autograd.grad(z.sum(), x)
    assert torch.allclose(got, inverse.sum(0).view(4, 6), atol=1e-8)
    assert torch.allclose(info["sradius"], torch.full((4,), 0.5).double(), atol=1e-10)


@pytest.mark.parametrize("core", ["sliced", "indexing"])
def test_no_iteration_leaves_the_start_with_the_steps_of_its_gradient(core: str) -> None:
    """Where a path of no steps is sliced, each state is one step of the gradient on."""
    f, x = Map(), inputs()
    for n_states in (1, 3):
        module = get_deq(core=core, n_states=n_states)
        z_out, _ = module(lambda z: f(z, x), torch.zeros_like(x), {"f_max_iter": 0})
        assert len(z_out) == (n_states if core == "sliced" else 1)
        expected = torch.zeros_like(x)
        for z in z_out:
            expected = f(expected, x)
            assert torch.allclose(z, expected, rtol=0, atol=1e-15)  # z + (f(z) - z)
