"""Which arithmetic a run's results are of: another version may round, draw or vote otherwise."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import version
from pathlib import Path

import solvers

from .. import __version__

PACKAGE = Path(__file__).parents[1]
ROOT = Path(solvers.__file__).parent
COMPUTING = (
    *((PACKAGE / name) for name in ("cells", "certification", "data", "lipschitz", "models")),
    *((PACKAGE / name) for name in ("equations.py", "layers.py")),
)
"""The parts of this package, beside solvers, that a vote, a bound or a radius goes through."""


@cache
def arithmetic() -> dict[str, str]:
    """Return the versions that a result depends on, and a checksum of the code that computes it.

    NumPy draws the noise, SciPy computes bounds and radii; the code is named by its contents, as
    a release number does not tell two checkouts apart.
    """
    digest = hashlib.sha256()
    for base, part in [(ROOT.parent, ROOT), *((PACKAGE.parent, part) for part in COMPUTING)]:
        for file in sorted(part.rglob("*.py")) if part.is_dir() else [part]:
            digest.update(f"{file.relative_to(base).as_posix()}\n".encode())
            digest.update(file.read_bytes())
    others = {name: version(name) for name in ("numpy", "scipy")}
    return {"homotopy-deq": __version__, "source sha256": digest.hexdigest()[:16], **others}
