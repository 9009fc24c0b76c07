"""docs/transforms.md says what a layer refuses: each row of its table is run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from homotopy_deq import (
    ODE,
    Adjoint,
    Anderson,
    FlowLayer,
    Implicit,
    ImplicitLayer,
    Unroll,
)
from solvers import Equilibrium, Flow, InitialValue, RungeKutta
from tests.test_transforms import LAYERS, Cell, data, rows


class Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.state, self.inject = nn.Linear(7, 7), nn.Linear(4, 7)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.state(z) + self.inject(x))


class OneTensor(Cell):
    def condition(self, x: Tensor) -> Any:
        return x


def give(x: Any) -> Callable[[], object]:
    return lambda: [layer(Cell())(x) for layer in LAYERS.values()]


REFUSED: dict[str, list[tuple[Callable[[], object], str]]] = {
    "`gradient=Implicit`, the class": [
        (lambda: ImplicitLayer(Cell(), gradient=Implicit), r"got the class Implicit.*Implicit\(\)"),  # type: ignore[arg-type]
        (lambda: FlowLayer(Cell(), gradient=Unroll), r"got the class Unroll.*Unroll\(\)"),  # type: ignore[arg-type]
        (lambda: ImplicitLayer(Cell()).with_solver(ODE(), Adjoint), "got the class Adjoint"),  # type: ignore[arg-type]
    ],
    "`solver=Anderson`, the class": [
        (lambda: ImplicitLayer(Cell(), Anderson), r"got the class Anderson.*Anderson\(\)"),  # type: ignore[arg-type]
        (lambda: FlowLayer(Cell(), ODE), r"got the class ODE"),  # type: ignore[arg-type]
        (lambda: ImplicitLayer(Cell()).with_solver(Anderson), r"got the class Anderson"),  # type: ignore[arg-type]
        (
            lambda: ImplicitLayer(Cell(), gradient=Implicit(Anderson))(data()),  # type: ignore[arg-type]
            r"got the class Anderson",
        ),
    ],
    "`layer((x, mask))`": [
        (give((data(), data())), r"x must be one tensor.*tuple of 2.*condition\(x\).*initial\(x\)"),
        (give([data()]), "list of 1"),
        (give(None), "x must be one tensor.*NoneType"),
        (give(data().numpy()), r"ndarray.*torch.as_tensor\(x\)"),
    ],
    "an integer, boolean or complex x": [
        (give(data().long()), r"x must be .*torch\.int64.*initial\(x\)"),
        (give(data() > 0), r"x must be .*torch\.bool"),
        (give(data() + 0j), r"x must be .*torch\.complex128"),
    ],
    "x in half precision": [(give(data().half()), r"x must be .*torch\.float16.*autocast")],
    "a sparse x": [(give(data().to_sparse()), "x must be a dense .*sparse_coo")],
    "an x without a batch": [(give(data()[0]), r"x must have the batch first.*\(4,\).*x\[None\]")],
    "a state wider than x, without `initial`": [
        (
            lambda: ImplicitLayer(Wide())(torch.ones(3, 4)),
            r"Wide .*zero of x's shape \(3, 4\).*3x4 and 7x7.*give the cell initial\(x\)",
        ),
        (lambda: FlowLayer(Wide())(torch.ones(3, 4)), r"give the cell initial\(x\)"),
        (lambda: ImplicitLayer(Wide(), on_failure="ignore")(torch.ones(1, 4)), r"initial\(x\)"),
        (
            lambda: ImplicitLayer(Wide()).solve(torch.ones(3, 4), torch.ones(3, 5)),
            r"the start, z0 \(3, 5\)",
        ),
    ],
    "`condition(x)` that returns one tensor": [
        (lambda: ImplicitLayer(OneTensor())(data()), r"condition\(x\) of OneTensor .*tuple")
    ],
}


def test_each_refusal_has_a_row_and_each_row_a_run() -> None:
    assert [row[0] for row in rows("What a layer refuses")] == list(REFUSED)


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_layer_cannot_take_is_named_in_one_line(name: str) -> None:
    for call, said in REFUSED[name]:
        with pytest.raises((TypeError, ValueError), match=said) as refused:
            call()
        assert "\n" not in str(refused.value)


class Tokens(Wide):
    """A cell that is given token numbers and a mask."""

    def initial(self, x: tuple[Tensor, Tensor]) -> Tensor:
        return torch.zeros(len(x[0]), 7)

    def condition(self, x: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        tokens, mask = x
        return (nn.functional.one_hot(tokens, 4).float() * mask[:, None],)


def test_a_cell_with_both_hooks_may_be_given_anything() -> None:
    layer = ImplicitLayer(Tokens(), Anderson(rtol=1e-6))
    z = layer((torch.tensor([0, 3, 1]), torch.tensor([1.0, 0.0, 1.0])))
    z.sum().backward()
    unmasked = layer((torch.tensor([2, 2, 2]), torch.tensor([0.0, 0.0, 0.0])))
    torch.testing.assert_close(z[1], unmasked[1])  # the token behind a mask is not seen


def test_an_error_of_the_cell_itself_is_left_as_it_is() -> None:
    class Broken(Cell):
        calls = 0

        def forward(self, z: Tensor, x: Tensor) -> Tensor:
            self.calls += 1
            if self.calls == 3:
                raise RuntimeError("out of ink")
            return super().forward(z, x)

    with pytest.raises(RuntimeError, match="^out of ink$"):
        ImplicitLayer(Broken())(data())


@pytest.mark.parametrize("solver", [RungeKutta(), ODE(), Flow()], ids=lambda s: type(s).__name__)
def test_forward_mode_through_an_integrator_is_refused_as_the_page_says(solver: Any) -> None:
    def field(t: Tensor, z: Tensor) -> Tensor:
        return -z

    start = torch.ones(2, 1)
    problem = Equilibrium(torch.cos) if isinstance(solver, Flow) else InitialValue(field)
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="jvp"):
        Unroll().apply(problem, solver, forward_ad.make_dual(start, start))
