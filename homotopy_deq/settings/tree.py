"""All that decides what a run computes, in one tree, and the files that hold it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .data import DataSettings
from .declare import Leaf, assemble, leaves, pick, values
from .model import BackwardPass, ForwardPass, ModelSettings
from .training import TrainConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]


@dataclass(frozen=True)
class Settings:
    """The choices behind a run, with every default filled in.

    A checkpoint keeps them by the names of their options, and a run's config.toml in sections.

    Arguments:
        model: what is trained.
        forward: the pass that it is trained with.
        backward: how that is differentiated.
        data: the images.
        training: how.
    """

    model: ModelSettings
    forward: ForwardPass
    backward: BackwardPass
    data: DataSettings
    training: TrainConfig

    @classmethod
    def of(cls, named: Mapping[str, Any]) -> Settings:
        """Make the tree of settings by name; what is not among them has its default.

        Raises:
            ValueError: a name is unknown, or a value is of another kind or out of its range.
        """
        found = {}
        for name, value in named.items():
            found[name] = NAMES[pick("setting", name, NAMES)].read(value)
        return assemble(cls, found)

    def named(self) -> dict[str, Any]:
        """Return the settings by name, those alone on which results depend."""
        return {k: v for k, v in values(self).items() if NAMES[k].about["decides"]}

    def toml(self) -> str:
        """Return the settings as the text of a file that `read` takes."""
        lines: list[str] = []
        section, found = "", values(self)
        for name, leaf in NAMES.items():
            value = found[name]
            if value is None:
                continue
            if section != leaf.place[0]:
                section = leaf.place[0]
                lines += ["", f"[{section}]"]
            text = str(value) if isinstance(value, float | int) else json.dumps(str(value))
            lines.append(f"{name} = {text.lower() if isinstance(value, bool) else text}")
        return "\n".join(lines[1:]) + "\n"


NAMES: Mapping[str, Leaf] = {leaf.name: leaf for leaf in leaves(Settings)}


def read(file: Path) -> dict[str, Any]:
    """Return the settings of a TOML file by name.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no TOML, or a section or a name is unknown, out of its section, or a
            value of another kind; says which.
    """
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {file}: name a config.toml that a run wrote.")
    try:
        sections = tomllib.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{file} is no TOML ({error}): name a config.toml that a run wrote."
        ) from error
    try:
        return {
            name: NAMES[name].read(value)
            for section, entries in sections.items()
            for name, value in _entries(section, entries).items()
        }
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def _entries(section: str, entries: Any) -> dict[str, Any]:
    if not isinstance(entries, dict):
        entries, section = {section: entries}, "no section"  # it stands before the first
    else:
        pick("section", section, Settings.__dataclass_fields__)
    found: dict[str, Any] = entries
    for name in found:
        home = NAMES[pick("setting", name, NAMES)].place[0]
        if home != section:
            raise ValueError(f"{name} belongs in [{home}]; it is in {section}.")
    return found
