"""Versions of the package side by side, each in a process of its own."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from types import TracebackType
from typing import Any

from experiments.results import ROOT


def unpacked(before: str, folder: Path) -> Path:
    """Return a folder that holds the package as it was."""
    if Path(before).is_dir():
        return Path(before).resolve()
    words = ["git", "archive", before, "homotopy_deq", "solvers"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True)
    if done.returncode:
        raise SystemExit(
            f"{before} is no commit of this checkout ({done.stderr.decode().strip()}): get its "
            "whole history (git fetch --unshallow), or give --before FOLDER."
        )
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as files:
        files.extractall(folder)
    return folder


class Worker:
    """A process that answers one line of JSON for each with one version of the package.

    Arguments:
        tree: holds the package.
        program: the text that it runs, and in which `serve(folder)` answers: it says one thing
            before it is asked, which is `first`.
        folder: what `serve` is given.
    """

    def __init__(self, tree: Path, program: str, folder: Path) -> None:
        command = [sys.executable, "-c", f"{program}\nserve(sys.argv[1])", str(folder)]
        environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONWARNINGS": "ignore"}
        self.process = subprocess.Popen(
            command, cwd=tree, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        self.first = self._read()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.communicate()  # its input ends, and it does

    def __call__(self, **asked: Any) -> dict[str, Any]:
        """Ask, and return the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a worker ended with {self.process.wait()}: its error is above.")
        answer: dict[str, Any] = json.loads(line)
        return answer
