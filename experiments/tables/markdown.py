"""Read a committed result, and say in Markdown what it is and where it comes from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from experiments.results import RESULTS

Row = Iterable[object]


def result(name: str) -> dict[str, Any]:
    """Return experiments/results/NAME.json."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


def measured(name: str) -> bool:
    """Say whether there is a result of this name."""
    return (RESULTS / f"{name}.json").exists()


def command(name: str) -> str:
    """Return what makes a result today: scripts were called by their paths before."""
    said: str = result(name)["command"]
    path, *words = said.removeprefix("python ").split()
    if not path.endswith(".py"):
        return said
    module = path.removesuffix(".py").removesuffix("/__main__").replace("/", ".")
    return " ".join(["python", "-m", module, *words])


def source(name: str) -> str:
    """Return where a result comes from, in one sentence."""
    body = result(name)
    threads = "one thread" if body["threads"] == 1 else f"{body['threads']} threads"
    return (
        f"`{command(name)}`, seed {body['seed']}, commit {body['commit']}, {threads} of "
        f"{body['device']}: `experiments/results/{name}.json`."
    )


def section(title: str, name: str, about: str, *lines: str) -> str:
    """Return a part of the page: what was measured, by which command, and what was found."""
    return "\n".join([f"## {title}", "", about, "", source(name), "", *lines])


def anchor(title: str) -> str:
    """Return the name by which GitHub and mkdocs link to a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def table(head: Row, rows: Iterable[Row]) -> list[str]:
    """Return the lines of a table."""
    first = list(head)
    return ["| " + " | ".join(map(str, row)) + " |" for row in (first, ["---"] * len(first), *rows)]
