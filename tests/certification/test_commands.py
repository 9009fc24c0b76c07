from __future__ import annotations

import io
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console

from homotopy_deq.certification import Certificate, Smoother, read
from homotopy_deq.certification.noise import Noise
from homotopy_deq.cli import load_model, sampling
from homotopy_deq.cli.study import Choices, Study, weights_sha256
from homotopy_deq.data import load, stratified_order
from homotopy_deq.training import CHECKPOINT, load_checkpoint, save_checkpoint
from tests.test_cli import call, done, refused

ROOT = Path(__file__).parents[2]
SMALL = ["--limit", 400, "--hidden", 4, "--head", 16, "--groups", 2, "--epochs", 3, "--batch", 32,
         "--jacobian-penalty", 1, "--cpu"]  # fmt: skip
LINES, TABLE = "certificates.jsonl", "certificates.tsv"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny DEQ trained under noise on the digits."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("runs") / "deq"
    done("train", "--model", "deq", "--noise", 0.25, "--out", folder, *SMALL)
    return folder


@pytest.fixture(scope="module")
def monotone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose votes can be verified."""
    folder = tmp_path_factory.mktemp("runs") / "monotone"
    flags = ["--limit", 100, "--hidden", 4, "--epochs", 1, "--noise", 0.25, "--cpu"]
    done("train", "--model", "monotone", "--out", folder, *flags)
    return folder


def certify(run: Path, out: Path, *more: object, n: int = 128, limit: int = 4) -> str:
    return done("certify", run, "--out", out, "--n", n, "--limit", limit, "--cpu", *more)


def altered(run: Path, folder: Path, change: float, at: str = "best.stem.0.weight") -> Path:
    """Copy a run, one of its weights multiplied by a number."""
    stored = load_checkpoint(run / CHECKPOINT)
    tensors = {**stored.tensors, at: stored.tensors[at] * change}
    save_checkpoint(folder / CHECKPOINT, replace(stored, tensors=tensors))
    return folder


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--policy", "magic"], "Valid: converged, verified, audited, truncated, srs-paper"),
        (["--policy", "convergd"], "Did you mean 'converged'?"),
        (["--policy", "verified"], "nothing bounds how far"),
        (["--policy", "truncated", "--warm-start", "clean"], "--warm-start none"),
        (["--warm-start", "clean"], "another equilibrium"),
        (["--warm-start", "warm"], "Valid: none, clean, tangent, serial, along"),
        (["--warm-start", "clean:0.5"], "only along takes a time"),
        (["--warm-start", "along:x"], "could not convert"),
        (["--policy", "audited", "--warm-start", "along"], "no time along which"),
        (["--steps", "3"], "policy converged has no steps"),
        (["--policy", "truncated", "--audit", "3"], "--audit is of audited, srs-paper"),
        (["--policy", "truncated", "--steps", "0"], "steps must be at least 1; got 0"),
        (["--policy", "audited", "--audit", "2000", "--n", "1000"], "--audit 2000 is more than"),
        (["--sigma", "0"], "sigma must be above 0"),
        (["--sigma", "-0.5"], "sigma must be above 0"),
        (["--sigma", "nan"], "sigma must be above 0"),
        (["--sigma", "0.5", "--sigma", "0.5"], "--sigma: each once"),
        (["--n", "0"], "n must be at least 1; got 0"),
        (["--n0", "0"], "n0 must be at least 1; got 0"),
        (["--alpha", "1"], "alpha must be in (0, 1); got 1"),
        (["--seed", "-1"], "seed must be 0 or more; got -1"),
        (["--solver", "andersen"], "Did you mean 'anderson'?"),
        (["--solver", "dopri5"], "depends on its batch mates"),
        (["--policy", "truncated", "--solver", "rk4"], "stopped by its step size"),
        (["--limit", "0"], "--limit"),
        (["--skip", "359"], "leaves none of the 359"),
        (["--resume"], "to resume from"),
        (["--resume", "--overwrite"], "give one"),
    ],
)
def test_bad_input_is_refused_before_any_noise_is_drawn(
    flags: list[str], told: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Noise, "draw", None)
    assert told in refused("certify", run, "--out", tmp_path / "out", *flags)
    assert not (tmp_path / "out").exists()


def test_a_model_that_no_noise_was_trained_into_asks_for_sigma(run: Path, tmp_path: Path) -> None:
    stored = load_checkpoint(run / CHECKPOINT)
    about = {**stored.meta["about"], "spec": {**stored.meta["about"]["spec"], "noise": None}}
    save_checkpoint(tmp_path / CHECKPOINT, replace(stored, meta={**stored.meta, "about": about}))
    assert "such as --sigma 0.25" in refused("certify", tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("best.stem.0.weight", math.nan), "of the weight stem.0.weight are not finite"),
        (("best.head.7.weight", 3e38), "images are not finite"),
    ],
)
def test_what_is_not_finite_is_not_certified(
    change: tuple[str, float],
    told: str,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Noise, "draw", None)
    bad = altered(run, tmp_path, change[1], change[0])
    assert told in refused("certify", bad, "--out", tmp_path / "out")


def test_images_in_other_units_are_refused(run: Path) -> None:
    images = load("digits")
    floats = replace(images, test_images=images.test_images.float())
    with pytest.raises(ValueError, match="uint8 of 0 to 255 are wanted"):
        Study.of(Choices(run, cpu=True), floats)
    with pytest.raises(ValueError, match=r"shape \(1, 4, 8\); the model wants \(1, 8, 8\)"):
        Study.of(
            Choices(run, cpu=True), replace(images, train_images=images.train_images[:, :, :4])
        )


def test_certificates_are_written_as_lines_and_as_a_table(run: Path, tmp_path: Path) -> None:
    output = certify(run, tmp_path)
    assert "certified at r = 0.25" in output and "average certified radius" in output
    assert "classifier at the equilibrium" in " ".join(output.split())
    config, certificates, seconds = read(tmp_path)
    assert config["weights sha256"] == weights_sha256(load_model(run))
    assert [c.index for c in certificates] == sorted(seconds) and len(certificates) == 4
    header, *rows = (tmp_path / TABLE).read_text().splitlines()
    assert header == "idx\tlabel\tpredict\tradius\tcorrect\tevals"
    labels = load("digits").test_labels
    for certificate, row in zip(certificates, rows, strict=True):
        assert certificate.label == labels[certificate.index]
        cells = row.split("\t")
        assert cells[:3] == [str(v) for v in (certificate.index, certificate.label, cells[2])]
        assert 0 <= certificate.radius - float(cells[3]) <= 1e-6  # rounded down


def test_the_command_certifies_what_the_library_does(run: Path, tmp_path: Path) -> None:
    certify(run, tmp_path, "--policy", "audited", "--audit", 30, "--seed", 5)
    choices = Choices(run, limit=4, policy="audited", audit=30, cpu=True)
    study = Study.of(choices)
    (noise,) = study.smoothings(None, n=128, n0=100, alpha=1e-3, seed=5, batch=500)
    smoother = Smoother(study.model, study.policy, noise)
    images = load("digits").test_images.float() / 255
    for certificate in read(tmp_path)[1]:
        alone = smoother.certify(images[certificate.index], certificate.label, certificate.index)
        assert alone == certificate


def test_an_image_that_gives_no_start_is_sampled_from_the_models_own(
    run: Path, tmp_path: Path
) -> None:
    short = ["--policy", "audited", "--audit", 30, "--max-steps", 1]  # no clean image converges
    certify(run, tmp_path / "serial", *short)
    certify(run, tmp_path / "cold", *short, "--warm-start", "none")
    for warm, cold in zip(read(tmp_path / "serial")[1], read(tmp_path / "cold")[1], strict=True):
        assert warm.detail["start"] == "none, as the image was not solved"
        assert replace(warm, detail=cold.detail) == cold


def test_verified_is_the_default_of_models_that_qualify(monotone: Path, tmp_path: Path) -> None:
    output = certify(monotone, tmp_path / "out", n=64, limit=2)
    assert "exact equilibrium" in " ".join(output.split())
    assert read(tmp_path / "out")[0]["policy"]["name"] == "verified"
    certify(monotone, tmp_path / "tight", "--rtol", 1e-7, "--max-steps", 99, n=64, limit=2)
    solver = read(tmp_path / "tight")[0]["policy"]["solver"]
    assert (solver["is"], solver["rtol"], solver["max_steps"]) == ("Anderson", 1e-7, 99)
    assert "use rk4+anderson" in refused("certify", monotone, "--policy", "verified", "--solver",
                                         "rk4", "--out", tmp_path / "no")  # fmt: skip


def test_each_sigma_has_a_folder_of_its_own(run: Path, tmp_path: Path) -> None:
    certify(run, tmp_path, "--sigma", 0.25, "--sigma", 0.5)
    for sigma in ("0.25", "0.5"):
        certify(run, tmp_path / "alone", "--sigma", sigma, "--overwrite")
        both = tmp_path / f"sigma-{sigma}" / LINES
        assert both.read_bytes() == (tmp_path / "alone" / LINES).read_bytes()


def test_the_rule_of_the_paper_writes_no_certificates(run: Path, tmp_path: Path) -> None:
    output = certify(run, tmp_path, "--policy", "srs-paper", "--audit", 20)
    assert "UNSOUND" in output
    assert not (tmp_path / LINES).exists() and not (tmp_path / TABLE).exists()
    assert "unsound" in refused("report", tmp_path)
    assert "unsound" in refused("plot-certified", tmp_path)


def test_limit_and_skip_go_along_one_order(run: Path, tmp_path: Path) -> None:
    certify(run, tmp_path / "all", limit=5)
    certify(run, tmp_path / "first", limit=2)
    certify(run, tmp_path / "rest", "--skip", 2, limit=3)
    lines = {name: set((tmp_path / name / LINES).read_text().splitlines())
             for name in ("all", "first", "rest")}  # fmt: skip
    assert lines["first"] | lines["rest"] == lines["all"]


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


def test_ctrl_c_keeps_what_is_done(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certify(run, tmp_path / "unbroken")
    real, count = Smoother.certify, 0

    def interrupted(self: Smoother, *arguments: Any) -> Certificate:
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Smoother, "certify", interrupted)
        flags = ["--out", tmp_path / "out", "--n", 128, "--limit", 4, "--cpu"]
        stopped = call("certify", run, *flags)
    assert stopped.exit_code == 130
    assert "2 of 4 images that are done are kept" in stopped.output and "--resume" in stopped.output
    certify(run, tmp_path / "out", "--resume")
    assert count == 3  # the rest by the real one
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


def test_the_bar_tells_how_far_and_at_what_cost(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(sampling, "console", Console(file=screen, force_terminal=True, width=140))
    certify(run, tmp_path)
    for told in ("4/4 images", "images/s", "evaluations/sample", "certified", "ETA"):
        assert told in screen.getvalue()


def test_decide_stops_early_and_claims_what_certify_does(run: Path, tmp_path: Path) -> None:
    flags = ["--n", 2000, "--limit", 8, "--cpu"]
    done("certify", run, "--out", tmp_path / "full", *flags)
    output = done("decide", run, "--radius", 0.1, "--out", tmp_path / "early", *flags)
    assert "samples an image" in output
    full = {c.index: c for c in read(tmp_path / "full")[1]}
    early = read(tmp_path / "early")[1]
    assert sum(c.samples for c in early) < 0.7 * 2000 * len(early)
    for c in early:
        assert c.stop in ("certified", "futile", "all samples drawn")
        assert c.radius == (0.1 if c.stop == "certified" else 0)
        # By other statistics at the same level, so near the border the two may differ.
        if abs(full[c.index].radius - 0.1) > 0.05 and c.stop != "all samples drawn":
            assert (c.stop == "certified") == (full[c.index].radius > 0.1)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--radius", "0"], "--radius must be above 0; got 0"),
        (["--radius", "0.5", "--policy", "audited"], "sampling cannot stop early"),
        (["--radius", "0.5", "--sigma", "0"], "sigma must be above 0"),
    ],
)
def test_decide_refuses_what_it_cannot_answer(
    flags: list[str], told: str, run: Path, tmp_path: Path
) -> None:
    assert told in refused("decide", run, "--out", tmp_path / "out", *flags)
    assert not (tmp_path / "out").exists()


def test_smooth_predict_counts_votes_of_files_and_of_test_images(run: Path, tmp_path: Path) -> None:
    images = load("digits").test_images[:2]
    files = [tmp_path / f"{k}.png" for k in range(2)]
    for file, image in zip(files, images, strict=True):
        Image.fromarray(image[0].numpy()).save(file)
    flags = ["--n", 200, "--cpu", "--json"]
    named = json.loads(done("smooth-predict", run, *files, *flags))
    stored = json.loads(done("smooth-predict", run, "--limit", 12, "--n", 1, "--cpu", "--json"))
    assert [row["image"] for row in named] == [str(file) for file in files]
    chosen = stratified_order(load("digits").test_labels, 0)[:12].sort().values
    assert [row["image"] for row in stored] == chosen.tolist()
    assert all(row["class"] is None for row in stored)  # one vote tells nothing at 0.001
    for row in named:
        assert sum(row["counts"].values()) + row["undecided"] == 200
        ranked = sorted(row["counts"], key=row["counts"].get)
        assert row["class"] in (None, ranked[-1])
    assert "votes" in done("smooth-predict", run, *files, "--n", 50, "--cpu")
    told = refused("smooth-predict", run, "--policy", "audited")
    assert "converged and truncated have them" in told


def test_curves_and_tables_are_made_of_several_folders(run: Path, tmp_path: Path) -> None:
    for name, more in (("cold", []), ("short", ["--policy", "truncated"])):
        certify(run, tmp_path / name, "--sigma", 0.25, "--sigma", 0.5, *more)
    folders = [tmp_path / name for name in ("cold", "short")]
    done("plot-certified", *folders, "--out", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes()[1:4] == b"PNG"
    text = done("report", *folders, "--against", tmp_path / "cold", "--out", tmp_path / "table.md")
    assert (tmp_path / "table.md").read_text() in text
    rows = [[cell.strip() for cell in line.split("|")[1:-1]]
            for line in (tmp_path / "table.md").read_text().splitlines()]  # fmt: skip
    head = rows[0]
    assert head[:3] == ["run", "images", "r = 0"] and head[-1] == "largest difference"
    found = [dict(zip(head, row, strict=True)) for row in rows[2:]]
    assert [row["run"] for row in found] == [
        "converged, σ 0.25", "converged, σ 0.5", "truncated 3, σ 0.25", "truncated 3, σ 0.5"
    ]  # fmt: skip
    for row in found[:2]:
        assert (row["faster"], row["fewer evaluations"], row["largest difference"]) == (
            "1.00x", "1.00x", "none"
        )  # fmt: skip
    assert all(float(row["fewer evaluations"][:-1]) > 1.2 for row in found[2:])


def test_what_cannot_be_compared_or_drawn_is_refused(run: Path, tmp_path: Path) -> None:
    certify(run, tmp_path / "one")
    certify(altered(run, tmp_path / "altered", 1.01), tmp_path / "other")
    assert "not of the same weights" in refused(
        "report", tmp_path / "one", "--against", tmp_path / "other"
    )
    certify(run, tmp_path / "loud", "--sigma", 0.5)
    assert "of the same noise" in refused(
        "report", tmp_path / "one", "--against", tmp_path / "loud"
    )
    decide = ["--radius", 0.2, "--n", 64, "--limit", 2, "--out", tmp_path / "decided", "--cpu"]
    done("decide", run, *decide)
    assert "make no curve" in refused("plot-certified", tmp_path / "decided")
    assert "decided at 0.2" in done("report", tmp_path / "decided")
    assert "holds no config.json" in refused("report", tmp_path)


def test_an_attack_passes_true_certificates_and_finds_a_false_one(
    run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    certify(run, out, n=1000, limit=6)
    flags = ["--certificates", out, "--images", 3, "--attack-steps", 3, "--draws", 8, "--cpu"]
    assert "no certificate violated" in done("attack", run, *flags)
    lines = [json.loads(line) for line in (out / LINES).read_text().splitlines()]
    for line in lines:
        line |= {"prediction": (line["detail"]["selected"] + 1) % 10, "radius": 1e-3}
    (out / LINES).write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = call("attack", run, *flags)
    assert found.exit_code == 1, found.output
    assert "3 of 3 certificates are violated" in found.output
    other = altered(run, tmp_path / "other", 1.01)
    assert "other weights" in refused("attack", other, *flags)
