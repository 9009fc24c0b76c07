"""What is done is kept, whole, whoever did it and whenever it was killed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from homotopy_deq.certification import (
    Certificate,
    Journal,
    JournalError,
    Lipschitz,
    Margin,
    Tally,
    read,
)
from homotopy_deq.certification.evidence import rule_of
from homotopy_deq.certification.journal import SLOPE, digest, seal

CONFIG = {
    "smoothing": {"sigma": 0.25, "alpha": 0.001, "n": 100},
    "policy": {"name": "converged"},
}


def certificate(index: int, votes: int = 80) -> Certificate:
    tally = Tally(selected=1, votes=votes, undecided=1, samples=100)
    return Certificate(index, index % 3, rule_of(CONFIG).claim(tally), tally, evaluations=700)


def begun(folder: Path, rank: int = 0, *, resume: bool = False) -> Journal:
    journal = Journal(folder, CONFIG, rank=rank)
    journal.check(resume=resume)
    if rank == 0:
        journal.begin(resume=resume)
    return journal


def test_a_line_torn_at_any_byte_costs_that_image_alone(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    for index in range(3):
        journal.append(certificate(index), 1.0)
    whole = journal.part.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for cut in range(last, len(whole)):
        journal.part.write_bytes(whole[:cut])
        assert sorted(journal.done()) == [0, 1]
        journal.append(certificate(5), 1.0)
        assert sorted(journal.done()) == [0, 1, 5]
        assert journal.done()[5][0] == certificate(5)


def test_an_image_that_is_done_has_reached_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, synced = begun(tmp_path), []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(journal.part.read_bytes()))
    for index in range(2):
        journal.append(certificate(index), 1.0)
        assert synced[-1] == journal.part.read_bytes()
    assert len(synced) == 2


def test_published_bytes_do_not_depend_on_who_did_what_or_when(tmp_path: Path) -> None:
    one = begun(tmp_path / "one")
    for index in (4, 2, 9):
        one.append(certificate(index), 3.0)
    one.publish([9, 4, 2])
    for rank, indices in enumerate(([9], [2, 4])):
        part = (
            begun(tmp_path / "two", rank)
            if rank == 0
            else Journal(tmp_path / "two", CONFIG, rank=1)
        )
        for index in indices:
            part.append(certificate(index), 0.5)
    part.publish([2, 4, 9])
    for name in ("certificates.jsonl", "certificates.tsv", "config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_what_was_published_is_read_back(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    for index in (1, 0):
        journal.append(certificate(index), 0.25)
    journal.publish([0, 1])
    config, found, seconds = read(tmp_path)
    assert config == CONFIG
    assert found == [certificate(0), certificate(1)]
    assert seconds == {0: 0.25, 1: 0.25}


def test_a_printed_radius_is_rounded_down(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    done = certificate(0, votes=91)
    assert f"{done.radius:.6f}" > str(done.radius)  # to nearest, it would claim more
    journal.append(done, 0.1)
    journal.publish([0])
    header, row = (tmp_path / "certificates.tsv").read_text().splitlines()
    assert header.split("\t") == ["idx", "label", "predict", "radius", "correct", "evals"]
    assert row.split("\t")[3] == str(done.radius)[:8]


def test_missing_images_are_not_published(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    journal.append(certificate(0), 0.1)
    with pytest.raises(JournalError):
        journal.publish([0, 1])
    assert not (tmp_path / "certificates.jsonl").exists()
    with pytest.raises(FileNotFoundError):
        read(tmp_path)
    assert read(tmp_path, unfinished=True) == (CONFIG, [certificate(0)], {0: 0.1})


def test_a_row_is_in_the_table_as_soon_as_its_image_is_done(tmp_path: Path) -> None:
    journal, table = begun(tmp_path), tmp_path / "certificates.tsv"
    for index in (3, 1):
        journal.append(certificate(index), 0.1)
        assert table.read_text().splitlines()[-1] == certificate(index).row()
    table.write_text("idx\tlabel")  # a kill between a line and its row, or within one
    begun(tmp_path, resume=True)
    rows = table.read_text().splitlines()[1:]
    assert rows == [certificate(index).row() for index in (3, 1)]
    journal.publish([1, 3])
    assert table.read_text().splitlines()[1:] == rows[::-1]


def test_a_run_by_the_unsound_policy_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    begun(tmp_path)
    body = json.loads((tmp_path / "config.json").read_text())
    del body["sha256"]
    for sound in (True, False):
        old = body | {"sound": sound}
        (tmp_path / "config.json").write_text(json.dumps(old | {"sha256": digest(old)}))
        if sound:
            assert Journal.open(tmp_path).config == CONFIG
        else:
            with pytest.raises(JournalError, match="unsound"):
                read(tmp_path, unfinished=True)


def test_a_folder_is_gone_on_with_only_under_the_same_settings(tmp_path: Path) -> None:
    begun(tmp_path)
    with pytest.raises(FileExistsError):
        begun(tmp_path)
    begun(tmp_path, resume=True)
    other = Journal(tmp_path, {**CONFIG, "smoothing": {"sigma": 0.5, "alpha": 0.001, "n": 100}})
    for goes_on in (other.check, other.begin):
        with pytest.raises(JournalError, match="sigma"):
            goes_on(resume=True)
    with pytest.raises(FileNotFoundError):
        begun(tmp_path / "elsewhere", resume=True)


def test_starting_over_leaves_nothing_of_the_run_before(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    journal.append(certificate(0), 0.1)
    journal.publish([0])
    with pytest.raises(FileExistsError):
        journal.begin()
    assert list(journal.done()) == [0] and len(read(tmp_path)[1]) == 1
    journal.begin(overwrite=True)
    assert journal.done() == {}
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"config.json", "parts", "certificates.tsv"}
    assert (tmp_path / "certificates.tsv").read_text().count("\n") == 1
    assert json.loads((tmp_path / "config.json").read_text())["config"] == CONFIG


@pytest.mark.parametrize("change", [{"gain": "x"}, {"gain": None}, {"margin": ...}, {"index": ...}])
def test_a_sealed_line_that_is_no_certificate_is_named(
    change: dict[str, object], tmp_path: Path
) -> None:
    journal = Journal(tmp_path, {"bound": "lipschitz"})
    journal.begin()
    evidence = Margin(1, 1.0, 4.0)
    body = {**Certificate(0, 1, Lipschitz().claim(evidence), evidence, 1).body(), **change}
    body = {name: value for name, value in body.items() if value is not ...}
    journal.part.write_bytes(seal({"certificate": body, "seconds": 1.0}))
    with pytest.raises(JournalError, match="rank-0.jsonl, line 1: it is no certificate by a Marg"):
        journal.done()


@pytest.mark.parametrize("config", [{}, {"bound": ["ibp"]}, {"smoothing": {}, "policy": {}}])
def test_settings_that_name_no_rule_are_named(config: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(JournalError, match=r"config.json: it names no rule"):
        _ = Journal(tmp_path, config).rule


def test_a_slope_that_was_emptied_is_named(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    (tmp_path / SLOPE).write_bytes(b"")
    with pytest.raises(JournalError, match="slope.json has 0 lines, and 1 is written: delete it"):
        journal.kept(SLOPE)
