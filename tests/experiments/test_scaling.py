"""How time and memory grow is measured from end to end, at tiny sizes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.scaling import Config, dense, main
from experiments.tables import markdown
from experiments.tables.scaling import scaling
from solvers import Anderson, solve

SMALL = Config(
    widths=(4, 8), batches=(1, 2), hard=(0, 1, 4), ranks=(1,), layers=(("tiny", (2, 8, 4, 4)),),
    rank=(2, 8, 4, 4), width=8, batch=2, repeats=1,
)  # fmt: skip


def test_hard_samples_take_more_evaluations_than_the_easy() -> None:
    problem, z0 = dense(Config(), 6, 32, 2)
    evals = solve(problem, Anderson(), z0).check().evals
    assert evals[:2].min() > evals[2:].max()


@pytest.mark.slow
def test_parts_are_measured_drawn_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(SMALL, tmp_path, tmp_path)
    found = json.loads((tmp_path / "scaling.json").read_text())["result"]
    assert (tmp_path / found["picture"]).stat().st_size > 10_000
    assert [len(found[k]) for k in ("width", "batch", "hard samples of a batch", "ranks")] == [
        2, 2, 3, 1,
    ]  # fmt: skip
    hard = found["hard samples of a batch"]
    assert hard["0"]["evaluations"] < hard["1"]["evaluations"]
    assert found["layers"]["tiny, Implicit"]["converged"] == 2
    assert 0 < found["ranks"]["1"]["of which the reduction, ms"] < found["ranks"]["1"]["step, ms"]
    monkeypatch.setattr(markdown, "RESULTS", tmp_path)
    page = scaling()
    assert "(images/scaling.png)" in page and "| 2 x 4 |" in page and "| 100% |" in page
