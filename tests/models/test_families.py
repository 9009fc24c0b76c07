"""What every family of models can do, by name: trained, swapped, differentiated, copied, kept."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from homotopy_deq import (
    ODE,
    Anderson,
    Broyden,
    Implicit,
    NewtonKrylov,
    Picard,
    Unroll,
    create_model,
    list_models,
)
from homotopy_deq.models import ImageModel
from solvers import PeacemanRachford, Solver

SMALL: dict[str, Any] = {"hidden": 8, "head": 16, "groups": 4, "pool": 2, "dropout": 0.0}
BOUNDED: dict[str, Any] = {
    "channels": 2, "depth": 1, "kernel": 3, "patch": 2, "features": 8, "dense_depth": 1,
}  # fmt: skip
FLOWS = {"homoode", "published", "neural-ode", "augmented-neural-ode"}
ROOTS = {"deq", "mdeq", "monotone", "contractive"}
EXPLICIT = {"residual", "residual-dense", "cpl", "sll", "aol", "sandwich"}
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    name: (name, {**SMALL}) for name in list_models()
} | {
    "monotone": ("monotone", {"hidden": 8, "pool": 2, "dropout": 0.0}),
    "published": ("homoode", {**SMALL, "rest_point": False}),
    "contractive": ("deq", {**SMALL, "contraction": 0.8}),
    "residual-dense": ("residual", {**SMALL, "kernel": 0}),
    **{name: (name, BOUNDED) for name in ("cpl", "sll", "aol", "sandwich", "lben")},
}
FAMILIES = sorted(SETTINGS)
EQUAL = ODE("rk4", step_size=0.25)  # whose unrolled gradient is that of its own steps, exactly


def made(name: str, **settings: Any) -> ImageModel:
    """A model in double precision whose BatchNorms have seen images."""
    kind, sizes = SETTINGS[name]
    model = create_model(kind, shape=(1, 8, 8), num_classes=3, **(sizes | settings)).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.solve(images(32))
    return model


def images(batch: int = 4) -> Tensor:
    return torch.rand(batch, 1, 8, 8, dtype=torch.float64)


def sharp(model: ImageModel, name: str) -> ImageModel:
    """Solve so that what is left is rounding beside the tolerances below."""
    if name in FLOWS:
        return model.with_solver(EQUAL, Unroll())
    if name == "lben":
        return model.with_solver(PeacemanRachford(rtol=1e-12, step_size=1.0, max_steps=2000))
    if name in EXPLICIT:
        return model
    fine = Anderson(rtol=1e-11, max_steps=500)
    return model.with_solver(fine, Implicit(fine))


def loss_of(model: ImageModel, x: Tensor) -> Tensor:
    return F.cross_entropy(model(x), torch.arange(len(x)) % 3)


def test_every_name_is_of_a_kind_that_these_tests_know() -> None:
    assert set(FAMILIES) == FLOWS | ROOTS | EXPLICIT | {"lben"}


@pytest.mark.parametrize("name", FAMILIES)
def test_steps_against_the_gradient_decrease_the_loss_and_no_weight_is_left_out(name: str) -> None:
    """Every parameter of the task gets a gradient in each step, as data parallelism asks."""
    model, x = made(name).train(), images(6)
    optimiser = torch.optim.Adam(model.task_parameters(), lr=1e-3)
    losses = []
    for _ in range(6):
        optimiser.zero_grad()
        loss = loss_of(model, x)
        loss.backward()
        assert not [n for n, p in model.named_parameters() if p.grad is None and "initial" not in n]
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", FAMILIES)
def test_gradient_is_that_of_finite_differences(name: str) -> None:
    """Central differences along the gradient: what solves leave, 1e-9, over h = 1e-6 is 1e-3 of a
    slope above 1, and few entries of a ReLU cross 0 within so short a step."""
    model = sharp(made(name).eval(), name)
    x, h = images(3), 1e-6
    weights = model.task_parameters()
    slopes = torch.autograd.grad(loss_of(model, x), weights, allow_unused=True)
    assert all(slope is not None for slope in slopes)
    size = torch.stack([s.square().sum() for s in slopes if s is not None]).sum().sqrt()
    ends = []
    with torch.no_grad():
        for step in (h, -2 * h):
            for weight, slope in zip(weights, slopes, strict=True):
                weight.add_(slope / size, alpha=step)
            ends.append(float(loss_of(model, x)))
    found = (ends[0] - ends[1]) / (2 * h)
    assert found == pytest.approx(float(size), rel=2e-3)


@pytest.mark.parametrize("name", sorted(ROOTS | {"homoode"}))
def test_swapped_forward_passes_agree(name: str) -> None:
    model, x = made(name).eval(), images()
    solvers: list[Solver[Any, Any]] = [
        Anderson(rtol=1e-9, max_steps=300),
        Broyden(rtol=1e-9, max_steps=300),
        NewtonKrylov(rtol=1e-9),
    ]
    wanted, *others = (model.with_solver(solver)(x) for solver in solvers)
    for logits in others:
        torch.testing.assert_close(logits, wanted, rtol=1e-6, atol=1e-6)
    flow = model.with_solver(ODE("rk4", step_size=1.0), t1=40.0)  # at rest, the step is no matter
    torch.testing.assert_close(flow(x), wanted, rtol=1e-3, atol=1e-3)  # the slowest modes are left


@pytest.mark.parametrize("name", sorted(ROOTS))
def test_implicit_and_unrolled_gradients_of_a_root_agree(name: str) -> None:
    model, x = made(name).eval(), images(2)
    fine = Anderson(rtol=1e-11, max_steps=500)
    steps = Picard(rtol=1e-11, max_steps=2000, damping=0.5)
    found = []
    for solver, rule in ((fine, Implicit(fine)), (steps, Unroll())):
        other = model.with_solver(solver, rule)
        found.append(torch.autograd.grad(loss_of(other, x), list(other.layer.cell.parameters())))
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", FAMILIES)
def test_copies_files_and_rebuilt_models_give_the_same_logits(name: str) -> None:
    model, x = made(name).eval(), images()
    with torch.no_grad():
        wanted = model(x)
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        rebuilt = create_model(SETTINGS[name][0], **model.config).double().eval()
        rebuilt.load_state_dict(model.state_dict())
        for other in (copy.deepcopy(model), torch.load(file, weights_only=False), rebuilt):
            assert torch.equal(other(x), wanted)


@pytest.mark.parametrize("name", FAMILIES)
def test_bfloat16_autocast_gives_finite_gradients_and_single_precision_states(name: str) -> None:
    loose: dict[str, Any] = {}
    if name in ROOTS:
        loose = {"solver": Anderson(rtol=3e-2), "gradient": Implicit(Anderson(rtol=3e-2))}
    model, x = made(name, **loose).float(), images().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model.solve(x)
    if name not in EXPLICIT:
        assert output.solution.value.dtype in (torch.float32, torch.bfloat16)
    output.logits.float().square().mean().backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.task_parameters())  # type: ignore[union-attr]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_sample_does_not_see_its_batch_mates(name: str) -> None:
    model, x = sharp(made(name).eval(), name), images(3)
    with torch.no_grad():
        alone = torch.cat([model(row) for row in x.split(1)])
        torch.testing.assert_close(model(x), alone, rtol=1e-7, atol=1e-7)


def test_a_monotone_model_is_solved_and_differentiated_however_large_training_makes_its_w() -> None:
    torch.manual_seed(0)
    model = create_model("monotone", shape=(1, 8, 8), num_classes=3, hidden=8, pool=2, dropout=0.0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "gram" in name or "skew" in name:
                parameter.mul_(4)  # ||W|| is some 16, and fixed-point steps run away
    x, classes = images(8).float(), torch.arange(8) % 3
    fine = PeacemanRachford(rtol=1e-12, max_steps=10_000)
    exact = copy.deepcopy(model).double().with_solver(fine, Implicit(fine))
    found = []
    for each, inputs in ((model, x), (exact, x.double())):
        output = each.solve(inputs)
        F.cross_entropy(output.logits, classes).backward()
        assert output.solution.converged.all()
        found.append(torch.cat([p.grad.flatten().double() for p in each.parameters()]))
    assert (found[0] - found[1]).norm() < 1e-2 * found[1].norm()  # of tolerances of 1e-4 and 1e-5
    assert not model.with_solver(Anderson()).solve(x).solution.converged.all()
