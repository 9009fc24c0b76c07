"""Write a measured result with all that is needed to measure it again."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from homotopy_deq.machine import processor

ROOT = Path(__file__).parents[1]
PUBLISHED = os.environ.get("PUBLISH_TO")
"""A folder for what experiments write, in the place of the committed results and pictures."""
RESULTS = Path(PUBLISHED).resolve() if PUBLISHED else ROOT / "experiments" / "results"
IMAGES = RESULTS / "images" if PUBLISHED else ROOT / "docs" / "images"
PACKAGES = ("torch", "torchdiffeq", "accelerate", "numpy", "scikit-learn")


def bare(doc: str | None) -> None:
    """Answer --help with what an experiment is, and refuse all other words: it takes none."""
    argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()


class Record:
    """Time an experiment and write its result.

        record = Record("agreement", config)   # a dataclass with a seed
        record.write({"worst": 1e-6})          # experiments/results/agreement.json

    Arguments:
        name: of the JSON file.
        config: the experiment's dataclass; it has a field `seed`.
    """

    def __init__(self, name: str, config: Any) -> None:
        self.name = name
        self.config = config
        self.started = datetime.now(timezone.utc)
        self.commit = commit()  # of the code that was read

    def write(
        self,
        result: Mapping[str, Any],
        folder: Path = RESULTS,
        *,
        started: str | None = None,
        seconds: float | None = None,
    ) -> Path:
        """Write the result with seed, commit, device, versions, command and times.

        The commit is the one that it began at; where another is checked out since, of which a
        part may have been read, it has "+changes".

        Arguments:
            result: what was measured.
            folder: where to write.
            started, seconds: of the work itself, where earlier calls did a part of it.
        """
        finished = datetime.now(timezone.utc)
        settings = {k: plain(v) for k, v in asdict(self.config).items()}
        body = {
            "experiment": self.name,
            "seed": settings.pop("seed"),
            "commit": self.commit if self.commit == commit() else f"{self.commit}+changes",
            "device": device(),
            "threads": torch.get_num_threads(),
            "versions": {"python": platform.python_version()}
            | {package: version(package) for package in PACKAGES},
            "command": command(),
            "started": started or self.started.isoformat(timespec="seconds"),
            "finished": finished.isoformat(timespec="seconds"),
            "seconds": round(seconds or (finished - self.started).total_seconds(), 1),
            "config": settings,
            "result": result,
        }
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.json"
        path.write_text(json.dumps(body, indent=2) + "\n")
        return path


def environment() -> dict[str, str]:
    """Return the environment of a process that imports what this one does, from any folder."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]])}


def commit() -> str:
    """Name the commit that runs, with "+changes" where Python files differ from it.

    SOURCE_COMMIT names it where the files were copied to a machine without their repository.
    """
    if copied := os.environ.get("SOURCE_COMMIT"):
        return copied
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        return head + ("+changes" if _git("status", "--porcelain", "--", "*.py") else "")
    except (OSError, subprocess.CalledProcessError):
        return "not in a git checkout"


def device() -> str:
    """Name the processor, with the GPU where there is one."""
    names = [f"{processor()[0]}, {os.cpu_count()} logical cores"]
    if torch.cuda.is_available():
        names.append(torch.cuda.get_device_name())
    return "; ".join(names)


def command() -> str:
    """Return what was typed, as a shell reads it, without this machine's folders."""
    spec = sys.modules["__main__"].__spec__
    program = ["-m", spec.name.removesuffix(".__main__")] if spec else [plain(Path(sys.argv[0]))]
    words = [plain(Path(word)) if Path(word).is_absolute() else word for word in sys.argv[1:]]
    return shlex.join(["python", *map(str, program + words)])


def plain(value: Any) -> Any:
    """Strip a path to what another machine has too."""
    if not isinstance(value, Path):
        return value
    if value.is_absolute() and value.is_relative_to(ROOT):
        return str(value.relative_to(ROOT))
    return value.name if value.is_absolute() else str(value)


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()
