"""What part of an augmented Neural ODE does what: the figures, on states that are known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from experiments.augmented import Config, main, predicted, speeds, verdicts
from homotopy_deq import ODE, AugmentedNeuralODE, HomoODE

GOOD = {
    "accuracy": 0.98, "accuracy without a": 0.5, "accuracy without u": 0.9,
    "a moves with u held": 0.05, "accuracy with u held": 0.975,
    "speed of a at the end": 0.05, "accuracy at twice the time": 0.98,
    "R2 of a(1)": 0.8, "R2 of u(1)": 0.7,
}  # fmt: skip


def test_ridge_predicts_what_is_linear_and_nothing_of_noise() -> None:
    torch.manual_seed(0)
    x, noise = torch.randn(400, 5), torch.randn(400, 3)
    y = x @ torch.randn(5, 3) + 1
    assert predicted(x[:300], x[300:], y[:300], y[300:]) > 0.999
    assert predicted(x[:300], x[300:], noise[:300], noise[300:]) < 0.05


def test_a_field_that_ends_in_a_norm_keeps_its_speed_and_one_with_a_rest_point_slows() -> None:
    """GN's output has the size of its weight, whatever enters; dz/dt = f - z dies with f = z."""
    images, labels = torch.rand(4, 1, 8, 8), torch.zeros(4).long()
    sizes = {"shape": (1, 8, 8), "hidden": 4, "head": 8, "groups": 2}
    flat = AugmentedNeuralODE(**sizes, augment=4).eval()
    for model in (flat, rest := HomoODE(**sizes, start="none", solver=ODE("rk4")).eval()):
        model.train()(images)  # the norms of batches have seen images
        model.eval()
    with torch.no_grad():
        parts = {"u": slice(4), "a": slice(4, None)}
        found = speeds(flat, images, labels, parts)
        assert all(abs(found[f"speed of {part} at the end"] - 1) < 1e-3 for part in parts)
        assert speeds(rest, images, labels, {"z": slice(None)})["speed of z at the end"] < 0.5


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("answer", {"accuracy without u": 0.6}),
        ("condition", {"a moves with u held": 0.2}),
        ("condition", {"accuracy with u held": 0.9}),
        ("rest", {"speed of a at the end": 1.0}),
        ("rest", {"accuracy at twice the time": 0.9}),
        ("likeness", {"R2 of u(1)": 0.9}),
    ],
)
def test_each_part_of_the_claim_can_fail_by_one_seed(part: str, change: dict[str, float]) -> None:
    assert all(verdicts([GOOD, GOOD]).values())
    told = verdicts([GOOD, {**GOOD, **change}])
    assert [name for name, holds in told.items() if not holds] == [part]


def test_experiment_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    config = Config(epochs=1, limit=100, hidden=8, seeds=1, work=tmp_path / "work")
    main(config, tmp_path)
    before = (tmp_path / "work" / "seed-0.json").stat().st_mtime_ns
    body = json.loads((tmp_path / "augmented.json").read_text())["result"]
    assert set(GOOD) <= set(body["mean"]) and len(body["holds"]) == 4
    main(config, tmp_path)
    assert (tmp_path / "work" / "seed-0.json").stat().st_mtime_ns == before
