"""Type checkers refuse a solver or a gradient of the wrong equation, and accept the right ones."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# A line that ends in "refused" must be an error; no other line may be.
SNIPPET = """
import torch
from torch import Tensor

from solvers import (
    ODE, Adjoint, Anderson, Broyden, Continuation, Equilibrium, Implicit, InitialValue,
    NewtonKrylov, Phantom, Picard, PseudoTransient, Solution, Flow, Then, Unroll, solve,
)

z0 = torch.zeros(2, 3)
root = Equilibrium(lambda z: 0.5 * z)
flow = InitialValue(lambda t, z: -z)

solve(root, Picard(), z0)
solve(root, Then(Anderson(), Continuation(), PseudoTransient(), NewtonKrylov(), Broyden()), z0)
solve(root, Flow(), solve(root, Picard(), z0))
solve(flow, ODE("rk4"), z0)
solve(flow, Picard(), z0)  # refused
solve(flow, Flow(), z0)  # refused
solve(root, ODE(), z0)  # refused
solve(flow, Then(Anderson()), z0)  # refused
Then(Anderson(), ODE())  # refused

Implicit().apply(root, Anderson(), z0)
Implicit(Picard()).apply(root, Anderson(), z0)
Phantom(3).apply(root, Anderson(), z0)
Unroll().apply(root, Anderson(), z0)
Unroll().apply(flow, ODE(), z0)
Adjoint().apply(flow, ODE(), z0)
Implicit().attach(root, solve(root, Picard(), z0))
Phantom().attach(root, solve(root, Picard(), (z0, z0)))
Implicit().apply(flow, Anderson(), z0)  # refused
Implicit().attach(flow, solve(flow, ODE(), z0))  # refused
Unroll().attach(root, solve(root, Picard(), z0))  # refused
Implicit().apply(flow, ODE(), z0)  # refused
Implicit(ODE())  # refused
Phantom().apply(flow, ODE(), z0)  # refused
Unroll().apply(flow, Picard(), z0)  # refused
Adjoint().apply(root, Anderson(), z0)  # refused

Anderson(memmory=3)  # refused
Anderson().memory = 3  # refused

one: Solution[Tensor] = solve(root, Picard(), z0)
value: Tensor = one.value
pair = solve(root, Picard(), (z0, z0))
parts: tuple[Tensor, ...] = pair.value
wrong: Tensor = pair.value  # refused
"""

REFUSED = {k for k, line in enumerate(SNIPPET.splitlines(), 1) if line.endswith("# refused")}
PYRIGHT = importlib.util.find_spec("pyright") is not None


def errors(command: list[str], snippet: Path) -> set[int]:
    """Return the lines of the snippet that the checker reports an error on."""
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    lines = re.findall(rf"{snippet.name}:(\d+)(?::\d+)?(?: -|:) error", run.stdout)
    assert lines, run.stdout + run.stderr
    return {int(line) for line in lines}


@pytest.mark.slow  # a minute where the checker has no cache yet
def test_mypy_refuses_the_wrong_equation(tmp_path: Path) -> None:
    snippet = tmp_path / "snippet.py"
    snippet.write_text(SNIPPET)
    assert errors([sys.executable, "-m", "mypy", str(snippet)], snippet) == REFUSED


@pytest.mark.slow
@pytest.mark.skipif(not PYRIGHT, reason="pyright is not installed")
def test_pyright_refuses_the_wrong_equation(tmp_path: Path) -> None:
    snippet = tmp_path / "snippet.py"
    snippet.write_text(SNIPPET)
    (tmp_path / "pyrightconfig.json").write_text(f'{{"extraPaths": ["{ROOT}"]}}')
    command = [sys.executable, "-m", "pyright", "-p", str(tmp_path)]
    command += ["--pythonpath", sys.executable]
    assert errors(command, snippet) == REFUSED
