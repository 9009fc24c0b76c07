"""What is published was computed, is whole, and follows from its counts."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from homotopy_deq.certification import (
    ABSTAIN,
    Certificate,
    Journal,
    JournalError,
    Probable,
    Sampling,
    Tally,
    read,
)
from homotopy_deq.certification.journal import seal, unseal
from homotopy_deq.certification.sequence import BettingSequence, Decision
from homotopy_deq.certification.statistics import (
    audited_lower,
    clopper_pearson,
    radius,
    required_probability,
)
from tests.certification.test_journal import CONFIG, begun, certificate


def flipped(line: bytes) -> list[bytes]:
    """Every line that differs in one bit of one byte (another bit each time)."""
    return [line[:k] + bytes([line[k] ^ (1 << k % 8)]) + line[k + 1 :] for k in range(len(line))]


def test_no_byte_of_a_line_can_be_altered_unseen() -> None:
    line = seal({"radius": 0.25, "detail": {"sha256": "no"}})[:-1]
    assert unseal(line) == {"radius": 0.25, "detail": {"sha256": "no"}}
    for other in (*flipped(line), line + b" ", line[:-1], b"", b"{}"):
        with pytest.raises(ValueError, match="checksum"):
            unseal(other)


def test_no_byte_of_a_journal_can_be_altered_and_resumed(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    for index in range(3):
        journal.append(certificate(index), 1.25)
    first, second, third = journal.part.read_bytes().splitlines(keepends=True)
    for altered in flipped(second):
        journal.part.write_bytes(first + altered + third)
        with pytest.raises(JournalError, match=r"rank-0\.jsonl, line 2: its checksum"):
            begun(tmp_path, resume=True)
    for altered in flipped(third):
        journal.part.write_bytes(first + second + altered)
        if altered.endswith(b"\n"):
            with pytest.raises(JournalError):
                begun(tmp_path, resume=True)
        else:  # without its end it is as torn: its image is done again
            assert sorted(begun(tmp_path, resume=True).done()) == [0, 1]


@pytest.mark.parametrize("name", ("certificates.jsonl", "timing.jsonl"))
def test_no_byte_of_a_finished_run_can_be_altered_and_read(name: str, tmp_path: Path) -> None:
    journal = begun(tmp_path)
    for index in range(2):
        journal.append(certificate(index), 1.25)
    journal.publish([0, 1])
    file = tmp_path / name
    first, second = file.read_bytes().splitlines(keepends=True)
    for altered in flipped(second):
        file.write_bytes(first + altered)
        with pytest.raises(JournalError, match=rf"{name}, line 2: its checksum") as caught:
            read(tmp_path)
        assert "\n" not in str(caught.value) and "resume=True" in str(caught.value)
    file.write_bytes(first)
    with pytest.raises(JournalError):
        read(tmp_path)


def test_settings_that_were_altered_are_refused(tmp_path: Path) -> None:
    begun(tmp_path)
    file = tmp_path / "config.json"
    whole = file.read_bytes()
    for altered in flipped(whole):
        file.write_bytes(altered)
        try:
            found = Journal.open(tmp_path)
        except JournalError as error:
            assert "config.json was altered" in str(error)
        else:  # a blank between two words of JSON
            assert found.config == CONFIG
    file.write_bytes(whole.replace(b'"converged"', b'"verified"'))
    with pytest.raises(JournalError):
        read(tmp_path)


def test_a_run_without_checksums_says_what_wrote_it_and_what_to_do(tmp_path: Path) -> None:
    import hashlib

    config = {**CONFIG, "torch": "2.6.0"}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    body = {"config": config, "sha256": digest, "sound": True}
    (tmp_path / "config.json").write_text(json.dumps(body, indent=2))
    for reading in (lambda: read(tmp_path), lambda: begun(tmp_path, resume=True)):
        with pytest.raises(JournalError, match=r"format 1 \(torch 2\.6\.0\).*overwrite=True"):
            reading()


RIGHT = certificate(4)
SAID = Probable(1, RIGHT.radius, clopper_pearson(80, 100, 1e-3), "all samples drawn", 1e-3)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"radius": math.nan}, "radius must be finite"),
        ({"lower": math.nan}, "lower must be finite"),
        ({"lower": math.inf}, "lower must be finite"),
        ({"radius": RIGHT.radius * (1 + 1e-8)}, "radius is"),
        ({"radius": RIGHT.radius / 2}, "radius is"),
        ({"lower": SAID.lower + 1e-6}, "lower is"),
        ({"votes": 81}, "radius is"),
        ({"votes": 100}, "100 votes and 1 undecided of 100"),
        ({"samples": 99}, "samples is"),
        ({"samples": 101, "lower": clopper_pearson(80, 101, 1e-3)}, "radius is|samples is"),
        ({"audited": 10, "disagreements": 0}, "audited is 10"),
        ({"prediction": 2}, "prediction is 2, and its counts give 1"),
        ({"prediction": ABSTAIN}, "an abstention"),
        ({"prediction": ABSTAIN, "radius": 0.0}, "prediction is -1"),
        ({"stop": "certified"}, "stop is certified"),
        ({"alpha": 0.01}, "alpha is 0.01"),
    ],
)
def test_what_does_not_follow_from_the_counts_is_neither_written_nor_read(
    change: dict[str, Any], told: str, tmp_path: Path
) -> None:
    assert RIGHT.claim == SAID
    journal = begun(tmp_path)
    wrong = {**RIGHT.body(), **change}
    with pytest.raises(ValueError, match=f"image 4: .*({told})"):
        journal.append(Certificate.of(wrong, Probable, Tally), 1.0)
    assert not journal.part.exists()
    if math.isfinite(wrong["radius"] + wrong["lower"]):  # JSON has no others
        journal.part.write_bytes(seal({"certificate": wrong, "seconds": 1.0}))
        with pytest.raises(JournalError, match=rf"rank-0.jsonl, line 1: image 4: .*({told})"):
            begun(tmp_path, resume=True)


def test_a_line_of_the_format_before_is_read(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    body = RIGHT.body()
    detail = {"selected": body.pop("selected"), "start": "cold"}
    del body["alpha"], body["note"]
    journal.part.write_bytes(seal({"certificate": {**body, "detail": detail}, "seconds": 1.0}))
    assert journal.done()[4] == (replace(RIGHT, note="cold"), 1.0)


def test_one_image_has_one_result(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    journal.append(certificate(0), 1.0)
    journal.append(certificate(0), 2.0)
    assert journal.done()[0] == (certificate(0), 2.0)
    journal.append(certificate(0, votes=90), 2.0)
    with pytest.raises(JournalError, match="line 3"):
        journal.done()


def test_audited_bounds_follow_from_what_the_audit_saw() -> None:
    rule = Sampling(0.5, 1e-3, 1000, audits=True)
    tally = Tally(1, 900, 0, 1000, audited=200, disagreements=3)
    right = Certificate(4, 1, rule.claim(tally), tally, 700)
    lower, _ = audited_lower(900, 1000, 200, 3, 1e-3)
    assert right.claim == Probable(1, radius(lower, 0.5), lower, "all samples drawn", 1e-3)
    rule.check(right)
    for fewer in ({"disagreements": 2}, {"audited": 300}, {"audited": None}):
        with pytest.raises(ValueError):
            rule.check(replace(right, evidence=replace(tally, **fewer)))
    assert rule.claim(Tally(1, 0, 0, 1000, audited=0)).prediction == ABSTAIN


@pytest.mark.parametrize("p", (0.6, 0.87, 0.99))
def test_a_decision_follows_from_where_sampling_stopped(p: float) -> None:
    asked, sigma, n = 0.5, 0.5, 400
    votes = np.random.default_rng(0).random(n) < p
    bets = BettingSequence(required_probability(asked, sigma), 1e-3).update(votes)
    certified = bets.decision == Decision.CERTIFIED
    assert bets.at(bets.successes, bets.trials) == bets
    rule = Sampling(sigma, 1e-3, n, asked=asked)
    tally = Tally(1, bets.successes, 0, bets.trials)
    found = Certificate(4, 1, rule.claim(tally), tally, 700)
    assert found.claim == Probable(
        1 if certified else ABSTAIN, asked if certified else 0.0, bets.lower(),
        {1: "certified", 2: "futile", 0: "all samples drawn"}[int(bets.decision)], 1e-3,
    )  # fmt: skip
    rule.check(found)
    changes: list[dict[str, Any]] = [
        {"prediction": 1, "radius": 2 * asked},
        {"lower": bets.lower() + 1e-6},
        {"stop": "no reason"},
        {"samples": n + 1},
        {"votes": bets.successes - 1},
    ]
    for change in changes:
        with pytest.raises(ValueError):
            rule.check(Certificate.of({**found.body(), **change}, Probable, Tally))
