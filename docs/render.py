"""Run the tutorials, and show them as pages: what they say, their code, what they print and draw.

    python docs/render.py [NAME ...]        (or: make tutorials)

A tutorial is a plain script in cells, `# %%` and `# %% [markdown]` (jupytext's percent format), so
that an editor or Jupyter opens it as a notebook. Each is executed in a process and a folder of its
own, on one thread, and what its cells gave is kept in build/tutorials. mkdocs calls `on_files`,
which makes a page of each script: with what it gave if exactly this script was executed, else
without. `make docs` executes first, so that nothing that is shown is older than the code. Two pages
of the repository above, for contributors, are shown as they are.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
FOLDER = DOCS / "tutorials"
BUILT = DOCS.parent / "build" / "tutorials"
LINK = re.compile(r"(\]\((?:(?:\.\./)?tutorials/)?\w+)\.py\)")
"""A link to a script, as it works in the repository; on a page it is to lead to its page."""
ABOVE = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Pages of the repository that are not in the folder, and their names here."""


@dataclass(frozen=True)
class Given:
    """What a cell gave: what it printed, and its picture as a PNG in base64."""

    text: str = ""
    picture: str = ""


@dataclass(frozen=True)
class Run:
    """What the code cells of a script gave, in order, and in how many seconds."""

    source: str
    seconds: float
    cells: list[Given] = field(default_factory=list)


def cells(text: str) -> Iterator[tuple[bool, int, str]]:
    """Yield of each cell whether it is code, the line at which it begins, and what it holds."""
    line = 0
    for part in re.split(r"^(?=# %%)", text, flags=re.MULTILINE):
        head, _, body = part.partition("\n")
        if head.startswith("# %%"):
            prose = "[markdown]" in head
            told = re.sub(r"^# ?", "", body, flags=re.MULTILINE) if prose else body
            yield not prose, line + 1, told.strip("\n") if prose else body
        line += part.count("\n")


def execute(script: Path) -> Run:
    """Run a script's cells in one namespace, and show the figure that a cell ends with."""
    text, began = script.read_text(), time.process_time()
    module = types.ModuleType("tutorial")
    before = sys.modules.get("tutorial"), warnings.formatwarning
    sys.modules["tutorial"] = module  # dataclasses look their module up
    warnings.formatwarning = lambda message, category, *_: f"{category.__name__}: {message}\n"
    try:
        given = [
            _cell("\n" * line + code, str(script), module.__dict__)
            for is_code, line, code in cells(text)
            if is_code
        ]
    finally:
        _, warnings.formatwarning = before
        sys.modules.pop("tutorial")
    return Run(_mark(text), time.process_time() - began, given)


def _cell(code: str, name: str, space: dict[str, Any]) -> Given:
    from matplotlib.figure import Figure

    tree, told, shown = ast.parse(code, name), io.StringIO(), None
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        exec(compile(tree, name, "exec"), space)
        if isinstance(last, ast.Expr):
            shown = eval(compile(ast.Expression(last.value), name, "eval"), space)
    if not isinstance(shown, Figure):
        return Given(told.getvalue())
    drawn = io.BytesIO()
    shown.savefig(drawn, format="png", dpi=130)
    return Given(told.getvalue(), base64.b64encode(drawn.getvalue()).decode())


def page(script: Path, run: Run | None) -> tuple[str, dict[str, bytes]]:
    """Return a script's page, and the pictures on it by their names."""
    lines, pictures, given = [], {}, iter(run.cells if run else ())
    for number, (is_code, _, body) in enumerate(cells(script.read_text())):
        if not is_code:
            lines.append(LINK.sub(r"\1.md)", body))
            if number == 0:  # below its title
                ran = f"as it ran in {run.seconds:.0f} s on one core" if run else "not run yet"
                lines.append(f"*This page is the script [{script.name}]({script.name}), {ran}.*")
            continue
        lines.append(f"```python\n{body.strip()}\n```")
        gave = next(given, Given())
        if gave.text:
            lines.append(f"``` {{ .text .no-copy .output }}\n{gave.text.rstrip()}\n```")
        if gave.picture:
            name = f"{script.stem}-{len(pictures) + 1}.png"
            pictures[name] = base64.b64decode(gave.picture)
            lines.append(f"![what the cell above draws]({name})")
    return "\n\n".join(lines) + "\n", pictures


def on_files(files: Any, config: Any) -> Any:
    """Give mkdocs a page for each tutorial, its pictures, and the pages above the folder."""
    from mkdocs.structure.files import File

    for there, here in ABOVE.items():
        text = (DOCS.parent / there).read_text().replace("](docs/", "](")
        files.append(File.generated(config, here, content=text))

    for script in scripts():
        text, pictures = page(script, kept(script))
        made: dict[str, Any] = {f"{script.stem}.md": text, **pictures}
        for name, content in made.items():
            files.append(File.generated(config, f"tutorials/{name}", content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links to scripts, and to pages above the folder, to where these are shown."""
    for there, here in ABOVE.items():
        markdown = markdown.replace(f"../{there})", f"{here})")
    return markdown if page.file.src_uri.startswith("tutorials/") else LINK.sub(r"\1.md)", markdown)


def scripts() -> list[Path]:
    """Return the tutorials."""
    return sorted(FOLDER.glob("*.py"))


def kept(script: Path) -> Run | None:
    """Return what exactly this script gave when it was executed, if it was."""
    try:
        found = json.loads((BUILT / f"{script.stem}.json").read_text())
    except FileNotFoundError:
        return None
    cells = [Given(**each) for each in found.pop("cells")]
    return Run(**found, cells=cells) if found["source"] == _mark(script.read_text()) else None


def _mark(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _apart(script: Path) -> str:
    """Execute a script in a process and a folder of its own, keep what it gave, and say so."""
    thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    path = os.pathsep.join([str(DOCS.parent), os.environ.get("PYTHONPATH", "")])
    words = [sys.executable, str(Path(__file__).resolve()), "--here", str(script)]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            words,
            cwd=folder,
            env={**os.environ, **thread, "PYTHONPATH": path},
            text=True,
            capture_output=True,
        )
    if done.returncode:
        raise SystemExit(f"{done.stderr}\n{script} failed: mend it, or what it shows.")
    BUILT.mkdir(parents=True, exist_ok=True)
    (BUILT / f"{script.stem}.json").write_text(done.stdout)
    return f"{script.name}: {json.loads(done.stdout)['seconds']:.1f} s"


def main(words: list[str]) -> None:
    """Execute the tutorials that are named, or all, two at a time."""
    if words[:1] == ["--here"]:
        print(json.dumps(asdict(execute(Path(words[1])))))
        return
    chosen = [script for script in scripts() if not words or script.stem in words]
    if not chosen:
        names = ", ".join(script.stem for script in scripts())
        raise SystemExit(f"there is no tutorial {' '.join(words)!r}; there are {names}.")
    with ThreadPoolExecutor(2) as pool:
        for told in pool.map(_apart, chosen):
            print(told, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
