"""A study is done part by part; each finished part is written at once and is not done again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch

from ...sealed import digest, misfit, parse
from ...training.checkpoint import replace_file
from ...training.folder import locked

Advance = Callable[[int], None]
Result = dict[str, Any]
"""What JSON can hold."""


@dataclass(frozen=True)
class Claim:
    """What a paper claims, what was measured, and whether that bears it out.

    Arguments:
        says: the claim, in a sentence.
        found: the figure, with its band where it has one.
        holds: the verdict.
    """

    says: str
    found: str
    holds: bool


@dataclass(frozen=True)
class Part:
    """A piece of a study.

    Arguments:
        steps: how many times `measure` calls what it is given, for a progress bar.
        measure: returns its figures; is told what to call as it goes on.
    """

    steps: int
    measure: Callable[[Advance], Result]


class Study(Protocol):
    """A frozen dataclass of settings, plain values all, with parts and what they say."""

    name: ClassVar[str]

    def parts(self) -> Mapping[str, Part]:
        """Return the parts by name, in the order in which they are done."""
        ...

    def claims(self, found: Mapping[str, Result]) -> Sequence[Claim]:
        """Return what the figures of the parts, those that are done, say of the claims."""
        ...


Bar = Callable[[str, int], AbstractContextManager[Advance]]
"""Maps the name of a part and its steps to a progress bar."""


def carry_out(
    study: Study, folder: Path, bar: Bar, *, overwrite: bool = False
) -> dict[str, Result]:
    """Do the parts of a study that are not done yet, and return the figures of all.

    FOLDER/parts has a JSON file for each, written when it is finished, so that the same call goes
    on where one was stopped; FOLDER/NAME.json holds all of them, the settings and the claims.

    Arguments:
        study: with its settings.
        folder: where it is kept.
        bar: shows how far a part is.
        overwrite: begin again, whatever the folder holds.

    Raises:
        FileExistsError: a part in the folder is of other settings, or another call is at work.
    """
    settings = json.loads(json.dumps(asdict(study), default=str))  # type: ignore[call-overload]
    identity = {"study": study.name, "settings": settings, "torch": torch.__version__}
    parts = study.parts()
    kept = {name: folder / "parts" / f"{name}.json" for name in parts}
    with locked(folder):
        if overwrite:
            for file in (folder / "parts").glob("*.json"):
                file.unlink()
        of = {name: {**identity, "part": name} for name in parts}
        done = {name: _read(file, of[name]) for name, file in kept.items() if file.exists()}
        for name, part in parts.items():
            if name not in done:
                with bar(name.replace("_", " "), part.steps) as advance:
                    since = time.perf_counter()
                    result = part.measure(advance)
                took = round(time.perf_counter() - since, 1)
                done[name] = {"seconds": took, "result": result}
                body = json.loads(json.dumps(of[name] | done[name]))  # as it will be read
                _write(kept[name], body | {"sha256": digest(body)})
        found = {name: done[name]["result"] for name in parts}
        claims = [asdict(claim) for claim in study.claims(found)]
        seconds = {name: done[name]["seconds"] for name in parts}
        whole = {**identity, "seconds": seconds, "claims": claims, "parts": found}
        _write(folder / f"{study.name}.json", whole)
    return found


def _read(file: Path, identity: Mapping[str, Any]) -> Result:
    try:
        held: Result = parse(file.read_bytes())
        if misfit({"seconds": float, "result": dict}, held):
            raise ValueError("it is no part")
        stored = held.pop("sha256", None)  # later than the first parts
        if stored not in (None, digest(held)):
            raise ValueError("its checksum does not fit")
    except (ValueError, OSError) as error:
        raise ValueError(f"{file} was altered ({error}): delete it, and it is done anew.") from None
    held.setdefault("part", file.stem)
    if {name: held.get(name) for name in identity} != identity:
        raise FileExistsError(
            f"{file} is of other settings, another part or another torch: choose another folder, "
            "or discard what it holds (overwrite=True)."
        )
    return held


def _write(file: Path, content: Mapping[str, Any]) -> None:
    replace_file(file, (json.dumps(content, indent=1) + "\n").encode())
