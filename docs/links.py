"""Lead names on the pages to the reference: the first `Anderson(memory)` of a page is a link.

mkdocs calls `on_page_markdown`. A name is one that a page of docs/reference shows. Two that are
spelt alike are left as they are, but where `solvers` or `homotopy_deq` offers one, and so is a word
in small letters (`train`) that these do not offer: no link is better than a wrong one.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SHOWN = re.compile(r"^::: (\S+)(?:\n.*members: \[(.*)\])?", re.MULTILINE)
PLAIN = re.compile(r"^```.*?^```$|^#.*?$|\[[^\]]*\]\([^)]*\)", re.MULTILINE | re.DOTALL)
"""What holds no link: blocks of code, headings, links."""
SPAN = re.compile(r"(?<!`)`((?:\w+\.)*(\w+))(\([^`\[\]]*\))?`(?!`)")
OFFERING = ("solvers", "solvers.homotopy", "homotopy_deq")
OTHERS = ("homotopy_deq.page", "homotopy_deq.compat")
"""Packages whose names are those of others, for another purpose."""


@cache
def places() -> dict[str, str]:
    """Return the entry of the reference for each name that leads to one, `Picard` to its path."""
    small = {name for package in OFFERING for name in offered(package)}
    found: dict[str, set[str]] = defaultdict(set)
    for page in (ROOT / "docs" / "reference").glob("*.md"):
        for path, members in SHOWN.findall(page.read_text()):
            names = members.split(", ") if members else offered(path)
            for entry in [f"{path}.{name}" for name in names] or [path]:
                package, _, name = entry.rpartition(".")
                if package not in OTHERS and (name[0].isupper() or name in small):
                    found[name].add(entry)
    own = {name: {f"solvers.{name}", f"homotopy_deq.{name}"} & found[name] for name in found}
    meant = {name: own[name] or found[name] for name in found}
    return {name: entries.pop() for name, entries in meant.items() if len(entries) == 1}


def offered(path: str) -> list[str]:
    """Return the `__all__` of a package or a module, [] of anything else, and import nothing."""
    for file in (
        ROOT / path.replace(".", "/") / "__init__.py",
        ROOT / f"{path.replace('.', '/')}.py",
    ):
        if file.is_file():
            for node in ast.parse(file.read_text()).body:
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                    return list(ast.literal_eval(node.value))
    return []


def linked(text: str, places: Mapping[str, str]) -> str:
    """Return a page with the first span of each name, outside of code and links, made a link."""
    seen: set[str] = set()

    def lead(span: re.Match[str]) -> str:
        path, name, call = span.groups()
        entry = places.get(name)
        small = name[0].islower() and not call
        if entry is None or small or name in seen or path not in (name, entry):
            return span[0]
        seen.add(name)
        return f"[{span[0]}][{entry}]"

    parts, end = [], 0
    for plain in PLAIN.finditer(text):
        parts += [SPAN.sub(lead, text[end : plain.start()]), plain[0]]
        end = plain.end()
    return "".join([*parts, SPAN.sub(lead, text[end:])])


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Link the names of a page."""
    return linked(markdown, places())
