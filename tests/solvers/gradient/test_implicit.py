from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor

from solvers import (
    ODE,
    Anderson,
    Equilibrium,
    Implicit,
    InitialValue,
    Phantom,
    Picard,
    Status,
    solve,
)
from solvers.gradient.rows import BackwardWarning
from tests.problems import (
    DOUBLE,
    affine,
    contractions,
    exact_gradient,
    linear,
    normal,
    psd,
    tanh,
)

TIGHT = Anderson(rtol=1e-13, max_steps=500)
EXACT = Implicit(TIGHT)
Root = Callable[[Tensor, Tensor], Tensor]


def weights(n: int = 4, batch: int = 2) -> tuple[Tensor, Tensor]:
    """Return W, shared by the batch, and x."""
    w = contractions(1, n, 0.6, 0)[0].requires_grad_()
    return w, normal(1, batch, n).requires_grad_()


def by_condition(w: Tensor, x: Tensor) -> Tensor:
    """x and W both arrive as conditions."""
    condition = (w.expand(x.shape[0], *w.shape), x)
    return EXACT.apply(Equilibrium(tanh, condition), TIGHT, torch.zeros_like(x)).value


def by_closure(w: Tensor, x: Tensor) -> Tensor:
    problem = Equilibrium(lambda z: torch.tanh(z @ w.mT + x))
    return EXACT.apply(problem, TIGHT, torch.zeros_like(x)).value


def by_both(w: Tensor, x: Tensor) -> Tensor:
    problem = Equilibrium(lambda z, x: torch.tanh(z @ w.mT + x), (x,))
    return EXACT.apply(problem, TIGHT, torch.zeros_like(x)).value


def by_tuple(w: Tensor, x: Tensor) -> Tensor:
    def f(z: tuple[Tensor, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        image = torch.tanh(torch.cat(z, 1) @ w.mT + x)
        return image[:, :1], image[:, 1:]

    problem = Equilibrium(f, (x,))  # type: ignore[arg-type]
    zero = torch.zeros_like(x)
    return torch.cat(EXACT.apply(problem, TIGHT, (zero[:, :1], zero[:, 1:])).value, 1)


FORMS = [by_condition, by_closure, by_both, by_tuple]
every_form = pytest.mark.parametrize("root", FORMS, ids=lambda form: form.__name__)


@every_form
def test_first_and_second_derivatives_are_those_of_finite_differences(root: Root) -> None:
    assert torch.autograd.gradcheck(root, weights())
    assert torch.autograd.gradgradcheck(root, weights(), fast_mode=True)  # in random directions


@every_form
def test_gradient_is_that_of_a_dense_solve(root: Root) -> None:
    w, x = weights()
    value, v = root(w, x), normal(3, 2, 4)
    wanted = exact_gradient(lambda z, w, x: torch.tanh(z @ w.mT + x), value, (w, x), v)
    for got, want in zip(torch.autograd.grad(value, (w, x), v), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-11)


def nth_derivative(root: Root, order: int) -> Tensor:
    """Return the gradient in x of |..|^2, taken of its own square again and again."""
    w, x = weights()
    value = root(w, x)
    for _ in range(order):
        (value,) = torch.autograd.grad(value.square().sum(), x, create_graph=True)
    return value.detach()


def by_iteration(w: Tensor, x: Tensor) -> Tensor:
    z = torch.zeros_like(x)
    for _ in range(100):  # contracts by 0.6
        z = torch.tanh(z @ w.mT + x)
    return z


@every_form
@pytest.mark.parametrize("order", [2, 3, 4])
def test_higher_derivatives_are_those_of_the_iteration(root: Root, order: int) -> None:
    """torch's once_differentiable lets autograd.grad pass with a wrong number."""
    exact = nth_derivative(by_iteration, order)
    torch.testing.assert_close(nth_derivative(root, order), exact, rtol=1e-8, atol=1e-10)


def test_gradient_through_the_equation_of_another_layer() -> None:
    """The condition of the second equation is the root of the first."""
    w, x = weights()
    both = by_both(w, by_both(w, x))
    (got,) = torch.autograd.grad(both.sum(), w)

    def nested(w: Tensor) -> Tensor:
        z = y = torch.zeros_like(x)
        for _ in range(200):
            z = torch.tanh(z @ w.mT + x)
        for _ in range(200):
            y = torch.tanh(y @ w.mT + z)
        return y.sum()

    (want,) = torch.autograd.grad(nested(w), w)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


def test_parameter_shared_by_map_and_encoder_counts_once_on_each_way() -> None:
    """W makes the condition x = W e, and stands in the map too."""
    w, _ = weights()
    e = normal(5, 2, 4)

    def implicit(w: Tensor) -> Tensor:
        return by_both(w, e @ w.mT)

    def iterated(w: Tensor) -> Tensor:
        z = torch.zeros_like(e)
        for _ in range(200):
            z = torch.tanh(z @ w.mT + e @ w.mT)
        return z

    v = normal(6, 2, 4)
    (got,) = torch.autograd.grad(implicit(w), w, v)
    (want,) = torch.autograd.grad(iterated(w), w, v)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)
    assert torch.autograd.gradgradcheck(implicit, (w,))


@every_form
def test_two_calls_before_backward_add_their_gradients(root: Root) -> None:
    w, x = weights()
    one, two = root(w, x), root(w, 2 * x)
    (both,) = torch.autograd.grad((one + two).sum(), w)
    (first,) = torch.autograd.grad(root(w, x).sum(), w)
    (second,) = torch.autograd.grad(root(w, 2 * x).sum(), w)
    torch.testing.assert_close(both, first + second, rtol=1e-11, atol=1e-12)


@every_form
def test_second_backward_equals_the_first(root: Root) -> None:
    w, x = weights()
    loss = root(w, x).square().sum()
    first = torch.autograd.grad(loss, (w, x), retain_graph=True)
    second = torch.autograd.grad(loss, (w, x), retain_graph=True)
    with_graph = torch.autograd.grad(loss, (w, x), create_graph=True)
    for a, b, c in zip(first, second, with_graph, strict=True):
        assert a.equal(b)
        torch.testing.assert_close(c.detach(), a, rtol=1e-10, atol=1e-12)


def test_no_grad_gives_no_graph_and_no_backward_evaluation() -> None:
    calls = 0

    def f(z: Tensor, x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return 0.5 * z + x

    _, x = weights()
    with torch.no_grad():
        found = EXACT.apply(Equilibrium(f, (x,)), Picard(), torch.zeros_like(x))
    assert not found.value.requires_grad
    assert calls == int(found.evals.max())


def test_map_without_parameters_has_a_plain_answer() -> None:
    found = EXACT.apply(Equilibrium(lambda z: 0.5 * z + 1), Picard(), torch.zeros(2, 3))
    assert not found.value.requires_grad


@pytest.mark.parametrize("rowwise", [True, False])
@pytest.mark.parametrize("closed", [True, False])
def test_map_that_returns_a_tensor_as_it_is_passes_its_gradient(
    closed: bool, rowwise: bool
) -> None:
    x = normal(1, 2, 4).requires_grad_()
    given, like = (x.detach(), x) if closed else (x, None)
    problem = Equilibrium(
        lambda z, x: x if like is None else like, (given,), rowwise=rowwise
    )  # z = x
    z = EXACT.apply(problem, TIGHT, torch.zeros_like(x)).value
    (first,) = torch.autograd.grad(z.pow(3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close((first, second), (3 * x.square(), 6 * x), rtol=1e-14, atol=0)


def test_start_gets_no_gradient_as_the_root_does_not_depend_on_it() -> None:
    w, x = weights()
    z0 = torch.zeros_like(x, requires_grad=True)
    problem = Equilibrium(lambda z: torch.tanh(z @ w.mT + x))
    value = EXACT.apply(problem, TIGHT, z0).value
    assert torch.autograd.grad(value.sum(), z0, allow_unused=True) == (None,)


@pytest.mark.parametrize("rule", [Implicit(), Phantom(3)], ids=lambda r: type(r).__name__)
def test_masked_sample_that_diverged_leaves_the_gradient_finite(rule: Implicit | Phantom) -> None:
    """z = a z^2 + w x: no root for the second sample, which runs off to infinity."""
    w = torch.tensor(0.5, dtype=DOUBLE, requires_grad=True)
    x = torch.tensor([[0.3], [9.0]], dtype=DOUBLE)
    found = rule.apply(
        Equilibrium(lambda z, x: z * z + w * x, (x,)), Picard(), torch.zeros(2, 1, dtype=DOUBLE)
    )
    assert found.status.tolist() == [Status.CONVERGED, Status.NONFINITE]
    loss = found.value[found.converged].sum()
    (got,) = torch.autograd.grad(loss, w)
    assert torch.isfinite(got)
    if isinstance(rule, Implicit):
        z = float(found.value[0].detach())
        assert abs(float(got) - 0.3 / (1 - 2 * z)) < 1e-4  # dz = (2 z dz + x dw)


@pytest.mark.parametrize("scale", [1e-6, 1e-20, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_backward_tolerance_is_relative_to_the_loss(scale: float, dtype: torch.dtype) -> None:
    """With an absolute tolerance a mean loss has an error of 5e-3 or of 1."""
    case = linear(3, a=psd(20, 0.95), dtype=dtype)
    a, x = case.problem.condition or ()
    x.requires_grad_()
    rule = Implicit(Anderson(rtol=1e-4))

    def gradient(scale: float) -> Tensor:
        value = rule.apply(Equilibrium(affine, (a, x)), Anderson(rtol=1e-5), case.z0).value
        return torch.autograd.grad((scale * value.sin()).sum(), x)[0] / scale

    with warnings.catch_warnings():
        warnings.simplefilter("error", BackwardWarning)
        one, other = gradient(1.0), gradient(scale)
    # The same iterates but for rounding, which Anderson's small system amplifies.
    assert (one - other).norm() <= (1e-3 if dtype == torch.float32 else 1e-7) * one.norm()


def test_zero_cotangent_gives_zero_at_one_evaluation() -> None:
    w, x = weights()
    calls = 0

    def f(z: Tensor, x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.tanh(z @ w.mT + x)

    value = EXACT.apply(Equilibrium(f, (x,)), TIGHT, torch.zeros_like(x)).value
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grads = torch.autograd.grad(value, (w, x), torch.zeros_like(value))
    assert all((g == 0).all() for g in grads)


def test_sample_of_tiny_cotangent_is_solved_like_the_others() -> None:
    """A sample that is classified with confidence must not run to max_steps, and warn."""
    case = linear(3, a=psd(20, 0.95), dtype=torch.float32)
    a, x = case.problem.condition or ()
    x.requires_grad_()
    value = Implicit().apply(Equilibrium(affine, (a, x)), Anderson(), case.z0).value
    v = torch.ones_like(value)
    tiny = v * torch.tensor([1.0, 1e-15, 1e-25])[:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (one,) = torch.autograd.grad(value, x, v, retain_graph=True)
        (two,) = torch.autograd.grad(value, x, tiny)
    assert ((two / tiny - one).norm(dim=1) <= 1e-4 * one.norm(dim=1)).all()


def test_sample_of_zero_cotangent_does_not_spoil_its_mates() -> None:
    w, x = weights(batch=3)
    v = normal(3, 3, 4)
    v[1] = 0
    value = by_both(w, x)
    wanted = exact_gradient(lambda z, w, x: torch.tanh(z @ w.mT + x), value, (w, x), v)
    for got, want in zip(torch.autograd.grad(value, (w, x), v), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-11)


def test_backward_solve_that_fails_warns() -> None:
    w, x = weights()
    value = (
        Implicit(Picard(max_steps=2, rtol=1e-9))
        .apply(Equilibrium(lambda z: torch.tanh(z @ w.mT + x)), TIGHT, torch.zeros_like(x))
        .value
    )
    with pytest.warns(BackwardWarning):
        value.sum().backward()


def test_initial_value_problem_is_a_type_error_with_advice() -> None:
    flow = InitialValue(lambda t, z: -z)
    for rule in (Implicit(), Phantom()):
        with pytest.raises(TypeError, match=r"InitialValue.*Use Unroll\(\) or Adjoint\(\)"):
            rule.apply(flow, ODE(), torch.zeros(1, 2))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"a solver of an Equilibrium .*got ODE\("):
        Implicit(ODE())  # type: ignore[arg-type]


def test_value_is_that_of_the_solver() -> None:
    w, x = weights()
    problem = Equilibrium(lambda z: torch.tanh(z @ w.mT + x))
    plain = solve(problem, Anderson(), torch.zeros_like(x))
    with_gradient = Implicit().apply(problem, Anderson(), torch.zeros_like(x), record=True)
    assert with_gradient.value.equal(plain.value)
    assert with_gradient.evals.equal(plain.evals)
    assert with_gradient.trajectory is not None
    again = Implicit().apply(problem, Anderson(), with_gradient)
    assert (again.evals == 1).all() and again.value.requires_grad
