"""Hard systems are what MINPACK says they are, and the table of who solves them is measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from experiments.conformance import NAMES, Config, main, solvers
from tests.minpack import SYSTEMS

TINY = Config(starts=2, steps=50, budget=400, systems=("Rosenbrock", "Broyden banded"))


def test_every_system_of_the_list_is_measured() -> None:
    assert set(NAMES) <= set(SYSTEMS)


@pytest.mark.parametrize("name", ["Watson", "Broyden banded"])
def test_a_system_is_the_gradient_or_the_sum_that_the_source_prints(name: str) -> None:
    """Watson's is half the gradient of its sum of squares; the banded one is summed by hand."""
    system, start = SYSTEMS[name]
    torch.manual_seed(0)
    z = (start + torch.randn_like(start)).requires_grad_()
    n = z.shape[1]
    if name == "Watson":
        total = z.new_zeros(())
        for i in range(1, 30):
            t = i / 29
            slope = sum((j * z[0, j] * t ** (j - 1) for j in range(1, n)), z.new_zeros(()))
            value = sum((z[0, j] * t**j for j in range(n)), z.new_zeros(()))
            total = total + (slope - value**2 - 1) ** 2
        total = total + z[0, 0] ** 2 + (z[0, 1] - z[0, 0] ** 2 - 1) ** 2
        (gradient,) = torch.autograd.grad(total, z)
        wanted = gradient / 2
    else:
        near = [[j for j in range(n) if k - 5 <= j <= k + 1 and j != k] for k in range(n)]
        wanted = torch.stack(
            [z[0, k] * (2 + 5 * z[0, k] ** 2) + 1 - sum(z[0, j] * (1 + z[0, j]) for j in near[k])
             for k in range(n)]
        )[None]  # fmt: skip
    # Sums of 30 terms of order 100, in another order: 1e-13 each.
    assert torch.allclose(system(z), wanted, rtol=1e-11, atol=1e-10)


def test_the_table_is_measured_and_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    main(TINY, tmp_path / "work", tmp_path)
    written = (tmp_path / "work" / "Robust, Rosenbrock.json").stat().st_mtime_ns
    body = json.loads((tmp_path / "conformance.json").read_text())["result"]
    assert body.keys() == {*solvers(TINY), "scipy hybr", "scipy krylov"}
    assert body["Robust"]["Rosenbrock"]["solved"] == body["Robust"]["Rosenbrock"]["of"] == 2
    assert body["scipy hybr"]["Rosenbrock"]["the standard start"]
    for rows in body.values():
        assert all(row["called a root and none"] == 0 for row in rows.values())
    main(TINY, tmp_path / "work", tmp_path)
    assert (tmp_path / "work" / "Robust, Rosenbrock.json").stat().st_mtime_ns == written
