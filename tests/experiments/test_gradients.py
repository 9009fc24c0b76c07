"""The table of gradients is measured from end to end, and goes on where it was killed."""

from __future__ import annotations

import json
from pathlib import Path

from experiments.gradients import Config, main

TINY = Config(batch=2, width=4, steps=(3, 6), repeats=1)


def test_experiment_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    main(TINY, tmp_path / "work", tmp_path)
    written = (tmp_path / "work" / "flow, Adjoint(), 6.json").stat().st_mtime_ns
    body = json.loads((tmp_path / "gradients.json").read_text())["result"]
    rows = {name: row for kind in body.values() for name, row in kind.items()}
    assert {"Implicit()", "SHINE()", "Reversible(0.01)", "Adjoint()"} <= rows.keys()
    for row in rows.values():
        for each in row.values():
            assert "refused" in each or {"error", "seconds", "peak, states"} <= each.keys()
    # rk4 in 6 steps errs by about (1/6)^4 / 120; in float32 no less than 1e-7.
    assert body["flow"]["Unroll()"]["6"]["error"] < 1e-4
    main(TINY, tmp_path / "work", tmp_path)
    assert (tmp_path / "work" / "flow, Adjoint(), 6.json").stat().st_mtime_ns == written
