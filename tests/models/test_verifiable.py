"""Models whose votes can be verified: contractive and monotone cells, affine heads."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from homotopy_deq import DEQ, ODE, Anderson, HomoODE, ImplicitLayer, NeuralODE, NewtonKrylov
from homotopy_deq.cells import error_bound
from homotopy_deq.models import ImageModel, InitialPoint, MonotoneDEQ, StatePoint
from solvers import PeacemanRachford, solve

SMALL: dict[str, Any] = {"shape": (1, 8, 8), "hidden": 6, "pool": 2}
MADE: dict[str, Callable[..., ImageModel]] = {
    "deq": lambda **s: DEQ(**(SMALL | {"groups": 2, "contraction": 0.8} | s)),
    "homoode": lambda **s: HomoODE(**(SMALL | {"groups": 2, "contraction": 0.8} | s)),
    "monotone": lambda **s: MonotoneDEQ(**(SMALL | s)),
    "deq dense": lambda **s: DEQ(**(SMALL | {"contraction": 0.8, "kernel": None} | s)),
    "homoode dense": lambda **s: HomoODE(**(SMALL | {"contraction": 0.8, "kernel": None} | s)),
    "monotone dense": lambda **s: MonotoneDEQ(**(SMALL | {"kernel": None} | s)),
}
every_model = pytest.mark.parametrize("name", MADE)


def made(name: str, seed: int = 0, **settings: Any) -> ImageModel:
    torch.manual_seed(seed)
    return MADE[name](**settings).eval()


def images(batch: int = 4, seed: int = 0) -> Tensor:
    return torch.rand(batch, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


@every_model
def test_model_qualifies_and_says_so(name: str) -> None:
    model = made(name)
    assert model.verifiable and model.reason is None
    bounds = model.bounds()
    assert bounds.monotonicity > 0
    if "monotone" not in name:
        assert bounds.norm == pytest.approx(0.8, rel=0.03)  # Gram iteration's excess


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (lambda: DEQ(**SMALL), "equilibrium of its ConvCell"),
        (lambda: HomoODE(**SMALL), "equilibrium of its ConvCell"),
        (lambda: HomoODE(**SMALL, rest_point=False), "without a rest point"),
        (lambda: NeuralODE(**SMALL), "without a rest point"),
    ],
)
def test_model_that_does_not_qualify_says_why(model: Callable[[], ImageModel], told: str) -> None:
    other = model()
    assert not other.verifiable and told in str(other.reason)
    for method in (other.bounds, other.linear_head, other.fixed):
        with pytest.raises(ValueError, match=told):
            method()


@every_model
@pytest.mark.parametrize("pool", [1, 3])
def test_logits_are_the_affine_map_of_the_answer(name: str, pool: int) -> None:
    model = made(name, pool=pool)  # a grid of 3 does not divide the side of 4
    output = model.solve(images())
    weight, bias = model.linear_head()
    assert weight.dtype == bias.dtype == torch.float64
    state = output.solution.value.double().flatten(1)
    assert weight.shape == (10, state.shape[1])
    # Sums of at most 96 products in float32.
    torch.testing.assert_close(
        output.logits.double(), state @ weight.mT + bias, rtol=1e-5, atol=1e-5
    )


@every_model
def test_no_vote_that_the_bound_proves_is_wrong(name: str) -> None:
    proved = 0
    for seed in range(5):
        model = made(name, seed)
        weight, bias = model.linear_head()
        bounds = model.bounds()
        x = model.condition(images(40, seed)).detach()
        problem = model.layer.equation(model.layer.condition(x))
        exact = solve(problem, NewtonKrylov(rtol=1e-6), torch.zeros_like(x)).check().value
        best = (exact.double().flatten(1) @ weight.mT + bias).argmax(1)
        for steps in range(1, 25, 3):
            z = solve(problem, Anderson(max_steps=steps), torch.zeros_like(x)).value
            fz = problem(z).detach()
            rho = error_bound(z, fz, x, bounds)
            # Of the reference, at 1e-6 of its size over m >= 0.1.
            assert bool(((fz - exact).flatten(1).norm(dim=1) <= rho + 1e-4 * exact.norm()).all())
            logits = fz.double().flatten(1) @ weight.mT + bias
            vote = logits.argmax(1)
            margin = logits.gather(1, vote[:, None]) - logits
            reach = torch.linalg.vector_norm(weight[vote][:, None] - weight, dim=2) * rho[:, None]
            certain = (margin > reach).sum(1) == 9  # all but the vote itself, whose margin is 0
            assert bool((vote == best)[certain].all())
            proved += int(certain.sum())
    assert proved > 100  # of 1600, most after the first few steps


@every_model
def test_config_is_json_and_rebuilds_the_model(name: str) -> None:
    model = made(name, mean=0.25, std=0.5, dropout=0.2, horizon=2.0)
    twin = type(model)(**json.loads(json.dumps(model.config))).eval()
    assert twin.config == model.config
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(images()), model(images()))
    assert torch.equal(copy.deepcopy(model)(images()), model(images()))


@every_model
def test_every_weight_learns(name: str) -> None:
    model = made(name).train()
    output = model.solve(images())
    output.logits.square().sum().backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in model.task_parameters())
    if model.initial_point is None:
        return
    assert all(p.grad is None for p in model.initial_point.parameters())
    z = output.solution.value.detach()
    before = float(model.initial_point.loss(output.x, z).detach())
    optimizer = torch.optim.SGD(model.initial_point.parameters(), lr=0.2)
    for _ in range(30):
        optimizer.zero_grad()
        model.initial_point.loss(output.x.detach(), z).backward()
        optimizer.step()
    assert float(model.initial_point.loss(output.x, z).detach()) < before


@pytest.mark.parametrize("kind", ["", " dense"])
def test_the_weights_of_a_contractive_deq_are_those_of_a_homoode(kind: str) -> None:
    deq, homoode = made(f"deq{kind}"), made(f"homoode{kind}", seed=1)
    homoode.load_state_dict(deq.state_dict())
    flow = homoode.solve(images()).solution.value
    tight = Anderson(rtol=1e-6)
    wanted = deq.with_solver(tight)(images())
    torch.testing.assert_close(homoode.with_solver(tight)(images()), wanted, rtol=1e-4, atol=1e-4)
    longer = homoode.with_solver(ODE(method="rk4", step_size=1.0), t1=60.0)
    torch.testing.assert_close(longer(images()), wanted, rtol=1e-3, atol=1e-3)
    assert flow.shape == deq.solve(images()).solution.value.shape


def test_splittings_solve_the_models() -> None:
    for name in MADE:
        model = made(name)
        wanted = model.with_solver(Anderson(rtol=1e-6))(images())
        found = model.with_solver(PeacemanRachford(rtol=1e-6))(images())
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


@every_model
def test_a_fixed_model_shares_all_but_the_weight_of_its_cell(name: str) -> None:
    model = made(name)
    fixed = model.fixed()
    assert torch.equal(fixed(images()), model(images()))
    assert fixed.bounds() == model.bounds() and fixed.verifiable
    assert isinstance(model.layer.cell, type(made(name).layer.cell))  # the model is as it was
    for mine, theirs in ((model.stem, fixed.stem), (model.head, fixed.head)):
        assert all(a is b for a, b in zip(mine.parameters(), theirs.parameters(), strict=True))
    with torch.no_grad():
        before = fixed(images())
        for parameter in model.layer.cell.parameters():
            parameter.normal_()
        assert torch.equal(fixed(images()), before)
    assert isinstance(fixed.with_solver(Anderson(rtol=1e-6)).layer, ImplicitLayer)


def test_start_fits_the_state() -> None:
    assert isinstance(made("homoode").initial_point, InitialPoint)
    assert isinstance(made("homoode dense").initial_point, StatePoint)
    assert made("monotone").initial_point is None


def test_the_condition_has_both_signs() -> None:
    for name in MADE:
        x = made(name, mean=0.5, std=0.3).condition(images())
        assert bool((x < 0).any()) and bool((x > 0).any())


@pytest.mark.parametrize(
    ("named", "wrong"),
    [
        ("kernel", lambda: DEQ(**SMALL, kernel=None)),
        ("rest_point", lambda: HomoODE(**SMALL, contraction=0.5, rest_point=False)),
        ("contraction", lambda: DEQ(**SMALL, contraction=1.0)),
        ("monotonicity", lambda: MonotoneDEQ(**SMALL, monotonicity=2)),
    ],
)
def test_wrong_settings_are_named(named: str, wrong: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=named):
        wrong()
