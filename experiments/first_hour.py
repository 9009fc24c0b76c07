"""Time each command and block of docs/first-hour.md, as a newcomer runs them.

    python -m experiments.first_hour         # some 3 minutes

They run in order and on one thread, in an empty folder in which the training script of
docs/script.md lies as train.py: commands each in a process of its own, with what its start takes,
blocks of Python together in this one, which has torch imported. What installs is left out. A
command or block that fails ends it, and nothing is written.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from experiments.results import RESULTS, ROOT, Record

PART = re.compile(r"^## (?P<title>[^\n]+)$|^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.M | re.S)
INSTALLS = ("git", "make", "pip")
OURS = {  # so that they need not be installed, or on the path
    "homotopy-deq": [sys.executable, "-m", "homotopy_deq.cli"],
    "torchrun": [sys.executable, "-m", "torch.distributed.run"],
}


@dataclass(frozen=True)
class Config:
    """The page, and the seed of what its blocks draw; commands have seeds of their own.

    Arguments:
        page: whose steps are run.
        script: the page that has the training script.
        seed: of torch, before the first block.
    """

    page: Path = ROOT / "docs" / "first-hour.md"
    script: Path = ROOT / "docs" / "script.md"
    seed: int = 0


@dataclass(frozen=True)
class Step:
    """One command, or one block of Python, and the heading it stands under."""

    under: str
    language: str
    code: str


def steps(text: str) -> Iterator[Step]:
    """Yield what a page runs, in its order; each line of a shell block is a command."""
    under = ""
    for part in PART.finditer(text):
        if part["title"]:
            under = part["title"]
        elif part["language"] == "python":
            yield Step(under, "python", part["code"])
        elif part["language"] == "sh":
            for line in part["code"].splitlines():
                words = shlex.split(line, comments=True)
                if words and words[0] not in INSTALLS:
                    yield Step(under, "sh", shlex.join(words))


def script(text: str) -> str:
    """Return the block of a page that trains in several processes."""
    blocks = (part["code"] for part in PART.finditer(text) if part["language"] == "python")
    (found,) = (code for code in blocks if "init_process_group" in code)
    return found


def run(step: Step, folder: Path, space: dict[str, Any]) -> float:
    """Run one in a folder, a block among the names of those before it; return its seconds."""
    began = time.perf_counter()
    if step.language == "python":
        exec(compile(step.code, step.under, "exec"), space)
        return time.perf_counter() - began
    program, *words = shlex.split(step.code)
    done = subprocess.run(
        [*OURS.get(program, [program]), *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{done.stdout}\n`{step.code}` failed: mend it, or the page.")
    return time.perf_counter() - began


def main(config: Config, published: Path = RESULTS) -> None:
    """Run a page, print each step's seconds, and write first_hour.json."""
    torch.set_num_threads(1)
    torch.manual_seed(config.seed)
    record, rows, here = Record("first_hour", config), [], Path.cwd()
    module = types.ModuleType("first_hour")
    sys.modules[module.__name__] = module  # dataclasses look their module up
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            Path("train.py").write_text(script(config.script.read_text()))
            for step in steps(config.page.read_text()):
                seconds = run(step, Path(folder), vars(module))
                what = step.code if step.language == "sh" else "the block of Python"
                print(f"{seconds:6.1f} s  {step.under}: {what}", flush=True)
                rows.append({"under": step.under, "what": what, "seconds": round(seconds, 2)})
        finally:
            os.chdir(here)
            del sys.modules[module.__name__]
    print(f"Written to {record.write({'steps': rows}, published)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.parse_args()
    main(Config())
