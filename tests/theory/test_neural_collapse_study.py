"""The study of neural collapse, at the size of a test and at its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from homotopy_deq.plotting.collapse import collapse_figures
from homotopy_deq.theory.studies import CollapseStudy, carry_out
from homotopy_deq.theory.studies.collapse import GAINS, PEERS, RATIOS
from tests.test_cli import done
from tests.theory.test_studies import quiet


def test_the_ideal_part_bears_the_claims_out_and_all_parts_are_drawn(tmp_path: Path) -> None:
    study = CollapseStudy(steps=2, seeds=2)
    found = carry_out(study, tmp_path, quiet)
    claims = {c.says: c for c in study.claims(found)}
    ideal = list(claims)[:4]
    assert "the gain of a DEQ delays the collapse of the minority" in ideal
    assert all(claims[name].holds for name in ideal)
    assert claims["the gain of a DEQ delays the collapse of the minority"].found == (
        "gain 1: R = 1,000, gain 2: R = 1,000, gain 10: R = 10,000"
    )
    runs = [
        *found["balanced"].values(),
        *(r for some in found["imbalanced"].values() for r in some),
    ]
    assert len({run["parameters"] for run in runs}) == 1
    assert claims["trained networks stay above the bound"].holds
    figures = collapse_figures(found)
    assert set(figures) == {"curves", "minority"}
    lines = figures["minority"].axes[0].get_lines()
    assert len(lines) == len(GAINS) and len(lines[0].get_xdata()) == len(RATIOS)
    assert len(figures["minority"].axes[1].get_lines()) == 2 * len(PEERS)


@pytest.mark.slow
def test_a_deq_is_better_than_its_explicit_peer_but_not_than_one_that_decays_less(
    tmp_path: Path,
) -> None:
    told = done("theory", "collapse", "--out", tmp_path)
    assert {path.name for path in tmp_path.glob("*.png")} == {"curves.png", "minority.png"}
    claims = json.loads((tmp_path / "collapse.json").read_text())["claims"]
    holds = {c["says"]: c["holds"] for c in claims}
    better = "R = 50: the DEQ is better on the minority than explicit"
    assert holds[better] and not holds[f"{better}, decay / gain"]
    assert all(holds[name] for name in holds if "nearest mean decides" in name)
    assert "collapse.json" in told
