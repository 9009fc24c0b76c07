from __future__ import annotations

from typing import Any

import pytest

from homotopy_deq.certification.statistics import binomial_band
from homotopy_deq.comparison import bands, cells, markdown, summarise, unequal
from homotopy_deq.plotting import comparison_figure


def run(seed: int, accuracy: float, backward: float | None = 4.0, far: float | None = 1e-4) -> Any:
    test = {"samples": 200, "accuracy": accuracy, "nfe": 10.0 + seed, "converged": 0.5}
    return {
        "seed": seed,
        "parameters": 1234,
        "seconds": 3.0,
        "test": {**test, "residual_median": far, "residual_worst": far and far * (1 + seed)},
        "step": {"forward": 8.0, "backward": backward, "seconds": 0.25, "peak_mib": 12.0},
        "swapped": {
            "rk4": {"accuracy": 0.9, "nfe": 20.0, "converged": 1.0},
            "anderson": {"accuracy": accuracy, "nfe": 7.0, "converged": 1.0},
        },
    }


def test_the_figures_of_seeds_are_their_means_and_the_accuracy_has_two_bands() -> None:
    row = summarise([run(0, 0.70), run(1, 0.80), run(2, 0.84)])
    accuracy = row["accuracy"]
    assert accuracy["mean"] == pytest.approx(0.78)
    assert accuracy["of the seeds"] == [0.70, 0.84]
    assert tuple(accuracy["of the images"]) == binomial_band(156, 200)  # .78 of 200
    assert row["evaluations"] == 11.0
    assert row["residual"] == {"median": pytest.approx(1e-4), "worst": pytest.approx(3e-4)}
    assert bands(row) == ("70.0 to 84.0", "71.6 to 83.5")
    assert cells("deq", row)[-1] == "78.00 anderson"  # the swap that costs most


def test_what_a_model_has_not_is_a_dash_and_not_a_zero() -> None:
    row = summarise([run(0, 0.7, None, None), run(1, 0.7, None, None)])
    told = dict(
        zip(
            markdown({"cpl": row}).splitlines()[0].split(" | "),
            markdown({"cpl": row}).splitlines()[2].split(" | "),
            strict=True,
        )
    )
    assert told["back"] == told["residual"] == "-"
    comparison_figure({"cpl": row})


def test_parameters_more_than_a_tenth_from_the_median_are_told() -> None:
    assert unequal({"a": 100, "b": 109, "c": 91}) is None
    told = unequal({"a": 100, "b": 112, "c": 100})
    assert told is not None and "b 1.12x" in told and "a 1" not in told
