"""What a user installs: built, put in an empty environment, used from another folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import homotopy_deq
from tests.test_import import ROOT

SMOKE = """
import sys
sys.modules["torchvision"] = None  # an extra that only some data sets need
import torch
import homotopy_deq, solvers
from homotopy_deq import Anderson, Equilibrium, solve
assert all("site-packages" in str(m.__file__) for m in (homotopy_deq, solvers))
found = solve(Equilibrium(lambda z: torch.tanh(z / 2 + 1)), Anderson(), torch.zeros(2, 3))
assert found.converged.all()
from importlib.resources import files
assert all(files(name).joinpath("py.typed").is_file() for name in ("homotopy_deq", "solvers"))
from importlib.metadata import metadata
print(metadata("homotopy-deq")["Version"])
"""
BUILD = "import sys; from setuptools.build_meta import {0}; {0}(sys.argv[1])"


def build(kind: str, source: Path, out: Path) -> Path:
    """Build a distribution by the back end that pyproject.toml names, and return its file."""
    out.mkdir()
    code = [sys.executable, "-c", BUILD.format(f"build_{kind}"), str(out)]
    made = subprocess.run(code, cwd=source, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    (file,) = out.iterdir()
    return file


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, made of the source distribution alone, made of the tracked files alone."""
    folder = tmp_path_factory.mktemp("release")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    names = [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    if not names:
        pytest.skip("git lists no files here")
    for name in names:
        if name.startswith(("homotopy_deq/", "solvers/", "tests/")) or "/" not in name:
            (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "tree" / name).write_bytes((ROOT / name).read_bytes())
    source = build("sdist", folder / "tree", folder / "sdist")
    shutil.unpack_archive(source, folder / "source")
    (inner,) = (folder / "source").iterdir()
    assert {"LICENSE", "CITATION.cff", "CHANGELOG.md"} <= {each.name for each in inner.iterdir()}
    assert not (inner / "tests").exists()
    return build("wheel", inner, folder / "wheel")


def test_the_wheel_holds_both_packages_their_types_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"homotopy_deq", "solvers", f"homotopy_deq-{homotopy_deq.__version__}.dist-info"}
    sources = {
        str(file.relative_to(ROOT))
        for package in ("homotopy_deq", "solvers")
        for file in (ROOT / package).rglob("*.py")
    }
    assert {name for name in names if name.endswith(".py")} == sources
    assert {"homotopy_deq/py.typed", "solvers/py.typed"} <= set(names)
    assert {f"homotopy_deq/page/page.{kind}" for kind in ("html", "css", "js")} <= set(names)
    assert sum(name.endswith(("/LICENSE", "/CITATION.cff")) for name in names) == 2


@pytest.mark.slow
def test_installed_in_an_empty_environment_it_solves_and_its_commands_run(
    wheel: Path, tmp_path: Path
) -> None:
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps"]
    subprocess.run([*pip, str(wheel)], check=True, env=environment)
    # Its dependencies are those of this environment: to fetch torch takes minutes. The folder is
    # appended as it is, so that the editable install in it stays out.
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    code = f"import sys; sys.path.append({sysconfig.get_path('purelib')!r})\n"
    (site / "dependencies.pth").write_text(code)
    run = {"capture_output": True, "text": True, "cwd": tmp_path, "env": environment}
    smoke = subprocess.run([python, "-c", SMOKE], **run)  # type: ignore[call-overload]
    assert smoke.returncode == 0, smoke.stderr
    assert smoke.stdout.strip() == homotopy_deq.__version__
    command = tmp_path / "env" / "bin" / "homotopy-deq"
    for words in (["--help"], ["info"], ["train", "--out", "r", "--limit", "60", "--epochs", "1"]):
        found = subprocess.run([command, *words], **run)  # type: ignore[call-overload]
        assert found.returncode == 0, found.stderr + found.stdout
    assert (tmp_path / "r" / "checkpoint.safetensors").is_file()


def test_the_version_is_the_same_wherever_it_stands() -> None:
    """In the package, from which pyproject.toml takes it, and in the citation file."""
    version = homotopy_deq.__version__
    project = (ROOT / "pyproject.toml").read_text()
    assert 'version = { attr = "homotopy_deq.__version__" }' in project
    assert not re.search(r'^version = "', project, re.M)
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.M)
    assert cited is not None and cited[1] == version
