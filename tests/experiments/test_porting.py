"""Both libraries solve the same three problems, and find the same gradients."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.porting import KINDS, SOLVERS, Config, main


def test_both_libraries_solve_the_problems_and_agree_with_double_precision(tmp_path: Path) -> None:
    pytest.importorskip("torchdeq")
    config = Config(batch=4, width=8, nodes=6, repeats=1)
    body = json.loads(main(config, tmp_path).read_text())["result"]["problems"]
    assert set(body) == set(KINDS) and all(set(found) == set(SOLVERS) for found in body.values())
    for found in body.values():
        for row in found.values():
            # single precision rounds at 1e-7, and I - J has a condition of up to 20
            assert row["ours"]["residual"] <= 2e-6 and row["ours"]["gradient error"] <= 1e-4
