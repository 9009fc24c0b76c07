"""Every model and start under DistributedDataParallel gives what one process gives."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from homotopy_deq.create import list_models, takes
from homotopy_deq.models.start import STARTS
from tests.training.parallel import every
from tests.training.torchrun import finish

NEAR = 1e-4
"""What is asked of 50 steps; in double precision they are apart by rounding, magnified by Adam."""
ALL = [
    f"{name}:{start}"
    for name in list_models()
    for start in (STARTS if "start" in takes(name) else "-")
]


def compare(folder: Path, steps: int, models: list[str]) -> dict[str, float]:
    """Return how far two processes are from one, by model."""
    finish(2, "-m", "tests.training.parallel", "two.pt", str(steps), *models, folder=folder)
    two = torch.load(folder / "two.pt", weights_only=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one = every(models, steps)
    for found in (one, two):  # on one process and on two
        for name, slope in found["eager"].items():
            torch.testing.assert_close(found["compiled"][name], slope, rtol=1e-6, atol=1e-6)
    return {
        name: max(float((one[name][k] - v).abs().max()) for k, v in two[name].items())
        for name in one
    }


def test_two_processes_train_a_model_as_one_does_compiled_or_not(tmp_path: Path) -> None:
    apart = compare(tmp_path, 5, ["homoode:shared"])
    assert max(apart.values()) < NEAR, apart


@pytest.mark.slow
def test_two_processes_train_every_model_with_every_start_as_one_does(tmp_path: Path) -> None:
    apart = compare(tmp_path, 50, ALL)
    print({name: f"{gap:.0e}" for name, gap in apart.items()})
    assert {*apart} >= {*ALL} and max(apart.values()) < NEAR, apart
