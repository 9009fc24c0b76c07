from __future__ import annotations

import pytest
import torch

from homotopy_deq import DEQ, ODE, Adjoint, HomoODE, Implicit, Phantom, Picard
from homotopy_deq.comparison import Step, measure_step
from homotopy_deq.data import load
from homotopy_deq.machine import peak_memory
from homotopy_deq.models import CPLNetwork, ImageModel
from homotopy_deq.training import Run, TrainConfig, accelerator_for
from solvers.gradient.rows import BackwardWarning

SIZES = {"hidden": 4, "head": 8, "groups": 2, "dropout": 0.0}


def step_of(model: ImageModel, most: int = 2, parts: int = 1) -> Step:
    config = TrainConfig(batch=16, parts=parts)
    images = load("digits", limit=100)
    run = Run(model, images, config, accelerator_for(config, cpu=True), {})
    rule = model.layer.gradient
    found = measure_step(run, most=most)
    assert model.layer.gradient is rule
    assert found.steps == most
    assert found.seconds > 0
    return found


@pytest.mark.filterwarnings("ignore:Adjoint. integrated back")
@pytest.mark.parametrize("gradient", [None, Adjoint()], ids=["unroll", "adjoint"])
def test_each_evaluation_of_a_flow_has_one_product_back(gradient: Adjoint | None) -> None:
    solver = ODE("rk4", step_size=1.0)  # 5 steps of 4 evaluations to the horizon, 5
    model = HomoODE((1, 8, 8), 10, **SIZES, solver=solver, gradient=gradient)
    found = step_of(model)
    assert found.forward == 20
    # the adjoint's four stages a step go back over the same five steps
    assert found.backward == 20


def test_products_of_a_root_do_not_grow_with_its_evaluations() -> None:
    model = DEQ((1, 8, 8), 10, **SIZES, solver=Picard(rtol=1e-1), gradient=Phantom(steps=3))
    few = step_of(model, parts=2)  # each of two parts has its own
    many = step_of(DEQ((1, 8, 8), 10, **SIZES, solver=Picard(rtol=1e-6), gradient=Phantom(steps=3)))
    assert few.forward < many.forward
    assert few.backward == many.backward == 3
    rule = Implicit(Picard(max_steps=7, rtol=1e-30))
    with pytest.warns(BackwardWarning):
        implicit = step_of(DEQ((1, 8, 8), 10, **SIZES, gradient=rule))
    # to solve u = J^T u + v one at its start and 7 steps, and one that takes u to the parameters
    assert implicit.backward == 1 + 7 + 1


def test_a_stack_of_explicit_layers_has_no_products_to_count() -> None:
    model = CPLNetwork((1, 8, 8), 10, channels=2, depth=1, features=8, dense_depth=1)
    found = step_of(model)
    assert (found.forward, found.backward) == (2, None)  # a block of images, one of vectors


def test_memory_at_its_peak_is_what_was_held_at_once() -> None:
    peak = peak_memory(torch.device("cpu"))
    for _ in range(3):  # one after the other: the peak is that of one
        held = torch.ones(16 * 2**20)  # 64 MiB
        del held
    assert 60 <= peak() <= 130  # the allocator may hold one more
