"""The explicit network beside the implicit ones: how its width follows from a count."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from homotopy_deq import DEQ, MDEQ, Broyden, HomoODE, ResidualNetwork
from homotopy_deq.models import ImageModel, MonotoneDEQ

SIZES: dict[str, Any] = {"shape": (1, 8, 8), "hidden": 16, "head": 32, "groups": 4, "pool": 2}


def count(model: ImageModel) -> int:
    return sum(p.numel() for p in model.task_parameters())


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("kind", [DEQ, HomoODE])
def test_it_has_the_parameters_of_an_implicit_model_to_one_inner_channel(
    kind: type[ImageModel], depth: int
) -> None:
    """An inner channel has two 3x3 kernels for each outer one, a bias, and a norm's two numbers."""
    mine, theirs = ResidualNetwork(**SIZES, depth=depth), kind(**SIZES)
    assert 0 <= count(theirs) - count(mine) < 2 * 9 * 16 + 3
    assert depth > 1 or count(mine) == count(theirs)
    assert len(mine.layer.body) == depth  # type: ignore[arg-type, union-attr]


@pytest.mark.parametrize("kernel", [3, 0])
@pytest.mark.parametrize("given", [6_000, 9_999, 20_000])
def test_it_has_the_parameters_that_are_asked_for(given: int, kernel: int) -> None:
    model = ResidualNetwork(**SIZES, kernel=kernel, parameters=given)
    assert 0 <= given - count(model) < 2 * (9 if kernel else 1) * 16 + 3
    widths = [block.map1.weight.shape[0] for block in model.layer.body]  # type: ignore
    assert max(widths) - min(widths) <= 1


@pytest.mark.parametrize(
    "other", [MDEQ(**SIZES), MonotoneDEQ((1, 8, 8), hidden=64, kernel=0, pool=2)]
)
def test_it_can_stand_beside_any_model(other: ImageModel) -> None:
    wanted = count(other)
    sizes = SIZES if isinstance(other, MDEQ) else {"shape": (1, 8, 8), "hidden": 64, "kernel": 0}
    mine = ResidualNetwork(**sizes, parameters=wanted)
    assert abs(count(mine) / wanted - 1) < 0.02


def test_blocks_are_of_their_own_weights_and_begin_at_the_condition() -> None:
    model = ResidualNetwork(**SIZES, depth=3).eval()
    for block in model.layer.body:  # type: ignore[union-attr]
        nn.init.zeros_(block.norm2.weight)  # type: ignore[union-attr, arg-type]
        nn.init.zeros_(block.norm2.bias)  # type: ignore[union-attr, arg-type]
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(model.solve(x).solution.value, model.condition(x))
    names = {name for name, _ in model.named_parameters() if "map1.weight" in name}
    assert len(names) == 3


def test_nothing_is_solved_for() -> None:
    model, x = ResidualNetwork(**SIZES).eval(), torch.rand(2, 1, 8, 8)
    output = model.solve(x)
    assert output.solution.evals.tolist() == [4, 4]  # its blocks
    assert bool(output.solution.converged.all())
    assert model.residual(output).tolist() == [0, 0]
    assert torch.equal(model.with_solver(Broyden())(x), model(x))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"depth": 0}, "depth must be at least 1"),
        ({"kernel": 5}, "kernel 3, or 0"),
        (
            {"parameters": 3_000, "depth": 4},
            "4 blocks of 16 channels have at least 1,356 parameters",
        ),
    ],
)
def test_what_cannot_be_is_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ResidualNetwork(**SIZES, **wrong)
