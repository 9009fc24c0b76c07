from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_demo_finds_its_forward_passes_in_agreement(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "experiments.demo"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "runs" / "demo"
    passes = json.loads((folder / "demo.json").read_text())["result"]["forward passes"]
    assert len(passes) >= 5
    accuracies = [each["accuracy"] for each in passes.values()]
    assert min(accuracies) >= 0.97 and max(accuracies) - min(accuracies) <= 0.005
    assert {path.suffix for path in (folder / "plots").iterdir()} == {".png"}
    assert (folder / "checkpoint.safetensors").exists()
