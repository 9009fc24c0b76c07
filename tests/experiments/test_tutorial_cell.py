"""The tutorial's cell: a tiny run measures what the table shows, and goes on later."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn import functional as F

from experiments.tables import training
from experiments.tutorial_cell import Cell, Config, main


def test_cell_is_that_of_the_tutorial() -> None:
    torch.manual_seed(0)
    cell, z, x = Cell(8, 16), torch.randn(2, 8, 4, 4), torch.randn(2, 8, 4, 4)
    h = cell.norm1(F.relu(cell.conv1(z)))
    assert torch.equal(cell(z, x), cell.norm3(F.relu(z + cell.norm2(x + cell.conv2(h)))))
    assert cell.conv1.weight.std().sub(0.01).abs() < 1e-3 and cell.conv1.bias is None


def test_a_tiny_run_is_kept_and_makes_its_table(tmp_path: Path) -> None:
    config = Config(
        dataset="digits", channels=8, inner=8, stride=1, limit=60, test_limit=10, batch=30,
        epochs=1, weights=(0.0, 1.0), looked_at=2, solved_for=2, work=tmp_path / "work", minutes=0,
    )  # fmt: skip
    assert main(config, tmp_path) is None  # no minute is left for the first arm
    path = main(replace(config, minutes=60), tmp_path)  # as the same command with more of them
    assert path is not None
    body = json.loads(path.read_text())["result"]
    assert set(body) == {"0", "1"} and len(body["0"]["epochs"]) == 1
    assert {"Robust", "NewtonKrylov", "Anderson, 25 evaluations"} <= set(body["1"]["solvers"])
    told = training.tutorial_rows(body)
    assert len(told[0]) == 2 and len(told[1]) == len(body["0"]["solvers"])
