"""Verdicts on claims follow from figures by their rules, and short forms write apart."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import papers, theory
from experiments.claims import HOLDS, NOT, PAPERS, PART, Found, Source
from experiments.results import RESULTS, ROOT
from experiments.tables.markdown import measured, result
from experiments.tables.papers import found, verdict
from tests.test_docs import check

CLAIMS = [claim for paper in PAPERS for claim in paper.claims]
SOURCES = [source for claim in CLAIMS for source in claim.sources]


@pytest.mark.parametrize(
    ("tests", "expected"), [((True, True), HOLDS), ((True, False), PART), ((False,), NOT)]
)
def test_a_verdict_is_what_its_rule_asks_for(tests: tuple[bool, ...], expected: str) -> None:
    assert Found("", tests, "").verdict == expected


def test_each_claim_has_results_that_bear_on_it_or_a_reason_why_none_does() -> None:
    assert len(PAPERS) == 7 and len({claim.says for claim in CLAIMS}) == len(CLAIMS)
    assert all(bool(claim.sources) != bool(claim.untested) for claim in CLAIMS)
    assert all(paper.citation and (ROOT / "docs" / paper.page).exists() for paper in PAPERS)


@pytest.mark.parametrize("source", SOURCES, ids=lambda s: f"{s.name}-{s.read.__name__}")
def test_a_rule_asks_for_as_many_things_as_it_names(source: Source) -> None:
    """(a), (b) and so on: a test each, so that the page says of each whether it is so."""
    said = source.read(result(source.name)) if measured(source.name) else None
    if said is None:
        pytest.skip(f"{source.name} is not measured")
    named = sorted(set(re.findall(r"\(([a-f])\)", source.rule)))
    assert said.figure and said.size and len(said.tests) >= 1
    assert not named or named == list("abcdef"[: len(said.tests)])


def test_a_verdict_changes_with_the_figures() -> None:
    """Of the start: 17 evaluations from the learned start, 15 from one that was never trained."""
    (claim,) = [c for c in CLAIMS if c.says.startswith("A shared, learnable start")]
    (source,) = claim.sources
    body = copy.deepcopy(result("start"))
    rows = body["result"]["HomoODE, as published"]
    drawn, learnt = (rows[k]["mean"] for k in ("shared, never trained", "shared"))
    for evaluations, expected in ((0.7, HOLDS), (1.0, PART), (99.0, NOT)):
        learnt["evaluations"] = evaluations * drawn["evaluations"]
        said = source.read(body)
        assert said is not None and said.verdict == expected


def test_a_family_counts_whatever_width_it_was_given() -> None:
    """Equal parameters ask for widths, which stand behind the names."""
    (claim,) = [c for c in CLAIMS if c.says.startswith("It is more accurate")]
    source = next(each for each in claim.sources if each.name == "compare_digits")
    body = copy.deepcopy(result("compare_digits"))
    models = body["result"]["models"]
    for name, row in models.items():
        row["accuracy"]["mean"] = 0.8 if name.startswith("mdeq") else 0.6
    models["homoode --no-rest-point"]["accuracy"]["mean"] = 0.7
    said = source.read(body)
    assert said is not None and not said.tests[0]
    assert "mdeq" in said.figure and said.figure.endswith("of 5")
    for name in [name for name in models if name.startswith("mdeq")]:
        del models[name]
    said = source.read(body)
    assert said is not None and said.tests[0] and said.figure.endswith("4 of 4")


def test_results_that_differ_leave_a_claim_in_part() -> None:
    (claim,) = [c for c in CLAIMS if c.says.startswith("Coordinates converge unevenly")]
    read = found(claim)
    (source, first), *_ = read
    other = dataclasses.replace(first, tests=(first.verdict != HOLDS,))
    assert verdict(claim, [(source, first), (source, other)]) == PART
    assert verdict(claim, [(source, first)]) == first.verdict


def test_a_short_form_writes_to_its_folder_alone_and_is_not_run_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    words = "lben_checks --part intervals --work {work}"
    monkeypatch.setitem(papers.SHORT, "lben_checks", words)
    committed = (RESULTS / "lben_checks.json").read_bytes()
    first, second = (papers.carry_out("lben_checks", tmp_path) for _ in range(2))
    assert first.words == "" and first.seconds > 0 and second == papers.Run("lben_checks", 0.0)
    made = json.loads((tmp_path / "lben_checks.json").read_text())
    assert list(made["result"]) == ["intervals"]
    assert (RESULTS / "lben_checks.json").read_bytes() == committed
    assert list(papers.said(tmp_path)) == []  # boxes bear on no claim of a paper
    (tmp_path / "coverage.json").write_bytes((RESULTS / "coverage.json").read_bytes())
    assert [paper for paper, _, _ in papers.said(tmp_path)] == ["Serialized Random Smoothing"]


@pytest.mark.parametrize("name", papers.SHORT)
def test_a_short_form_is_a_command_and_bears_on_a_claim(name: str) -> None:
    check(["python", "-m", *f"experiments.{papers.SHORT[name]}".split()])
    assert name in papers.wanted([]) and name in {source.name for source in SOURCES}


def test_an_experiment_publishes_where_it_is_told_to(tmp_path: Path) -> None:
    words = "from experiments.results import IMAGES, RESULTS; print(RESULTS, IMAGES)"
    environment = {**os.environ, "PUBLISH_TO": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", words], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.split() == [str(tmp_path), str(tmp_path / "images")]


def test_a_short_form_that_leaves_no_result_says_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.setitem(papers.SHORT, "coverage", "coverage --such-as-none")
    run = papers.carry_out("coverage", tmp_path)
    assert "unrecognized arguments: --such-as-none" in run.words
    assert json.loads((RESULTS / "coverage.json").read_text())  # untouched


def test_a_study_is_published_part_by_part_and_bears_on_its_claims(tmp_path: Path) -> None:
    small = {
        "images": 120, "networks": 50, "draws": 20, "widths": (16, 32), "tangent_width": 50,
        "output_width": 30, "squares": (8, 16), "profiled": 20, "trained": (16,), "epochs": 1,
    }  # fmt: skip
    files = [
        theory.main(theory.Config("nngp"), tmp_path / "work", tmp_path, **small) for _ in range(2)
    ]
    body = json.loads(files[1].read_text())
    assert files[0] == tmp_path / "theory_nngp.json" and body["result"]["settings"]["images"] == 120
    read = [source.read(body) for source in SOURCES if source.name == "theory_nngp"]
    assert len(read) == 4 and all(said is not None and "120 learnt" in said.size for said in read)
    (odd,) = [said for said in read if said is not None and "antipodal" in said.figure]
    assert odd.tests == (True, False)
