"""What a layer asks of a cell when it is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from homotopy_deq import DEQ, FlowLayer, ImplicitLayer
from homotopy_deq.cells import DenseCell, MonotoneCell
from solvers import (
    Anderson,
    DouglasRachford,
    Equilibrium,
    ForwardBackward,
    MonotoneInclusion,
    PeacemanRachford,
    Solver,
    Then,
)
from solvers.until import Until

SPLITTINGS: list[Solver[Equilibrium, Any]] = [
    ForwardBackward(),
    PeacemanRachford(),
    DouglasRachford(),
    Then(Anderson(), PeacemanRachford()),
    Until(ForwardBackward(), lambda problem, state: state.residual < 1),
]


class Linear(nn.Module):
    """f(z; x) = z / 2 + x."""

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return z / 2 + x


def having(**members: object) -> nn.Module:
    cell: nn.Module = type("Having", (Linear,), members)()
    return cell


@pytest.mark.parametrize("solver", SPLITTINGS, ids=lambda s: type(s).__name__)
def test_a_splitting_is_refused_where_the_layer_is_built(solver: Solver[Any, Any]) -> None:
    told = "answers a MonotoneInclusion; got Equilibrium. Use Anderson, Flow, .* such as Monotone"
    for build in (
        lambda: ImplicitLayer(DenseCell(3, 4), solver),
        lambda: ImplicitLayer(DenseCell(3, 4)).with_solver(solver),
        lambda: DEQ((1, 8, 8), hidden=8).with_solver(solver),
    ):
        with pytest.raises(TypeError, match=told) as caught:
            build()
        assert "\n" not in str(caught.value)
    layer = ImplicitLayer(MonotoneCell((4,)), solver)
    assert layer(torch.randn(2, 4)).shape == (2, 4)


def test_what_an_equation_is_annotated_to_return_says_which_splittings_answer_it() -> None:
    x = torch.randn(2, 4)

    def untold(self, condition):  # type: ignore[no-untyped-def]
        return MonotoneCell((4,)).equation(condition)

    def told(self: Any, condition: tuple[Tensor, ...]) -> MonotoneInclusion:
        return MonotoneCell((4,)).equation(condition)

    def plain(self: Any, condition: tuple[Tensor, ...]) -> Equilibrium:
        return Equilibrium(Linear(), condition)

    for equation in (told, untold):
        assert ImplicitLayer(having(equation=equation), PeacemanRachford())(x).shape == x.shape
    with pytest.raises(TypeError, match="got Equilibrium"):
        ImplicitLayer(having(equation=plain), PeacemanRachford())
    late = having(equation=lambda self, condition: Equilibrium(Linear(), condition))
    with pytest.raises(TypeError, match="answers a MonotoneInclusion; got Equilibrium"):
        ImplicitLayer(late, PeacemanRachford())(x)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ("inital", "initial"),
        ("intial", "initial"),
        ("initail", "initial"),
        ("Initial", "initial"),
        ("conditon", "condition"),
        ("condtion", "condition"),
        ("conditoin", "condition"),
        ("equaton", "equation"),
        ("row_wise", "rowwise"),
        ("rowise", "rowwise"),
    ],
)
@pytest.mark.parametrize("layer", [ImplicitLayer, FlowLayer])
def test_a_misspelt_hook_is_named_with_the_right_word(
    wrong: str, word: str, layer: Callable[[nn.Module], nn.Module]
) -> None:
    member = True if word == "rowwise" else lambda self, x: x
    with pytest.raises(TypeError, match=f"Having defines {wrong}, .* did you mean {word}?"):
        layer(having(**{wrong: member}))
    # Where the right word stands beside it the other is the user's own affair.
    assert layer(having(**{wrong: member, word: _right(word)}))


def _right(word: str) -> object:
    return {
        "rowwise": True,
        "initial": lambda self, x: x,
        "condition": lambda self, x: (x,),
        "equation": lambda self, condition: Equilibrium(self, condition),
    }[word]


def test_a_name_of_its_own_is_left_alone() -> None:
    own = (
        "initialize", "initialise", "init", "initials", "initial_state", "_initial", "inertial",
        "conditions", "precondition", "recondition", "conditional", "_condition", "cognition",
        "addition", "position", "equations", "inequation", "education", "equality", "pairwise",
        "rowwise_", "columnwise",
    )  # fmt: skip
    cell = having(**{name: lambda self, x: x for name in own})
    x = torch.ones(1, 2)
    torch.testing.assert_close(ImplicitLayer(cell)(x), 2 * x, rtol=1e-3, atol=0)


def test_a_hook_that_cannot_be_called_is_refused() -> None:
    for word in ("condition", "initial", "equation"):
        with pytest.raises(TypeError, match=f"{word} of Having must be a method.* a Tensor"):
            ImplicitLayer(having(**{word: torch.zeros(3)}))


@pytest.mark.parametrize("kind", [ImplicitLayer, FlowLayer])
@pytest.mark.parametrize("coupled", [False, True])
def test_a_hook_that_returns_no_equation_is_refused(kind: Any, coupled: bool) -> None:
    cell = having(equation=lambda self, condition: 5)
    told = r"equation\(condition\) of Having must return an Equilibrium; got 5\."
    with pytest.raises(TypeError, match=told):
        kind(cell, coupled=coupled)(torch.ones(2, 3))


def test_ladders_survive_replace() -> None:
    ladder = Then(Anderson(rtol=1e-3), PeacemanRachford(rtol=1e-6))
    decided = Until(PeacemanRachford(rtol=1e-6), lambda problem, state: state.residual < 1)
    assert replace(ladder) == ladder and replace(decided) == decided
    assert replace(ladder).answers is replace(decided).answers is MonotoneInclusion
    shorter = replace(ladder, solvers=(Anderson(rtol=1e-2),))
    assert shorter == Then(Anderson(rtol=1e-2)) and shorter.rtol == 1e-2
    assert replace(decided, solver=Anderson()).answers is Equilibrium
    # The tolerances are those of the solvers; Python 3.13 calls it a TypeError.
    with pytest.raises((ValueError, TypeError), match="rtol"):
        replace(ladder, rtol=1e-9)
