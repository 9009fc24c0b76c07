"""Which tests judge a mutant: the one that is known to see it is asked whatever it takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.mutants.__main__ import EXPLAINED, ROOT, WITNESS
from tests.mutants.judges import Judges
from tests.mutants.operators import mutants


def test_a_test_that_is_said_to_have_killed_is_there() -> None:
    told = [found for why in json.loads(EXPLAINED.read_text()).values()
            if (found := WITNESS.search(why))]  # fmt: skip
    assert len(told) >= 5
    for file, test in (found.groups() for found in told):
        assert f"def {test}(" in (ROOT / file).read_text()


@pytest.mark.parametrize("known", [False, True])
def test_a_known_witness_is_the_first_judge_and_others_fill_the_time(
    known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (mutant, *_) = mutants("held.py", b"def f(x):\n    return x + 1\n")
    witnesses = {mutant.name: "tests/a.py::test_slow"} if known else {}
    judges = Judges(tmp_path, {}, set(), 2.0, 1, witnesses)
    judges.seconds = {"tests/a.py::test_slow[0]": 90.0, "tests/b.py::test_fast": 1.0,
                      "tests/b.py::test_half": 1.5}  # fmt: skip
    monkeypatch.setattr(judges, "lines", lambda file: {2: set(judges.seconds)})
    found = list(judges.of(mutant))
    assert found == ["tests/a.py::test_slow[0]"] * known + ["tests/b.py::test_fast"]
