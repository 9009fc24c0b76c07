from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from experiments.heterogeneous import Config, jacobi, main


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Path]:
    folder = tmp_path_factory.mktemp("heterogeneous")
    config = Config(
        size=8, hidden=16, steps=2, rnn_hidden=8, rnn_steps=1, grid=6, iterations=20,
        device="cpu", work=folder / "work",
    )  # fmt: skip
    main(config, folder, folder)
    return config, folder


def test_jacobi_is_at_rest_sooner_near_the_border_than_in_the_middle() -> None:
    steps = torch.tensor(jacobi(Config(grid=16))["map"])
    border = torch.cat([steps[0], steps[-1], steps[:, 0], steps[:, -1]])
    assert border.max() < steps[6:10, 6:10].min()


def test_jacobi_moves_in_far_fewer_dimensions_than_the_grid_has_points() -> None:
    found = jacobi(Config(grid=16))["dimension of z_k - z*"]
    assert found["state"] == 256 and found["components for 99%"] <= 16


def test_experiment_writes_its_curves_and_figures(small: tuple[Config, Path]) -> None:
    _, folder = small
    body = json.loads((folder / "heterogeneous.json").read_text())["result"]
    for row in body["iterations"].values():
        assert row["share that moves"][0] > row["share that moves"][-1] == 0
    assert list(body["iterations"]["sine RNN"]["states over time"]) == ["1", "5", "10", "15"]
    assert all((folder / name).stat().st_size > 1000 for name in body["figures"])
