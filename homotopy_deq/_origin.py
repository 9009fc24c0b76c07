"""Make sure that `solvers` is the package that belongs to this one."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def check_solvers() -> None:
    """Raise ImportError unless the `solvers` that Python finds lies beside this package.

    A script's own folder comes first on Python's path, so a solvers.py beside a user's script
    shadows ours. Looked up without running it.
    """
    ours = Path(__file__).resolve().parents[1] / "solvers" / "__init__.py"
    spec = find_spec("solvers")
    origin = None if spec is None else spec.origin
    if origin is None or Path(origin).resolve() != ours:
        found = "none was found" if origin is None else f"Python found {origin}"
        raise ImportError(
            f"homotopy_deq needs its own package `solvers`, {ours}, but {found}. "
            "Rename that file or take its folder off sys.path."
        )


check_solvers()
