"""Write the page: one HTML file, with its data, its drawing and its style in it."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from dataclasses import asdict
from importlib.resources import files
from typing import Any

from .figures import Page

DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)
HARMLESS = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}
"""JSON for the characters that could end a script, begin a tag or break a line of JavaScript."""


def render(page: Page) -> str:
    """Return the page as HTML.

    No text of the data is ever read as HTML: it stands in JSON without a "<", from where the script
    puts it into text nodes. The page's own policy forbids it to load anything, and any other
    script or style than its own.

    Arguments:
        page: what to show.
    """
    parts = {name: _part(f"page.{name}") for name in ("html", "css", "js")}
    data = json.dumps(asdict(page), allow_nan=False).translate(HARMLESS)
    filled = {
        "TITLE": html.escape(f"{page.model} on {page.dataset}"),
        "SCRIPT-HASH": _hash(parts["js"]),
        "STYLE-HASH": _hash(parts["css"]),
        "STYLE": parts["css"],
        "SCRIPT": parts["js"],
        "DATA": data,
    }
    return re.sub(r"\{\{([A-Z-]+)\}\}", lambda found: filled[found[1]], parts["html"])


def embedded(text: str) -> dict[str, Any]:
    """Return the data of a page from its HTML.

    Arguments:
        text: what `render` returned.

    Raises:
        ValueError: it is no such page.
    """
    found = DATA.search(text)
    if found is None:
        raise ValueError("no data of `homotopy-deq show` in this HTML: give a page that it wrote.")
    data: dict[str, Any] = json.loads(found[1])
    return data


def _part(name: str) -> str:
    return (files("homotopy_deq.page") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
