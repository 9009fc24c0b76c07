from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from homotopy_deq import (
    DEQ,
    MDEQ,
    ODE,
    RK4,
    Adjoint,
    Anderson,
    AugmentedNeuralODE,
    Broyden,
    ConvergenceWarning,
    Flow,
    FlowLayer,
    HomoODE,
    Implicit,
    ImplicitLayer,
    NeuralODE,
    NewtonKrylov,
    Phantom,
    Picard,
    RungeKutta,
    SolveError,
    Then,
    Unroll,
)
from homotopy_deq.cli.resolve import model_class, resolve
from homotopy_deq.models import BoundedModel, ImageModel
from homotopy_deq.settings import BOUNDED, RECIPES
from homotopy_deq.settings import MODELS as NAMED
from homotopy_deq.settings.declare import values

MODELS = [HomoODE, DEQ, MDEQ, NeuralODE, AugmentedNeuralODE]
SMALL = {"shape": (1, 8, 8), "hidden": 8, "head": 16, "groups": 4}


def small(kind: type[ImageModel] = HomoODE, **settings) -> ImageModel:
    """A model whose BatchNorms have seen images, as a trained one's have."""
    model = kind(**(SMALL | settings))
    for module in model.stem.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    model.condition(torch.rand(64, 1, 8, 8))
    return model


def count(parameters) -> int:
    return sum(p.numel() for p in parameters)


def images(batch: int = 4) -> torch.Tensor:
    return torch.rand(batch, 1, 8, 8)


def test_homoode_for_cifar10_has_the_published_number_of_parameters() -> None:
    model = HomoODE()
    assert count(model.task_parameters()) == 132_938
    assert count(model.initial_point.parameters()) == 192 == 3 * 64
    assert count(model.parameters()) == 132_938 + 192


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 9, 12)])
def test_images_of_any_size_give_logits_and_every_weight_a_gradient(kind, shape) -> None:
    model = kind(shape, 7, hidden=4, head=8, groups=2, gradient=None, on_failure="ignore")
    logits = model(torch.rand(2, *shape))
    assert logits.shape == (2, 7)
    logits.sum().backward()
    missing = [p for p in model.task_parameters() if p.grad is None]
    assert not missing


@pytest.mark.parametrize("kind", MODELS)
def test_config_is_json_and_rebuilds_the_model(kind) -> None:
    model = small(kind, mean=[0.25], std=0.5, pool=2, dropout=0.2, horizon=2.0).eval()
    twin = kind(**json.loads(json.dumps(model.config))).eval()
    assert twin.config == model.config
    twin.load_state_dict(model.state_dict())
    x = images()
    assert torch.equal(twin(x), model(x))


def test_the_head_sees_where_things_are_with_more_than_one_cell_to_pool() -> None:
    z = torch.randn(2, 8, 4, 4)
    for pool, blind in ((1, True), (4, False)):
        head = small(pool=pool).eval().head
        assert torch.allclose(head(z), head(z.flip(3)), atol=1e-6) == blind


@pytest.mark.parametrize("kind", MODELS)
def test_copies_of_a_model_give_its_answers(kind) -> None:
    model, x = small(kind).eval(), images()
    assert torch.equal(copy.deepcopy(model)(x), model(x))


def test_defaults_are_those_of_the_names() -> None:
    homoode, deq = HomoODE().layer, DEQ().layer
    assert isinstance(homoode, FlowLayer) and homoode.rest_point and homoode.t1 == 5
    assert homoode.solver == RungeKutta() and isinstance(homoode.gradient, Unroll)
    assert HomoODE(gradient=Adjoint()).layer.solver == ODE()  # which alone it differentiates
    assert isinstance(deq.solver, Anderson) and isinstance(deq.gradient, Implicit)
    published = HomoODE(rest_point=False).layer
    assert not published.rest_point and published.t1 == 1
    assert bool((published.cell.norm1.weight == 1).all())
    assert not NeuralODE().layer.rest_point


def test_solver_and_gradient_are_the_ones_given() -> None:
    model = small(HomoODE, solver=ODE(method="rk4"), gradient=Adjoint())
    assert model.layer.solver.method == "rk4" and isinstance(model.layer.gradient, Adjoint)
    assert isinstance(small(HomoODE, solver=Picard()).layer, ImplicitLayer)
    assert isinstance(small(DEQ, gradient=Phantom()).layer.gradient, Phantom)
    assert isinstance(small(DEQ, solver=ODE()).layer, FlowLayer)
    with pytest.raises(TypeError, match="rest_point=True"):
        small(HomoODE, solver=Picard(), rest_point=False)
    with pytest.raises(TypeError, match="rest_point=True"):
        small(NeuralODE, solver=Picard())


def test_with_solver_shares_every_weight_and_leaves_the_model_alone() -> None:
    model = small().eval()
    other = model.with_solver(Anderson())
    assert type(other) is HomoODE and not other.training
    assert isinstance(model.layer, FlowLayer) and isinstance(other.layer, ImplicitLayer)
    mine, theirs = dict(model.named_parameters()), dict(other.named_parameters())
    assert mine.keys() == theirs.keys()
    assert all(mine[name] is theirs[name] for name in mine)
    buffers = dict(other.named_buffers())
    assert all(buffer is buffers[name] for name, buffer in model.named_buffers())
    other.load_state_dict({k: v + 1 for k, v in model.state_dict().items()})
    assert all(mine[name] is theirs[name] for name in mine)
    model.double()
    assert next(other.parameters()).dtype == torch.float64


@pytest.mark.parametrize("kind", [HomoODE, DEQ, NeuralODE])
def test_the_mode_of_a_swapped_model_is_its_own(kind: type[ImageModel]) -> None:
    model = small(kind).train()
    model.with_solver(ODE(method="rk4")).eval()
    assert all(module.training for module in model.modules())


def test_forward_passes_of_one_set_of_weights_agree() -> None:
    model, x = small().eval().double(), images().double()
    nn.init.constant_(model.layer.cell.norm1.weight, 0.2)  # contractive, as Picard needs
    wanted = model.with_solver(Anderson(rtol=1e-9))(x)
    for solver in (Broyden(rtol=1e-9), NewtonKrylov(rtol=1e-9), Picard(rtol=1e-9)):
        torch.testing.assert_close(model.with_solver(solver)(x), wanted, rtol=1e-6, atol=1e-6)
    flow = model.with_solver(ODE(rtol=1e-7, atol=1e-7), t1=25.0)
    torch.testing.assert_close(flow(x), wanted, rtol=1e-4, atol=1e-4)
    rest = model.with_solver(Then(Flow(RK4, h=1.0, rtol=1e-9), Anderson(rtol=1e-9)))
    torch.testing.assert_close(rest(x), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", [NeuralODE, AugmentedNeuralODE])
def test_neural_odes_refuse_solvers_of_equilibria(kind) -> None:
    with pytest.raises(TypeError, match="nothing is at rest"):
        small(kind).with_solver(Anderson())
    small(kind).with_solver(ODE(method="rk4"))(images())


def test_deq_and_homoode_load_each_others_weights() -> None:
    homoode, deq, x = small(HomoODE).eval(), small(DEQ).eval(), images()
    deq.load_state_dict(homoode.state_dict())
    torch.testing.assert_close(homoode.with_solver(Anderson())(x), deq(x))
    deq = small(DEQ).eval()
    homoode.load_state_dict(deq.state_dict())
    torch.testing.assert_close(homoode.with_solver(Anderson())(x), deq(x))


@pytest.mark.parametrize("kind", [HomoODE, DEQ, MDEQ])
def test_the_initial_point_learns_from_its_own_loss_alone(kind) -> None:
    model = small(kind)
    start = list(model.initial_point.parameters())
    output = model.solve(images())
    output.logits.sum().backward()
    assert all(p.grad is None for p in start)
    model.zero_grad()
    model.initial_point.loss(output.x, output.solution.value).backward()
    assert all(p.grad is not None for p in start)
    assert all(p.grad is None for p in model.task_parameters())
    own = {id(p) for p in start}
    assert not own & {id(p) for p in model.task_parameters()}
    assert len(own) + len(model.task_parameters()) == len(list(model.parameters()))


def test_the_initial_point_is_one_for_all_samples_and_pixels_and_learns() -> None:
    model = small()
    point = model.initial_point
    goal = torch.randn(1, 8, 1, 1).expand(5, 8, 4, 4)
    z0 = point(goal)
    assert z0.shape == (5, 8, 4, 4)
    assert torch.equal(z0, z0[:1, :, :1, :1].expand_as(z0))
    optimizer = torch.optim.SGD(point.parameters(), lr=0.2)
    before = point.loss(goal, goal).item()
    for _ in range(100):
        optimizer.zero_grad()
        point.loss(goal, goal).backward()
        optimizer.step()
    assert point.loss(goal, goal).item() < 0.1 * before


def test_a_solve_starts_at_the_initial_point_or_where_it_is_told() -> None:
    model, x = small(DEQ).eval(), images()
    path = model.solve(x, record=True).solution.trajectory
    assert torch.equal(path.z[0], model.initial_point(path.z[0]))
    found = model.solve(x)
    again = model.solve(x, z0=found.solution)
    assert bool((again.solution.evals == 1).all())
    torch.testing.assert_close(again.logits, found.logits)


def test_neural_ode_starts_at_its_condition() -> None:
    model, x = small(AugmentedNeuralODE, augment=2).eval(), images()
    path = model.solve(x, record=True).solution.trajectory
    assert torch.equal(path.z[0, :, :8], model.condition(x))
    assert not bool(path.z[0, :, 8:].any())


def test_images_are_normalised_inside_the_model() -> None:
    x = torch.rand(2, 3, 8, 8)
    raw = HomoODE((3, 8, 8), hidden=4, head=8, groups=2).eval()
    model = HomoODE(
        (3, 8, 8), hidden=4, head=8, groups=2, mean=[0.1, 0.2, 0.3], std=[0.5, 0.6, 0.7]
    ).eval()
    state = raw.state_dict()
    state |= {k: v for k, v in model.state_dict().items() if k.startswith("normalize")}
    model.load_state_dict(state)
    scaled = (x - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / torch.tensor([0.5, 0.6, 0.7])[
        :, None, None
    ]
    torch.testing.assert_close(model.condition(x), raw.condition(scaled))


@pytest.mark.parametrize("settings", [{}, {"rest_point": False}])
def test_default_integrator_is_as_right_as_torchdiffeqs_at_no_more_evaluations(settings) -> None:
    torch.manual_seed(0)
    model, x = small(HomoODE, **settings).double().eval(), images(16).double()
    fine, theirs, ours = (
        model.with_solver(solver).solve(x).solution
        for solver in (ODE(rtol=1e-6, atol=1e-6), ODE(), RungeKutta())
    )
    assert float(ours.evals.double().mean()) <= float(theirs.evals.double().mean())
    miss = [float((each.value - fine.value).detach().norm()) for each in (ours, theirs)]
    # Of order 5: the evaluations that it saves, 2 to 11 of 100, may cost 1.1 to 1.8 of the error.
    assert miss[0] <= 2 * miss[1], miss


@pytest.mark.parametrize("kind", MODELS)
def test_sample_does_not_see_its_batch_mates_in_eval_mode(kind) -> None:
    model, x = small(kind).double().eval(), images(3).double()
    alone = torch.cat([model(row) for row in x.split(1)])
    torch.testing.assert_close(model(x), alone, rtol=1e-9, atol=1e-9)


def test_output_carries_the_condition_of_its_solve() -> None:
    model = small(dropout=0.5)
    output = model.solve(images())
    x, mask = output.condition
    assert mask.shape == (4, 8, 1, 1)
    again = model.layer.answer(output.condition, model.start(x))
    assert torch.equal(again.value, output.solution.value)  # the same mask, the same answer


def test_on_failure_rules_the_forward_pass_and_solve_leaves_it_to_the_caller() -> None:
    hopeless, x = Picard(max_steps=1, rtol=1e-9), images()
    with pytest.warns(ConvergenceWarning):
        small(DEQ, solver=hopeless, gradient=Phantom())(x)
    with pytest.raises(SolveError):
        small(DEQ, solver=hopeless, on_failure="raise")(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        output = small(DEQ, solver=hopeless, gradient=Phantom()).solve(x)
    assert not bool(output.solution.converged.any())


def test_gradients_reach_the_images_of_a_model_in_eval_mode() -> None:
    for kind in MODELS:
        x = images(2).requires_grad_()
        small(kind).eval()(x).sum().backward()
        assert x.grad is not None and bool((x.grad != 0).any())


def test_bfloat16_autocast_trains() -> None:
    model = small(DEQ, solver=Anderson(rtol=3e-2), gradient=Implicit(Anderson(rtol=1e-2)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model.solve(images())
    assert output.solution.value.dtype == torch.float32
    assert bool(output.solution.converged.all())
    output.logits.float().sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.task_parameters())


@pytest.mark.parametrize(
    ("named", "wrong"),
    [
        ("images must have shape", lambda: small()(torch.rand(2, 3, 8, 8))),
        ("floating point", lambda: small()(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))),
        ("shape", lambda: HomoODE((8, 8))),
        ("pool", lambda: small(pool=0)),
        ("std", lambda: small(std=0.0)),
        ("mean", lambda: small(mean=[0.1, 0.2])),
    ],
)
def test_wrong_images_are_named(named: str, wrong: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=named):
        wrong()


def test_recipes_fit_the_models() -> None:
    for name, recipe in RECIPES.items():
        for model in NAMED:  # a model that refuses its sizes is found by this
            found = values(resolve({"dataset": name, "model": model}))
            if issubclass(model_class(model), BoundedModel):
                recipe = {**recipe, **BOUNDED}
            assert {key: found[key] for key in recipe if found[key] is not None}.items() <= (
                recipe.items()
            )
    assert count(HomoODE().task_parameters()) == 132_938  # that of the release for CIFAR-10
