"""The arrows between the packages, read off the source without running it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SIBLINGS = ("theory", "certification", "lipschitz", "acceleration")
HEAVY = {
    "torchvision", "matplotlib", "scipy", "accelerate", "torchdiffeq",
    "typer", "rich", "torchmetrics", "sklearn", "tensorboard",
}  # fmt: skip


def trees(*packages: str, root: Path = ROOT) -> Iterator[tuple[str, ast.Module]]:
    """Yield the dotted name and the syntax tree of each module of the packages."""
    for package in packages:
        for path in sorted([*root.glob(f"{package}.py"), *(root / package).rglob("*.py")]):
            parts = path.relative_to(root).with_suffix("").parts
            yield ".".join(parts), ast.parse(path.read_text(), str(path))


def names(module: str, tree: ast.Module) -> Iterator[str]:
    """Yield the dotted name of all that a module imports, and of each a.b.c that it writes."""
    package = module.split(".")[:-1]  # a/__init__.py is read as a.__init__
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{source}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute):
            yield ast.unparse(node)


def uses(name: str, *banned: str) -> bool:
    return any(name == ban or name.startswith(f"{ban}.") for ban in banned)


def offences(
    packages: tuple[str, ...], *banned: str, but: str = "", root: Path = ROOT
) -> list[str]:
    """List "module: name" for each banned name that a module outside `but` uses."""
    return [
        f"{module}: {name}"
        for module, tree in trees(*packages, root=root)
        if not (but and uses(module, but))
        for name in names(module, tree)
        if uses(name, *banned)
    ]


def internals(root: Path = ROOT) -> list[str]:
    """List the imports between siblings that reach past what the sibling's package offers."""
    found = []
    for here in SIBLINGS:
        others = [f"homotopy_deq.{other}" for other in SIBLINGS if other != here]
        for module, tree in trees(f"homotopy_deq/{here}", root=root):
            for name in names(module, tree):
                parts = name.split(".")
                inside = len(parts) > 3 or (
                    len(parts) == 3
                    and (parts[2].startswith("_") or _is_module(root.joinpath(*parts)))
                )
                if uses(name, *others) and inside:
                    found.append(f"{module}: {name}")
    return found


def _is_module(path: Path) -> bool:
    return path.with_suffix(".py").exists() or path.is_dir()


def autograd_functions(root: Path = ROOT) -> set[str]:
    """Name the modules that subclass autograd.Function."""
    return {
        module
        for module, tree in trees("solvers", "homotopy_deq", root=root)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for base in node.bases
        if ast.unparse(base).split(".")[-1] == "Function"
    }


def loaded(statement: str) -> set[str]:
    """Name the top-level packages that a fresh interpreter has loaded after the statement."""
    code = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def test_solvers_know_nothing_of_networks() -> None:
    assert not offences(("solvers",), "torch.nn", "homotopy_deq")


def test_torchvision_stays_in_the_data_folder() -> None:
    packages = ("solvers", "homotopy_deq")
    assert not offences(packages, "torchvision", but="homotopy_deq.data")


def test_nothing_unpickles() -> None:
    pickles = ("pickle", "dill", "cloudpickle", "joblib", "torch.load", "torch.save", "numpy.load")
    assert not offences(("solvers", "homotopy_deq"), *pickles, "np.load")


def test_siblings_meet_only_at_their_front_doors() -> None:
    assert not internals()


def test_one_file_of_solvers_extends_autograd() -> None:
    modules = autograd_functions()
    assert len(modules) <= 1
    assert all(uses(module, "solvers") for module in modules)


def test_importing_the_library_loads_no_more_than_it_needs() -> None:
    assert not (loaded("import homotopy_deq") - loaded("import torch")) & HEAVY


def test_these_checks_can_fail(tmp_path: Path) -> None:
    guilty = {
        "solvers/a.py": "from torch import nn",
        "solvers/b.py": "import torch\nnorm = torch.nn.functional.normalize",
        "solvers/c.py": "from homotopy_deq import layers",
        "solvers/d.py": "import torch\nclass F(torch.autograd.Function): ...",
        "homotopy_deq/data/a.py": "def f():\n    import torchvision",
        "homotopy_deq/a.py": "def f():\n    from torchvision import io",
        "homotopy_deq/b.py": "import torch\nx = torch.load('x')",
        "homotopy_deq/c.py": "from torch.autograd import Function\nclass F(Function): ...",
        "homotopy_deq/theory/a.py": "from ..lipschitz import bound\nfrom .b import c",
        "homotopy_deq/theory/b.py": "from ..lipschitz.spectral import _power",
        "homotopy_deq/theory/c.py": "from homotopy_deq.lipschitz import spectral",
        "homotopy_deq/lipschitz/spectral.py": "",
        "homotopy_deq/acceleration.py": "from .theory import _secret",
    }
    for name, source in guilty.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    networks = offences(("solvers",), "torch.nn", "homotopy_deq", root=tmp_path)
    assert {line.split(":")[0] for line in networks} == {"solvers.a", "solvers.b", "solvers.c"}
    both = ("solvers", "homotopy_deq")
    vision = offences(both, "torchvision", but="homotopy_deq.data", root=tmp_path)
    assert vision == ["homotopy_deq.a: torchvision.io"]
    assert offences(both, "pickle", "torch.load", root=tmp_path) == ["homotopy_deq.b: torch.load"]
    assert autograd_functions(tmp_path) == {"solvers.d", "homotopy_deq.c"}
    assert internals(tmp_path) == [
        "homotopy_deq.theory.b: homotopy_deq.lipschitz.spectral._power",
        "homotopy_deq.theory.c: homotopy_deq.lipschitz.spectral",
        "homotopy_deq.acceleration: homotopy_deq.theory._secret",
    ]
    assert loaded("import scipy") & HEAVY == {"scipy"}
