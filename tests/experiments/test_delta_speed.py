from __future__ import annotations

import json

import pytest
import torch

from experiments.delta_models import Images, race, residual, uneven
from experiments.delta_speed import Config, main
from solvers import Equilibrium, Picard, solve


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("delta_speed")
    config = Config(
        columns=((64, 4),), tiles=((4, 16, 2),), solves=((64, 4, 1 / 8),), grid=(32,), batches=(2,),
        images=((4, 16),), halves=((64, 4),), rounds=1, work=folder / "work",
    )  # fmt: skip
    main(config, folder)
    return json.loads((folder / "delta_speed.json").read_text())["result"]


def test_every_solve_is_timed_beside_its_residual_and_meets_the_tolerance(result: dict) -> None:
    for kind, rtol in (("solves", 1e-5), ("bfloat16", 1e-5), ("dispatch", 1e-3)):
        for ways in result[kind].values():
            assert {"Picard", "Anderson"} <= set(ways)
            for row in ways.values():
                assert row["converged"] and 0 < row["low"] <= row["ms"] <= row["high"]
                # What float32 said is measured again in double precision: 64 units apart at most.
                assert row["residual"] <= rtol + 64 * torch.finfo(torch.float32).eps


def test_sparse_steps_stand_beside_dense_ones(result: dict) -> None:
    for ways in (*result["columns"].values(), *result["tiles"].values()):
        assert {"0.1, product", "0.25, step", "0.5, product"} <= set(ways)
        fastest = max(row["times faster"] for name, row in ways.items() if "dense" in name)
        assert fastest == 1


def test_the_slowest_choice_is_told(result: dict) -> None:
    ratios = [row["chosen"]["times the one before"] for row in result["dispatch"].values()]
    (slowest,) = result["slowest choice, times the dense"].values()
    assert len(ratios) == 3 and slowest == max(ratios)
    for row in result["dispatch"].values():  # one round: the ratio is that of the two times
        ratio = row["chosen"]["ms"] / row["dense"]["ms"]
        assert row["chosen"]["times the one before"] == pytest.approx(ratio)


def test_the_share_of_slow_coordinates_is_slow() -> None:
    cell, x = uneven(128, share=1 / 8, slow=0.97), torch.randn(2, 32)
    with torch.no_grad():
        condition = cell.condition(x)
        exact = solve(
            Equilibrium(cell, condition), Picard(rtol=1e-6, max_steps=2000), torch.zeros(2, 128)
        ).value
        z = torch.zeros(2, 128)
        for _ in range(20):
            z = cell(z, *condition)
        left = (z - exact).norm(dim=0) / exact.norm(dim=0)
    # 20 steps leave .97^20 = .54 in the slowest mode, of the fast ones what the coupling carries.
    slow = left.topk(16).values  # an eighth of 128
    assert slow.median() > 5 * left.median()


def test_residuals_are_those_of_double_precision_and_leave_the_cell_as_it_is() -> None:
    cell = Images(3)
    x, z = torch.randn(2, 3, 8, 8), torch.zeros(2, 3, 8, 8)
    assert residual(cell, x, z) == 1  # f(0) = tanh(x), so ||f(0) - 0|| = ||f(0)||
    assert cell.convolution.weight.dtype == torch.float32


def test_calls_are_timed_in_turn() -> None:
    order: list[str] = []
    found = race({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3)
    assert order[-6:] == ["a", "b"] * 3 and set(found) == {"a", "b"}
