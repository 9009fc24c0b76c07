"""The questions put to peers have answers of our own, and a peer that is missing is left out."""

from __future__ import annotations

import pytest

from experiments import peers


def test_our_column_answers_every_question_rightly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    told = peers.main()
    assert told.startswith("| | homotopy-deq |")
    assert "27, 27 evaluations" in told and "32, 32 evaluations" in told
    assert told.count("the neighbour is right; CONVERGED, NONFINITE") == 2
    assert "MAX_STEPS" in told and "raises" not in told


def test_what_a_peer_raises_is_its_answer() -> None:
    def raising(*args: object) -> peers.Answer:
        raise RuntimeError("underflow\nand more")

    assert peers.tried(raising)[2] == "raises RuntimeError: underflow"
