"""The page that goes with a saved model: what it is, how it was made, what was measured of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

FRONT = """---
library_name: homotopy-deq
pipeline_tag: image-classification
tags:
- implicit-layers
- deep-equilibrium-models
---
"""


def card(meta: Mapping[str, Any], parameters: int) -> str:
    """Return a model card in Markdown, of what a saved model's JSON says and nothing else.

    Arguments:
        meta: what `save_pretrained` writes.
        parameters: their number.
    """
    about = meta["about"]
    model, path = about["model"], about["path"]
    sections = [
        f"{FRONT}\n# {model['name']}\n",
        f"An image classifier of [homotopy-deq](https://pypi.org/project/homotopy-deq) "
        f"{meta['version']} with {parameters:,} parameters. Its output is the answer to an "
        "equation, which any solver that fits may find.\n",
        "```python\nfrom homotopy_deq.models import ImageModel\n\n"
        'model = ImageModel.from_pretrained("FOLDER or NAME/REPOSITORY")\n```\n',
        _table("Solved and differentiated by", path),
        _table("Made by", model["config"]),
    ]
    if about.get("classes"):
        sections.append(f"Classes: {', '.join(about['classes'])}.\n")
    for title, entries in meta.get("figures", {}).items():
        sections.append(_table(title, entries))
    return "\n".join(sections)


def _table(title: str, entries: Mapping[str, Any]) -> str:
    rows = [f"| {name.replace('_', ' ')} | {_cell(value)} |" for name, value in entries.items()]
    return "\n".join([f"## {title}\n", "| | |", "|---|---|", *rows, ""])


def _cell(value: Any) -> str:
    if isinstance(value, Mapping) and "is" in value:
        settings = ", ".join(f"{k}={_cell(v)}" for k, v in value.items() if k != "is")
        return f"{value['is']}({settings})"
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return (value if isinstance(value, str) else json.dumps(value)).replace("|", "\\|")
