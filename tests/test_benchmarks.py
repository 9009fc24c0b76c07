"""The benchmarks run, at tiny sizes; `make bench` measures on a quiet machine."""

from __future__ import annotations

from experiments.batched_paths import Config as Paths
from tests.benchmarks.rows import flow, loading, paths
from tests.benchmarks.sizes import sizes


def test_rows_over_sizes_are_at_one_verified_residual() -> None:
    row = sizes(of=((2, 8),), repeats=2)["2 x 8"]
    assert row["residual"]["Anderson"] <= 1e-4 and row["evaluations"] > 2
    assert row["over evaluations x f"] > 1  # no solve is faster than its evaluations


def test_flows_of_peers_take_no_fewer_calls_of_the_field() -> None:
    found = flow(repeats=1)
    ours, theirs = (found[name]["calls of f"] for name in ("RungeKutta()", "torchdiffeq"))
    assert 0 < ours <= 1.5 * theirs


def test_paths_beside_a_loop_are_all_there() -> None:
    tiny = Paths(paths=4, n=6, alone=1, peers=1, repeats=1)
    assert paths(tiny)["converged"] == 4


def test_help_needs_no_torch_and_the_layers_little_beside_it() -> None:
    found = {name: row["low"] for name, row in loading(repeats=1).items()}
    torch = found["import torch"]
    assert found["homotopy-deq --help"] < 0.5 * torch  # a quarter
    assert found["import homotopy_deq"] < 0.5 * torch
    assert found["from homotopy_deq import ImplicitLayer"] < 1.3 * torch
