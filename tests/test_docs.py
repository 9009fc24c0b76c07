"""What the pages say can be copied: their code runs, their commands are valid, their links lead on.

Every ```python block of a page is executed, in order and in one namespace, in an empty folder, with
warnings as errors; every line of a ```sh block is parsed. A block that cannot run says why in a
comment above it, `<!-- not run: why -->`.
"""

from __future__ import annotations

import ast
import re
import shlex
import sys
import types
import warnings
from collections.abc import Iterator
from dataclasses import is_dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from accelerate.state import AcceleratorState
from typer.testing import CliRunner

import solvers
from docs import links
from homotopy_deq import Equilibrium, solve
from homotopy_deq.cli import app
from solvers import Solver

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
PACKAGE = {"CONTRIBUTING.md": "solvers"}  # whose block is a file of that package
FENCE = re.compile(
    r"(?:<!-- not run: (?P<why>.+?) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)

TORCHRUN = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(page: Path, language: str) -> Iterator[tuple[int, str]]:
    """Yield the line at which each block of a language begins, and its code."""
    text = page.read_text()
    for found in FENCE.finditer(text):
        if found["language"] == language and not found["why"]:
            yield text.count("\n", 0, found.start("code")) + 1, found["code"]


def having(language: str) -> list[Path]:
    return [page for page in PAGES if any(blocks(page, language))]


def run(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Execute a page's python blocks in a folder, warnings as errors, and return their names."""
    monkeypatch.chdir(folder)
    for left in sorted(set(re.findall(r"load_model\(\"(runs/(?:demo|first))", page.read_text()))):
        less = f"train --out {left} --limit 300 --epochs 2 --cpu"  # than the command that left it
        assert CliRunner().invoke(app, less.split()).exit_code == 0
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    torch.manual_seed(0)
    package = PACKAGE.get(page.name, "")
    module = types.ModuleType(f"{package}.of_a_page".strip("."))
    module.__package__ = package
    monkeypatch.setitem(sys.modules, module.__name__, module)  # dataclasses look their module up
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)  # torch 2.11's own
        warnings.filterwarnings("ignore", "Guards may run slower on Python 3.13.0", RuntimeWarning)
        for line, code in blocks(page, "python"):  # blank lines: tracebacks name the page's line
            AcceleratorState._reset_state(True)  # it keeps the first precision it was asked for
            try:
                exec(compile("\n" * (line - 1) + code, str(page), "exec"), module.__dict__)
            finally:
                if torch.distributed.is_initialized():
                    torch.distributed.destroy_process_group()
                AcceleratorState._reset_state(True)
    return vars(module)


@pytest.mark.parametrize("page", having("python"), ids=named)
def test_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(page, tmp_path, monkeypatch)


def test_solver_of_the_contributors_page_solves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    solver = run(ROOT / "CONTRIBUTING.md", tmp_path, monkeypatch)["Momentum"](rtol=1e-9)
    solution = solve(Equilibrium(torch.cos), solver, torch.zeros(2, 3, dtype=torch.float64))
    # cos(z) = z; with a slope of -0.67 there, a relative residual of 1e-9 is an error below 1e-9
    assert torch.allclose(
        solution.check().value, torch.tensor(0.7390851332151607).double(), atol=1e-9
    )


def test_script_of_forty_lines_trains_as_without_its_bad_sample() -> None:
    (code,) = [code for _, code in blocks(ROOT / "docs" / "script.md", "python") if "dist." in code]
    assert len(code.splitlines()) <= 47  # 40 that are not blank
    without = code.replace('x[5] = float("nan")', "x, labels = x[ROWS], labels[ROWS]")
    assert without != code
    losses = []
    for script in (code, without):
        space: dict[str, Any] = {"__name__": "script", "ROWS": torch.arange(32) != 5}
        script = script.replace("torch.compile(Cell())", "Cell()")  # compiled by the test above
        torch.manual_seed(0)
        torch.distributed.init_process_group(
            "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
        )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
                exec(script.replace('dist.init_process_group("gloo")\n', ""), space)
        finally:
            torch.distributed.destroy_process_group()
        losses.append(float(space["loss"].detach() / space["good"]))
        assert all(bool(p.isfinite().all()) for p in space["net"].parameters())
    assert losses[0] < 0.3  # from 1.4 = log 4
    assert abs(losses[0] - losses[1]) <= 0.05 * 1.4  # bfloat16 rounds by the shape of the batch


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the words of each command that a page offers: the lines of its sh blocks, and what
    stands in `backticks` and begins with the name of our program or with python -m."""
    for _, code in blocks(page, "sh"):
        yield from (words for line in code.splitlines() if (words := shlex.split(line, True)))
    for span in re.findall(r"`([^`]+)`", page.read_text()):
        command = span.startswith(("homotopy-deq", "python -m"))
        words = shlex.split(span) if command else span.split()  # prose has apostrophes
        if words[:1] == ["homotopy-deq"] and len(words) > 2 and words[1] != "COMMAND":
            yield words
        if words[:2] == ["python", "-m"]:
            yield words


def check(words: list[str]) -> None:
    """Raise if a command is none: an unknown program, subcommand, option, target or module."""
    if words[0] == "homotopy-deq":
        program: Any = typer.main.get_command(app)
        context = program.context_class(program)
        command, words = program.get_command(context, words[1]), words[1:]
        if words[0] == "theory":  # a group
            command, words = command.get_command(context, words[1]), words[1:]
        assert command is not None, words
        command.make_context(words[0], words[1:], context)  # parses, and runs nothing
    elif words[0] == "make":
        assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text(), words
    elif words[:2] == ["python", "-m"]:
        found = find_spec(words[2])
        assert found is not None and found.origin is not None, words
        source = "".join(file.read_text() for file in Path(found.origin).parent.glob("*.py"))
        options = [word.split("=")[0] for word in words[3:] if word.startswith("--")]
        fields = [option[2:].replace("-", "_") for option in options]  # options made of these
        assert all(
            o in source or f"\n    {f}: " in source for o, f in zip(options, fields, strict=True)
        )
    elif words[0] == "torchrun":
        assert f"This is `{words[-1]}`, whole" in (ROOT / "docs" / "script.md").read_text(), words
    elif words[:2] == ["pip", "install"]:
        folder, _, extra = words[-1].partition("[")
        project = (ROOT / folder / "pyproject.toml").read_text()
        assert not extra or f"\n{extra[:-1]} = [" in project, words
    else:
        raise AssertionError(f"nothing checks {shlex.join(words)}: say how in `check`")


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_of_a_page_are_valid(page: Path) -> None:
    for words in commands(page):
        check(words)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_of_a_page_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_each_argument_has_an_entry_of_its_own_in_its_docstring() -> None:
    """ "rtol, atol: ..." is read as one name, and the build of the reference fails."""
    wrong = []
    for path in [*(ROOT / "solvers").rglob("*.py"), *(ROOT / "homotopy_deq").rglob("*.py")]:
        for section in re.findall(
            r"^( +)Arguments:\n((?:\1 .*\n)+)", path.read_text(), re.MULTILINE
        ):
            entries = re.findall(rf"^{section[0]}    (\S.*)", section[1], re.MULTILINE)
            wrong += [
                f"{named(path)}: {each}" for each in entries if not re.match(r"\*{0,2}\w+: ", each)
            ]
    assert wrong == []


def test_every_picture_is_on_a_page() -> None:
    shown = "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    assert [
        each.name for each in (ROOT / "docs" / "images").iterdir() if each.name not in shown
    ] == []


def test_every_page_is_in_the_menu() -> None:
    menu, docs = (ROOT / "mkdocs.yml").read_text(), ROOT / "docs"
    pages = [str(page.relative_to(docs)) for page in docs.rglob("*.md")]
    assert [page for page in pages if f": {page}\n" not in menu] == []


def test_page_of_solvers_says_of_every_export_where_it_is_and_what_it_is() -> None:
    page = ROOT / "docs" / "solvers.md"
    shown: dict[str | None, set[str]] = {}
    for _, code in blocks(page, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom):
                shown.setdefault(node.module, set()).update(name.name for name in node.names)
    told = set(re.findall(r"\w+", FENCE.sub("", page.read_text())))
    for package in ("solvers", "solvers.homotopy"):
        missing = set(public(package)) - shown[package]
        # solvers.homotopy offers its paths, too, which the page takes from solvers.
        assert missing <= shown["solvers"] & set(public("solvers")), missing
        assert set(public(package)) <= told


def test_first_page_names_every_solver_and_every_gradient() -> None:
    text = (ROOT / "docs" / "index.md").read_text()
    for kind in (solvers.Equilibrium, solvers.InitialValue):
        (row,) = re.findall(rf"^\| `{kind.__name__}` \|(.*)\|$", text, re.MULTILINE)
        exported = [getattr(solvers, name) for name in public("solvers")]
        paths = {
            each.__name__
            for each in exported
            if isinstance(each, type) and issubclass(each, Solver) and each is not Solver
            if issubclass(each.answers, kind)
        }
        assert len(paths) >= 2 and paths <= set(re.findall(r"`(\w+)", row))
    rules = {name for name in public("solvers.gradient") if is_dataclass(getattr(solvers, name, 0))}
    assert len(rules) >= 4 and rules <= set(re.findall(r"`(\w+)`", text))


def test_reference_has_every_public_name() -> None:
    pages = (ROOT / "docs" / "reference").glob("*.md")
    text = "\n".join(page.read_text() for page in pages)
    shown: set[str] = set()
    for path, members in links.SHOWN.findall(text):
        shown.add(path.rsplit(".", 1)[1] if "." in path else path)
        if not path.rsplit(".", 1)[-1][0].isupper():
            shown |= set(members.split(", ") if members else public(path))
    offered = {"solvers", "solvers.homotopy", "homotopy_deq"}
    offered |= {
        f"homotopy_deq.{path.parent.name}" for path in (ROOT / "homotopy_deq").glob("*/__init__.py")
    }
    names = {name for package in offered for name in public(package)}
    assert names - {"app", "__version__"} <= shown


def test_first_mention_of_a_name_on_a_page_leads_to_its_entry() -> None:
    places = {"Picard": "solvers.Picard", "Anchor": "solvers.warm.Anchor", "solve": "solvers.solve"}
    for text, shown in {
        "`Picard(damping)` and `Picard()`": "[`Picard(damping)`][solvers.Picard] and `Picard()`",
        "`solve` or `solve(p, s, z)`": "`solve` or [`solve(p, s, z)`][solvers.solve]",
        "`solvers.warm.Anchor`": "[`solvers.warm.Anchor`][solvers.warm.Anchor]",
    }.items():
        assert links.linked(text, places) == shown
    for left in (
        "# `Picard`",
        "```python\nPicard()  # not `Picard`\n```\n",
        "[`Picard`](solvers.md)",
        "``Picard``",
        "`other.Anchor`",
        "`layer.solve(x)`",
        "`Nobody()`",
    ):
        assert links.linked(left, places) == left


def test_names_lead_to_the_entry_that_is_meant_or_nowhere() -> None:
    places = links.places()
    assert places["Anderson"] == "solvers.Anderson" and places["DEQ"] == "homotopy_deq.models.DEQ"
    assert "Tangent" not in places  # of a path, and of a certificate's start
    assert "train" not in places and places["diagnose"] == "homotopy_deq.diagnosis.diagnose"
    for entry in places.values():
        package, _, name = entry.rpartition(".")
        assert hasattr(import_module(package), name), entry


def public(path: str) -> list[str]:
    try:
        module = import_module(path)
    except ModuleNotFoundError:
        return []
    return list(getattr(module, "__all__", []))
