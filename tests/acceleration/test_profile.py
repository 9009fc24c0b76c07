"""What a profile says of a model is what happened, and every way solves the same equation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from homotopy_deq import Picard
from homotopy_deq.acceleration.profile import Profile, profile
from homotopy_deq.cli import app
from homotopy_deq.models import DEQ, HomoODE


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(6, 1, 8, 8)


@pytest.fixture
def model() -> DEQ:
    return DEQ((1, 8, 8), 3, hidden=4, head=4, groups=2).eval()


@pytest.fixture
def found(model: DEQ, images: torch.Tensor) -> Profile:
    return profile(model, images, iterations=30, repeats=1, compiled=False)


def test_every_way_but_the_fixed_one_meets_the_tolerance(found: Profile) -> None:
    assert list(found.ways) == [
        "30 iterations", "stopped early", "Anderson", "delta", "bf16, then float32",
    ]  # fmt: skip
    for name, way in list(found.ways.items())[1:]:
        assert way.solved == 1 and way.residual <= 1e-3, name
        assert way.agrees == 1, name


def test_savings_are_parts_of_the_fixed_iterations(found: Profile) -> None:
    first, early = list(found.ways.values())[:2]
    assert first.evaluations == 31  # the residual of the last is evaluated, too
    assert found.saved()["30 iterations"] == {"time": 1, "multiply-adds": 1}
    assert found.saved()["stopped early"]["multiply-adds"] == pytest.approx(early.evaluations / 31)


def test_entries_are_at_rest_no_later_than_plain_iteration_has_converged(
    found: Profile, model: DEQ, images: torch.Tensor
) -> None:
    sharp = model.with_solver(Picard(rtol=1e-5)).solve(images).solution
    assert found.samples == 6
    assert found.convergence.steps.shape == sharp.value.shape
    latest = found.convergence.steps.flatten(1).amax(1)
    assert (latest <= sharp.steps).all() and latest.min() > 0


def test_a_cell_with_an_equation_of_its_own_is_profiled_without_what_would_change_it(
    images: torch.Tensor,
) -> None:
    model = DEQ((1, 8, 8), 3, hidden=4, contraction=0.5).eval()
    found = profile(model, images, repeats=1)
    assert set(found.failed) == {"compiled", "bf16, then float32"}
    assert found.ways["delta"].solved == 1


def test_a_flow_without_a_rest_point_is_refused(images: torch.Tensor) -> None:
    model = HomoODE((1, 8, 8), 3, hidden=4, head=4, groups=2, rest_point=False).eval()
    with pytest.raises(ValueError, match="HomoODE follows a flow without a rest point"):
        profile(model, images)


def test_the_command_writes_its_table_its_figures_and_its_picture(tmp_path: Path) -> None:
    def call(*words: object) -> str:
        result = CliRunner(env={"COLUMNS": "160"}).invoke(app, [str(word) for word in words])
        assert result.exit_code == 0, result.output
        return result.output

    run = tmp_path / "run"
    small = ["--limit", "200", "--hidden", "8", "--groups", "2", "--epochs", "1", "--cpu"]
    call("train", "--model", "deq", "--out", run, *small)
    file = tmp_path / "profile.json"
    flags = ("--samples", 4, "--repeats", 1, "--skip-compiled", "--cpu", "--json", file)
    output = call("profile", run, *flags)
    assert "channels (mean)" in output and "stopped early" in output and "delta" in output
    body = json.loads(file.read_text())
    assert body["in parts of the first"]["40 iterations"]["time"] == 1
    assert (run / "plots" / "profile.png").stat().st_size > 1000
