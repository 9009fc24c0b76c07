from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import homotopy_deq
import solvers

ROOT = Path(__file__).parents[1]
NAMES = (
    "Equilibrium", "InitialValue", "solve", "Solution", "Status", "SolveError",
    "Picard", "Anderson", "Broyden", "NewtonKrylov", "PseudoTransient", "SteadyState", "ODE",
    "Continuation", "Then", "Implicit", "Phantom", "Unroll", "Adjoint",
)  # fmt: skip
LAYERS = ["ImplicitLayer", "FlowLayer", "HomoODE", "DEQ", "NeuralODE", "AugmentedNeuralODE"]


def run(code: str, *path: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter with these folders first on its path."""
    first = [str(folder) for folder in (*path, ROOT)]
    whole = f"import sys; sys.path[:0] = {first!r}\n{code}"
    return subprocess.run([sys.executable, "-c", whole], capture_output=True, text=True)


def test_the_names_that_others_rely_on_are_there() -> None:
    for name in NAMES:
        assert getattr(homotopy_deq, name) is getattr(solvers, name)
    assert {*NAMES, *LAYERS} <= set(homotopy_deq.__all__)
    assert all(hasattr(homotopy_deq, name) for name in homotopy_deq.__all__)


def test_a_notebook_completes_names_that_nothing_has_asked_for_yet() -> None:
    said = run("import homotopy_deq; print(*dir(homotopy_deq)); print('torch' in sys.modules)")
    names, loaded = said.stdout.splitlines()
    assert set(homotopy_deq.__all__) <= set(names.split()) and loaded == "False"


def test_a_solvers_module_of_the_user_is_named_in_the_error(tmp_path: Path) -> None:
    theirs = tmp_path / "solvers.py"
    theirs.write_text("raise RuntimeError('was run')")
    found = run("import homotopy_deq", tmp_path)
    assert found.returncode != 0
    last = found.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError") and str(theirs) in last  # and it was not run


def test_importing_changes_no_setting_of_torch() -> None:
    code = """
import random, torch
def settings():
    return (
        torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision(),
        torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32,
        torch.random.get_rng_state().tolist(), random.getstate(), str(torch.get_default_device()),
    )
before = settings()
import homotopy_deq
assert settings() == before
"""
    found = run(code)
    assert found.returncode == 0, found.stderr
