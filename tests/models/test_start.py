"""Where solves begin: what each start is, what it learns from, and that it learns it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from homotopy_deq import Anderson
from homotopy_deq.models import DEQ, HomoODE, MonotoneDEQ, NeuralODE
from homotopy_deq.models.start import STARTS, InputPoint, StartPoint, StatePoint, start_point

LEARNED = [name for name in STARTS if name != "none"]
STATES = [(6,), (8, 4, 4)]


def taught(point: StartPoint, x: Tensor, z: Tensor, steps: int = 300, rate: float = 0.2) -> float:
    """Return the share of the first loss that is left after some steps."""
    optimizer = torch.optim.SGD(point.parameters(), lr=rate)
    first = float(point.loss(x, z).detach())
    for _ in range(steps):
        optimizer.zero_grad()
        point.loss(x, z).backward()
        optimizer.step()
    return float(point.loss(x, z).detach()) / first


@pytest.mark.parametrize("state", STATES, ids=["vector", "image"])
@pytest.mark.parametrize("name", LEARNED)
def test_start_has_the_shape_of_the_condition_and_no_sample_sees_its_batch_mates(
    name: str, state: tuple[int, ...]
) -> None:
    point = start_point(name, state)
    assert point is not None
    x = torch.randn(5, *state)
    taught(point, x, torch.randn(5, *state), 3)
    together = point(x)
    assert together.shape == x.shape
    torch.testing.assert_close(together[2:3], point(x[2:3]))


@pytest.mark.parametrize("width", [4, 64])
def test_one_rate_teaches_a_state_point_the_mean_at_every_width(width: int) -> None:
    """At rate r a step goes r of the way, or by r beyond a distance of 1: (1 - r)^50 is left of 1
    after 50 steps, and before these come 30 for a first distance below 7."""
    point = StatePoint((width, 2, 2))
    answers = 0.5 * torch.randn(8, width, 2, 2).clamp(-1, 1)  # within 1: the loss is quadratic
    taught(point, answers, answers, 80)
    torch.testing.assert_close(point.point, answers.mean(0), rtol=0, atol=0.8**50 + 1e-6)


@pytest.mark.parametrize("state", [(16,), (64,), (4, 3, 3), (8, 3, 3)], ids=str)
def test_input_point_learns_an_affine_map_of_the_condition(state: tuple[int, ...]) -> None:
    """Of white conditions e^(-2 steps / inputs) of the squared loss is left, about: here e^-8."""
    torch.manual_seed(1)
    hidden, point = InputPoint(state), InputPoint(state)
    torch.nn.init.normal_(hidden.map.weight)
    x = torch.randn(256, *state)
    with torch.no_grad():
        z = 0.3 * hidden(x)
    assert taught(point, x, z, 4 * hidden.map.weight[0].numel(), rate=1.0) < 0.05


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_input_point_depends_on_the_direction_of_the_condition_alone(scale: float) -> None:
    point = InputPoint((6,))
    torch.nn.init.normal_(point.map.weight)
    x = torch.randn(3, 6)
    torch.testing.assert_close(point(scale * x), point(x), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", STARTS)
@pytest.mark.parametrize("kind", [HomoODE, DEQ, MonotoneDEQ])
def test_every_model_takes_every_start_and_the_answer_does_not_depend_on_it(
    kind: type[DEQ], name: str
) -> None:
    torch.manual_seed(0)
    size = {} if kind is MonotoneDEQ else {"contraction": 0.5}
    model = kind((1, 6, 6), 3, hidden=4, start=name, **size).eval()
    images = torch.rand(2, 1, 6, 6)
    assert (model.initial_point is None) == (name == "none")
    assert type(model)(**model.config).config["start"] == name
    tight = model.with_solver(Anderson(rtol=1e-6))
    found = tight.solve(images)
    zero = tight.solve(images, torch.zeros_like(found.solution.value))
    torch.testing.assert_close(found.logits, zero.logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LEARNED)
def test_the_task_teaches_the_start_nothing_and_the_start_teaches_the_stem_nothing(
    name: str,
) -> None:
    model = HomoODE((1, 6, 6), 3, hidden=4, start=name, rest_point=False)
    assert model.initial_point is not None
    output = model.solve(torch.rand(2, 1, 6, 6))
    output.logits.square().sum().backward()
    assert all(p.grad is None for p in model.initial_point.parameters())
    model.zero_grad()
    model.initial_point.loss(output.x, output.solution.value).backward()
    assert all(p.grad is None for p in model.task_parameters())
    assert all(p.grad is not None for p in model.initial_point.parameters())


def test_start_that_is_none_of_these_is_refused() -> None:
    with pytest.raises(ValueError, match="start must be one of none, shared, spatial, input"):
        DEQ((1, 6, 6), start="random")
    with pytest.raises(TypeError):
        NeuralODE((1, 6, 6), start="shared")  # type: ignore[call-arg]
