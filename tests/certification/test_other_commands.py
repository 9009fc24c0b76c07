from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from homotopy_deq.certification import read
from homotopy_deq.certification.journal import seal
from homotopy_deq.data import load, stratified_order
from tests.certification.commands import LINES, altered, certify
from tests.test_cli import call, done, refused


def test_decide_stops_early_and_claims_what_certify_does(run: Path, tmp_path: Path) -> None:
    flags = ["--n", 2000, "--limit", 8, "--cpu"]
    done("certify", run, "--out", tmp_path / "full", *flags)
    output = done("decide", run, "--radius", 0.1, "--out", tmp_path / "early", *flags)
    assert "samples an image" in output
    full = {c.index: c for c in read(tmp_path / "full")[1]}
    early = read(tmp_path / "early")[1]
    assert sum(c.evidence.samples for c in early) < 0.7 * 2000 * len(early)
    for c in early:
        assert c.claim.stop in ("certified", "futile", "all samples drawn")
        assert c.radius == (0.1 if c.claim.stop == "certified" else 0)
        # By other statistics at the same level, so near the border the two may differ.
        if abs(full[c.index].radius - 0.1) > 0.05 and c.claim.stop != "all samples drawn":
            assert (c.claim.stop == "certified") == (full[c.index].radius > 0.1)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--radius", "0"], "--radius must be above 0; got 0"),
        (["--radius", "0.5", "--policy", "audited"], "sampling cannot stop early"),
        (["--radius", "0.5", "--sigma", "0"], "sigma must be above 0"),
        (["--radius", "0.9"], "prove a radius of 0.7584 at sigma 0.25"),
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
    stored = json.loads(done("smooth-predict", run, "--limit", 12, "--n", 11, "--cpu", "--json"))
    assert [row["image"] for row in named] == [str(file) for file in files]
    chosen = stratified_order(load("digits").test_labels, 0)[:12].sort().values
    assert [row["image"] for row in stored] == chosen.tolist()
    for row in stored:  # 11 votes tell something at 0.001 if they all agree
        assert (row["class"] is None) == (max(row["counts"].values()) < 11)
    assert "Give --n 11 or more" in refused("smooth-predict", run, "--n", 10)
    for row in named:
        assert sum(row["counts"].values()) + row["undecided"] == 200
        ranked = sorted(row["counts"], key=row["counts"].get)
        assert row["class"] in (None, ranked[-1])
    assert "votes" in done("smooth-predict", run, *files, "--n", 50, "--cpu")
    told = refused("smooth-predict", run, "--policy", "audited")
    assert "use --policy verified, converged or truncated" in told


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


def test_discrete_runs_say_so_and_are_attacked_where_they_are_certified(
    run: Path, tmp_path: Path
) -> None:
    flags = ["--discrete", "--n", 1000, "--limit", 16, "--cpu"]
    assert "rounded to 1/255" in " ".join(done("certify", run, "--out", tmp_path, *flags).split())
    assert read(tmp_path)[0]["smoothing"]["discrete"]
    assert "σ 0.25, discrete" in done("report", tmp_path)
    fewer = ["--images", 2, "--attack-steps", 2, "--draws", 8, "--cpu"]
    assert "no certificate violated" in done("attack", run, "--certificates", tmp_path, *fewer)
    told = refused("certify", run, "--out", tmp_path, *flags[1:], "--resume")
    assert "smoothing.discrete: true in the run, false given" in told
    asked = ["--radius", 0.1, "--out", tmp_path / "decided"]
    done("decide", run, *asked, *flags)
    done("smooth-predict", run, *flags)


def test_a_run_that_has_not_ended_is_reported_as_such(run: Path, tmp_path: Path) -> None:
    certify(run, tmp_path / "whole")
    certify(run, tmp_path / "out")
    assert "UNFINISHED" not in done("report", tmp_path / "out")
    (tmp_path / "out" / LINES).unlink()
    part = tmp_path / "out" / "parts" / "rank-0.jsonl"
    part.write_bytes(b"".join(part.read_bytes().splitlines(keepends=True)[:3]))
    told = done("report", tmp_path / "out", "--against", tmp_path / "whole")
    assert "UNFINISHED: 3 of 4 images | 3 |" in told
    assert "not finished" in refused("plot-certified", tmp_path / "out")
    part.write_bytes(b"")
    assert "has no finished image yet" in refused("report", tmp_path / "out")


def test_what_cannot_be_compared_or_drawn_is_refused(run: Path, tmp_path: Path) -> None:
    certify(run, tmp_path / "one")
    certify(altered(run, tmp_path / "altered", 1.01), tmp_path / "other")
    assert "not of the same weights" in refused(
        "report", tmp_path / "one", "--against", tmp_path / "other"
    )
    apart = done("report", tmp_path / "one", tmp_path / "other")  # of one name, told by folders
    assert f", {tmp_path / 'one'} |" in apart and f", {tmp_path / 'other'} |" in apart
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
    flags = ["--certificates", out, "--limit", 3, "--attack-steps", 3, "--draws", 8, "--cpu"]
    assert "no certificate violated" in done("attack", run, *flags)
    lines = [json.loads(line) for line in (out / LINES).read_text().splitlines()]
    for line in lines:
        if line["prediction"] >= 0:
            wrong = (line["selected"] + 1) % 10
            line |= {"prediction": wrong, "selected": wrong}
        del line["sha256"]
    (out / LINES).write_bytes(b"".join(map(seal, lines)))
    found = call("attack", run, *flags)
    assert found.exit_code == 1, found.output
    assert re.search(r"([1-3]) of \1 certificates are violated", found.output)
    other = altered(run, tmp_path / "other", 1.01)
    assert "other weights" in refused("attack", other, *flags)


def test_only_certify_offers_the_policy_that_judges_all_votes_together() -> None:
    assert "audited" in done("certify", "--help")
    for name in ("decide", "smooth-predict"):
        assert "audit" not in done(name, "--help")
