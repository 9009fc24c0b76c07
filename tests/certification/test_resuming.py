from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from homotopy_deq.certification import Certificate, Smoother
from homotopy_deq.cli.certification.study import arithmetic
from tests.certification.commands import LINES, TABLE, altered, certify
from tests.test_cli import call, done, refused

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "policy", [["converged"], ["audited", "--audit", 50], ["truncated", "--steps", 2]]
)
def test_deterministic_results_are_those_of_any_batch(
    policy: list[object], run: Path, tmp_path: Path
) -> None:
    for batch in (64, 400):
        certify(run, tmp_path / f"{batch}", "--policy", *policy, "--batch", batch,
                "--deterministic", n=500)  # fmt: skip
    assert (tmp_path / "64" / LINES).read_bytes() == (tmp_path / "400" / LINES).read_bytes()


def test_a_resumed_run_may_change_the_batch_only_where_it_changes_nothing(
    run: Path, tmp_path: Path
) -> None:
    certify(run, tmp_path / "free", "--deterministic", "--batch", 64)
    certify(run, tmp_path / "free", "--deterministic", "--batch", 32, "--resume")
    certify(run, tmp_path / "tied", "--batch", 64)
    flags = ["--out", tmp_path / "tied", "--n", 128, "--limit", 4, "--cpu", "--resume"]
    told = refused("certify", run, *flags, "--batch", 32)
    assert "smoothing.batch: 64 in the run, 32 given" in told


def test_a_resumed_run_is_held_to_weights_and_settings(run: Path, tmp_path: Path) -> None:
    certify(run, tmp_path / "out")
    flags = ["--out", tmp_path / "out", "--n", 128, "--limit", 4, "--cpu"]
    assert "already holds a run" in refused("certify", run, *flags)
    other = altered(run, tmp_path / "other", 1.001)
    assert "weights sha256" in refused("certify", other, *flags, "--resume")
    assert "smoothing.seed: 0 in the run, 1 given" in refused(
        "certify", run, *flags, "--resume", "--seed", 1
    )
    assert "policy" in refused("certify", run, *flags, "--resume", "--policy", "truncated")
    assert "rtol" in refused("certify", run, *flags, "--resume", "--rtol", 1e-5)


def test_another_versions_arithmetic_is_not_gone_on_with(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certify(run, tmp_path)
    other = {**arithmetic(), "scipy": "1.0", "source sha256": "0"}
    monkeypatch.setattr("homotopy_deq.cli.certification.study.arithmetic", lambda: other)
    flags = ["--out", tmp_path, "--n", 128, "--limit", 4, "--cpu", "--resume"]
    told = refused("certify", run, *flags)
    assert "another version" in told and 'arithmetic.scipy: "' in told and '"1.0" given' in told
    assert "arithmetic.source sha256" in told
    done("report", tmp_path)  # what is finished is of the version that computed it


def test_a_digit_that_was_altered_is_neither_resumed_nor_reported(
    run: Path, tmp_path: Path
) -> None:
    certify(run, tmp_path)
    flags = ["--out", tmp_path, "--n", 128, "--limit", 4, "--cpu", "--resume"]
    for name, refusing in (
        ("parts/rank-0.jsonl", lambda: refused("certify", run, *flags)),
        (LINES, lambda: refused("report", tmp_path)),
    ):
        whole = (tmp_path / name).read_text()
        *lines, last = whole.splitlines(keepends=True)
        altered = last.replace('"votes": 1', '"votes": 9').replace('"votes": ', '"votes": 1')
        assert altered != last
        (tmp_path / name).write_text("".join(lines) + altered)
        assert f"{tmp_path / name}, line 4: its checksum does not fit" in refusing()
        (tmp_path / name).write_text(whole)


def test_ctrl_c_keeps_what_is_done(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certify(run, tmp_path / "unbroken")
    real, asked = Smoother.certify, list[int]()

    def interrupted(self: Smoother, *arguments: Any) -> Certificate:
        asked.append(arguments[-1])
        if len(asked) == 3:
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(Smoother, "certify", interrupted)
    flags = ["--out", tmp_path / "out", "--n", 128, "--limit", 4, "--cpu"]
    stopped = call("certify", run, *flags)
    assert stopped.exit_code == 130
    assert "2 of 4 images that are done are kept" in stopped.output and "--resume" in stopped.output
    certify(run, tmp_path / "out", "--resume")
    assert len(asked) == 5 and len(set(asked)) == 4  # nothing twice but what was interrupted
    for name in (LINES, TABLE):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()


def start(run: Path, out: Path, *more: object) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "homotopy_deq.cli", "certify", run, "--out", out, *more, "--cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen([str(word) for word in words], env=environment, **quiet)


def lines_done(out: Path) -> int:
    part = out / "parts" / "rank-0.jsonl"
    return part.read_bytes().count(b"\n") if part.exists() else 0


def ended(process: subprocess.Popen[bytes], within: float) -> bool:
    try:
        process.wait(within)
    except subprocess.TimeoutExpired:
        return False
    return True


def kill_at(process: subprocess.Popen[bytes], out: Path, lines: int, delay: float) -> None:
    """Kill with -9 once so many images are done, and so many seconds more have gone by."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not ended(process, 0.01) and lines_done(out) < lines:
        pass
    ended(process, delay)
    process.send_signal(signal.SIGKILL)
    _, message = process.communicate()
    assert process.returncode in (-signal.SIGKILL, 0), message.decode()


def test_killed_with_9_and_resumed_the_bytes_are_those_of_an_unbroken_run(
    run: Path, tmp_path: Path
) -> None:
    settings = ["--n", 1000, "--limit", 12, "--policy", "audited", "--audit", 100]
    done("certify", run, "--out", tmp_path / "unbroken", *settings, "--cpu")
    out = tmp_path / "killed"
    kill_at(start(run, out, *settings), out, lines=3, delay=0.01)
    assert 3 <= lines_done(out) < 12
    with (out / "parts" / "rank-0.jsonl").open("ab") as file:
        file.write(b'{"certificate": {"index": 1')  # as a kill within a write leaves it
    done("certify", run, "--out", out, *settings, "--resume", "--cpu")
    for name in (LINES, TABLE):
        assert (out / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()


@pytest.mark.slow
def test_killed_five_times_at_random_the_bytes_are_those_of_an_unbroken_run(
    run: Path, tmp_path: Path
) -> None:
    settings = ["--n", 2000, "--limit", 40, "--sigma", 0.25, "--sigma", 0.5]
    done("certify", run, "--out", tmp_path / "unbroken", *settings, "--cpu")
    out, draw = tmp_path / "killed", random.Random(0)
    for k in range(5):
        resume = ["--resume"] if (out / "sigma-0.25" / "config.json").exists() else []
        now = lines_done(out / "sigma-0.25")
        more = draw.randint(0, 6)
        kill_at(start(run, out, *settings, *resume), out / "sigma-0.25", now + more, draw.random())
        assert k < 4 or lines_done(out / "sigma-0.25") > 0
    done("certify", run, "--out", out, *settings, "--resume", "--cpu")
    for sigma in ("sigma-0.25", "sigma-0.5"):
        for name in (LINES, TABLE):
            unbroken = tmp_path / "unbroken" / sigma / name
            assert (out / sigma / name).read_bytes() == unbroken.read_bytes()


def test_two_processes_write_the_bytes_of_one(run: Path, tmp_path: Path) -> None:
    settings = ["--samples", 200, "--limit", 7, "--policy", "audited", "--audit", 50, "--cpu"]
    done("certify", run, "--out", tmp_path / "one", *settings)
    two = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = [*two, "-m", "homotopy_deq.cli", "certify", run, "--out", tmp_path / "two", *settings]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    ran = subprocess.run([str(w) for w in words], env=environment, capture_output=True, timeout=240)
    assert ran.returncode == 0, ran.stderr.decode()
    shares = [(tmp_path / "two" / "parts" / f"rank-{k}.jsonl").read_text() for k in (0, 1)]
    assert [share.count("\n") for share in shares] == [4, 3]
    for name in (LINES, TABLE):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    # One process may go on with what two have left.
    (tmp_path / "two" / "parts" / "rank-1.jsonl").unlink()
    done("certify", run, "--out", tmp_path / "two", *settings, "--resume")
    assert (tmp_path / "two" / LINES).read_bytes() == (tmp_path / "one" / LINES).read_bytes()
