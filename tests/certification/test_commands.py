from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from homotopy_deq.certification import Smoother, read, weights_sha256
from homotopy_deq.certification.noise import Noise
from homotopy_deq.cli import load_model
from homotopy_deq.cli.certification import work
from homotopy_deq.cli.certification.study import Study
from homotopy_deq.cli.certification.votes import Poll
from homotopy_deq.cli.options import ImagesToTest as Images
from homotopy_deq.cli.trained import Trained
from homotopy_deq.data import load
from homotopy_deq.settings import NoiseSettings, Votes
from homotopy_deq.training import CHECKPOINT, load_checkpoint, save_checkpoint
from tests.certification.commands import LINES, TABLE, altered, certify
from tests.test_cli import refused


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--policy", "magic"], "Valid: converged, verified, audited, truncated"),
        (["--policy", "convergd"], "Did you mean 'converged'?"),
        (["--policy", "verified"], "nothing bounds how far"),
        (["--policy", "truncated", "--warm-start", "clean"], "--warm-start none"),
        (["--warm-start", "clean"], "another answer"),
        (["--warm-start", "warm"], "Valid: none, clean, tangent, serial, along"),
        (["--warm-start", "clean:0.5"], "only along takes a time"),
        (["--warm-start", "along:x"], "could not convert"),
        (["--policy", "audited", "--warm-start", "along"], "no time along which"),
        (["--steps", "3"], "policy converged has no steps"),
        (["--policy", "truncated", "--audit", "3"], "--audit is of audited;"),
        (["--policy", "truncated", "--steps", "0"], "steps must be at least 1; got 0"),
        (["--policy", "audited", "--audit", "2000", "--n", "1000"], "--audit 2000 is more than"),
        (["--sigma", "0"], "sigma must be above 0"),
        (["--sigma", "-0.5"], "sigma must be above 0"),
        (["--sigma", "nan"], "sigma must be above 0"),
        (["--sigma", "0.5", "--sigma", "0.5"], "--sigma: each once"),
        (["--n", "0"], "n must be at least 1; got 0"),
        (["--n", "5"], "every image would abstain. Give --n 10 or more"),
        (["--n", "11", "--policy", "audited", "--audit", "11"], "a larger --n or --audit"),
        (["--n0", "0"], "n0 must be at least 1; got 0"),
        (["--alpha", "1"], "alpha must be in (0, 1); got 1"),
        (["--seed", "-1"], "seed must be 0 or more; got -1"),
        (["--solver", "andersen"], "Did you mean 'anderson'?"),
        (["--solver", "adaptive_heun"], "depends on its batch mates"),
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
        (("best.stem.0.weight", math.nan), "tensor best.stem.0.weight holds NaN"),
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
    with pytest.raises(ValueError, match="uint8"):
        Study.of(Trained.of(run), Images(), cpu=True, data=floats)
    with pytest.raises(ValueError, match=r"shape \(1, 4, 8\); the model wants \(1, 8, 8\)"):
        cut = replace(images, train_images=images.train_images[:, :, :4])
        Study.of(Trained.of(run), Images(), cpu=True, data=cut)


def test_certificates_are_written_as_lines_and_as_a_table(run: Path, tmp_path: Path) -> None:
    output = certify(run, tmp_path)
    assert "certified at r = 0.25" in output and "average certified radius" in output
    assert "model's own forward pass" in " ".join(output.split())
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
    votes, few = Votes(policy="audited"), Images(limit=4)
    poll = Poll.of(Trained.of(run), votes, few, audit=30, cpu=True)
    (noise,) = poll.smoothings(NoiseSettings(n=128, seed=5), 500, n0=100)
    smoother = Smoother(poll.study.model, poll.policy, noise)
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
        assert warm.note == "started cold, as the clean image was not solved"
        assert replace(warm, note="") == cold


def test_verified_is_the_default_of_models_that_qualify(monotone: Path, tmp_path: Path) -> None:
    output = certify(monotone, tmp_path / "out", n=64, limit=2)
    assert "exact equilibrium" in " ".join(output.split())
    assert read(tmp_path / "out")[0]["policy"]["name"] == "verified"
    certify(monotone, tmp_path / "tight", "--rtol", 1e-7, "--max-steps", 99, n=64, limit=2)
    solver = read(tmp_path / "tight")[0]["policy"]["solver"]
    assert (solver["is"], solver["rtol"], solver["max_steps"]) == ("Anderson", 1e-7, 99)
    assert "use rk4+anderson" in refused("certify", monotone, "--policy", "verified", "--solver",
                                         "rk4", "--out", tmp_path / "no")  # fmt: skip


def test_states_too_large_for_the_tangent_start_at_the_clean_equilibrium(
    monotone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homotopy_deq.cli.certification.votes.PAYS", 5)
    monkeypatch.setattr("homotopy_deq.certification.requirements.INVERSE", 10)
    certify(monotone, tmp_path / "out", n=64, limit=2)
    assert read(tmp_path / "out")[0]["policy"]["start"] == {"is": "Clean"}
    flags = ["--warm-start", "tangent", "--out", tmp_path / "no"]
    assert "--warm-start clean" in refused("certify", monotone, *flags)


def test_each_sigma_has_a_folder_of_its_own(run: Path, tmp_path: Path) -> None:
    certify(run, tmp_path, "--sigma", 0.25, "--sigma", 0.5)
    for sigma in ("0.25", "0.5"):
        certify(run, tmp_path / "alone", "--sigma", sigma, "--overwrite")
        both = tmp_path / f"sigma-{sigma}" / LINES
        assert both.read_bytes() == (tmp_path / "alone" / LINES).read_bytes()


def test_limit_and_skip_go_along_one_order(run: Path, tmp_path: Path) -> None:
    certify(run, tmp_path / "all", limit=5)
    certify(run, tmp_path / "first", limit=2)
    certify(run, tmp_path / "rest", "--skip", 2, limit=3)
    lines = {name: set((tmp_path / name / LINES).read_text().splitlines())
             for name in ("all", "first", "rest")}  # fmt: skip
    assert lines["first"] | lines["rest"] == lines["all"]


def test_the_bar_tells_how_far_and_at_what_cost(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(work, "console", Console(file=screen, force_terminal=True, width=140))
    certify(run, tmp_path)
    for told in ("4/4 images", "images/s", "evaluations/sample", "certified", "ETA"):
        assert told in screen.getvalue()
