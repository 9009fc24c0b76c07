"""How a map behaves is seen, and looking changes nothing of the caller's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from homotopy_deq import DEQ, Equilibrium, FlowLayer, ImplicitLayer, Picard, RungeKutta
from homotopy_deq.cells import DenseCell
from homotopy_deq.diagnosis import Diagnosis, Remedy, diagnose, diagnose_equation

X = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def of(function: Any, **settings: Any) -> Diagnosis:
    return diagnose_equation(Equilibrium(function, (X,), **settings), torch.zeros_like(X))


def first(found: Diagnosis) -> Remedy:
    return found.advice[0].remedy


def plain(z: Tensor, x: Tensor) -> Tensor:
    return 0.5 * z + x


def test_a_map_of_rows_that_writes_nothing_is_told_so() -> None:
    conduct = of(plain).conduct
    assert conduct.deterministic and conduct.rowwise and conduct.finite == 1
    assert not conduct.writes and not conduct.reuses and conduct.precision is torch.float64


@pytest.mark.parametrize("share", [0.1, 1e-6])
def test_a_map_that_mixes_rows_gets_that_said_first(share: float) -> None:
    found = of(lambda z, x: 0.5 * z + share * z.mean(0) + x)
    assert found.conduct.rowwise is False and first(found) is Remedy.ROWS
    # As one system it is solved, and its radius is that of both parts.
    assert found.solved.all()
    assert abs(found.spectrum.radius.item() - 0.5 - share) < 1e-8


def test_rows_that_are_mixed_through_the_condition_are_seen() -> None:
    assert of(lambda z, x: 0.5 * z + x - x.mean(0)).conduct.rowwise is False


def test_rows_that_are_declared_to_be_one_system_are_no_fault() -> None:
    found = of(lambda z, x: 0.5 * z + 0.1 * z.mean(0) + x, coupled=True)
    assert found.conduct.rowwise is None and found.conduct.coupled and found.advice == ()


def test_a_promise_of_rows_is_not_believed() -> None:
    assert of(lambda z, x: 0.4 * z + 0.1 * z.mean(0) + x, rowwise=True).conduct.rowwise is False


def test_a_map_that_closes_over_its_inputs_is_watched_as_well() -> None:
    for share, rowwise in ((0.0, True), (0.2, False)):
        problem = Equilibrium(lambda z, share=share: 0.5 * z + share * z.mean(0) + X)
        assert diagnose_equation(problem, torch.zeros_like(X)).conduct.rowwise is rowwise


def test_of_one_row_nobody_knows_whether_it_mixes() -> None:
    found = diagnose_equation(Equilibrium(plain, (X[:1],)), torch.zeros_like(X[:1]))
    assert found.conduct.rowwise is None and found.advice == ()


def test_a_random_map_is_told_before_anything_that_follows_from_it() -> None:
    found = of(lambda z, x: nn.functional.dropout(0.5 * z, 0.5) + x)
    assert not found.conduct.deterministic and first(found) is Remedy.RANDOM


def test_writes_in_place_and_memory_that_comes_back_are_seen() -> None:
    assert of(lambda z, x: z.mul_(0.5).add_(x)).conduct.writes
    assert Remedy.IN_PLACE in {each.remedy for each in of(lambda z, x: z.mul_(0.5) + x).advice}
    buffer = torch.empty_like(X)
    found = of(lambda z, x: torch.add(x, z, alpha=0.5, out=buffer))
    assert found.conduct.reuses and "out=" in found.spectrum.failed  # which autograd refuses
    assert found.tried["Picard"].solved == 1 and found.advice == () and found.table().row_count


def test_a_map_in_half_precision_is_told_what_tolerance_it_can_hold() -> None:
    layer = ImplicitLayer(DenseCell(5, 8))
    with torch.autocast("cpu", torch.bfloat16):
        found = diagnose(layer, X.float())
    assert found.conduct.precision is torch.bfloat16
    (advice,) = [each for each in found.advice if each.remedy is Remedy.PRECISION]
    assert "rtol=8e-03" in advice.said  # 2^-7


def test_values_that_are_not_finite_are_told() -> None:
    bad = X.clone()
    bad[0, 0] = torch.nan
    found = diagnose_equation(Equilibrium(plain, (bad,)), torch.zeros_like(X))
    assert first(found) is Remedy.FINITE and "17%" in found.advice[0].said
    assert found.table().row_count and found.figures()["map"]["finite"] < 1


def test_looking_changes_no_statistics_and_draws_no_random_number() -> None:
    layer = ImplicitLayer(DenseCell(5, 8))
    layer.cell.add_module("extra", nn.BatchNorm1d(8))
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    diagnose(layer.train(), X.float())
    assert torch.equal(torch.rand(4), expected)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    assert layer.training and all(p.grad is None for p in layer.parameters())


def test_a_buffer_that_the_cell_replaces_is_put_back() -> None:
    class Cell(DenseCell):
        def __init__(self) -> None:
            super().__init__(5, 8)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, z: Tensor, *condition: Tensor) -> Tensor:
            self.calls = self.calls + 1
            return super().forward(z, *condition)

    layer = ImplicitLayer(Cell())
    calls = layer.cell.calls
    diagnose(layer, X.float())
    assert layer.cell.calls is calls and calls == 0


def test_a_random_map_is_seen_in_half_precision_too() -> None:
    torch.manual_seed(0)
    x, w = X.float(), 0.3 * torch.eye(5)
    with torch.autocast("cpu", torch.bfloat16):
        found = diagnose_equation(
            Equilibrium(lambda z, x: nn.functional.dropout(z @ w, 0.1) + x, (x,)),
            torch.zeros_like(x),
        )
    assert found.conduct.precision is torch.bfloat16 and not found.conduct.deterministic


def test_a_batch_of_nothing_is_refused_in_a_line() -> None:
    with pytest.raises(ValueError, match="needs a sample at least; got a batch of 0"):
        diagnose(ImplicitLayer(DenseCell(5, 8)), X[:0].float())


def test_a_batch_norm_in_training_keeps_the_statistics_that_it_had() -> None:
    class Cell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(5)

        def forward(self, z: Tensor, x: Tensor) -> Tensor:
            out: Tensor = 0.3 * self.norm(z + x)
            return out

    layer = ImplicitLayer(Cell())
    found = diagnose(layer, X.float())
    assert first(found) is Remedy.ROWS
    assert torch.equal(layer.cell.norm.running_mean, torch.zeros(5))  # type: ignore[arg-type, union-attr]
    assert diagnose(layer.eval(), X.float()).conduct.rowwise is True


def test_a_model_and_a_flow_that_rests_are_diagnosed_by_their_equation() -> None:
    model = DEQ((1, 8, 8), 10, hidden=8, head=16, solver=Picard(max_steps=5)).eval()
    found = diagnose(model, torch.rand(2, 1, 8, 8), solvers={})
    assert found.samples == 2 and found.entries == 128 and list(found.tried) == ["its own"]
    flow = FlowLayer(DenseCell(5, 8), RungeKutta())
    assert diagnose(flow, X.float()).solved.all()


def test_what_has_no_single_equilibrium_is_refused_in_a_line() -> None:
    with pytest.raises(ValueError, match="no rest point"):
        diagnose(FlowLayer(DenseCell(5, 5), rest_point=False), X.float())
    with pytest.raises(TypeError, match="diagnose_equation"):
        diagnose(nn.Linear(5, 5), X.float())  # type: ignore[arg-type]
