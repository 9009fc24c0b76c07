from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants.operators import mutants

ROOT = Path(__file__).parents[2]

SOURCE = '''
"""A module."""
LIMIT: int = 2 + 1

def f(x: "int | None", y=1.5, *, flag=False) -> int:
    """Say 1."""
    assert x != 0, f"{1 + 1}"
    if flag and not x <= y:
        raise ValueError("x")
    while g():
        x += -1
        break
    return x**2 if x in (y,) else None
'''
WANTED = [
    "LIMIT: int = 2 + 1 -> LIMIT: int = (2 - 1)",
    "LIMIT: int = 2 + 1 -> LIMIT: int = 3 + 1",
    "LIMIT: int = 2 + 1 -> LIMIT: int = 2 + 2",
    'def f(x: "int | None", y=1.5, *, flag=False) -> int: -> '
    'def f(x: "int | None", y=3.0, *, flag=False) -> int:',
    'def f(x: "int | None", y=1.5, *, flag=False) -> int: -> '
    'def f(x: "int | None", y=1.5, *, flag=True) -> int:',
    "if flag and not x <= y: -> if (not (flag and (not x <= y))):",
    "if flag and not x <= y: -> if (flag or not x <= y):",
    "if flag and not x <= y: -> if flag and (x <= y):",
    "if flag and not x <= y: -> if flag and not (x < y):",
    'raise ValueError("x") -> pass',
    "while g(): -> while (not g()):",
    "x += -1 -> pass",
    "x += -1 -> x += 1",
    "x += -1 -> x += -2",
    "break -> pass",
    "return x**2 if x in (y,) else None -> return None",
    "return x**2 if x in (y,) else None -> return (x * 2) if x in (y,) else None",
    "return x**2 if x in (y,) else None -> return x**3 if x in (y,) else None",
    "return x**2 if x in (y,) else None -> return x**2 if (x not in (y,)) else None",
]


def test_every_change_is_made_once_and_none_to_types_asserts_or_texts() -> None:
    found = mutants("a.py", SOURCE.encode())
    told = [f"{mutant.before} -> {mutant.after}" for mutant in found]
    assert set(told) == set(WANTED) and len(told) == len(WANTED)
    assert {mutant.where for mutant in found} == {"a.py", "f"}
    assert found[0].name.startswith("a.py, a.py: LIMIT")


@pytest.mark.parametrize("path", sorted((ROOT / "solvers").glob("*.py")), ids=lambda p: p.name)
def test_every_mutant_is_a_module_that_differs(path: Path) -> None:
    for mutant in mutants(path.name, path.read_bytes()):
        assert mutant.source != path.read_bytes()
        compile(mutant.source, path.name, "exec")
