"""A killed experiment goes on where it stood, and never with what other code measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from experiments import parts as module
from experiments.kept import OtherCommit
from experiments.parts import Parts


@dataclass(frozen=True)
class Config:
    size: int = 3
    work: Path = Path("anywhere")


def test_a_part_is_measured_once(tmp_path: Path) -> None:
    calls: list[int] = []

    def measure() -> dict[str, float]:
        calls.append(1)
        return {"seconds": 0.5}

    for _ in range(2):  # two calls of the experiment
        assert Parts(tmp_path, Config())("one", measure) == {"seconds": 0.5}
    assert len(calls) == 1


def test_a_part_that_was_killed_leaves_nothing(tmp_path: Path) -> None:
    def killed() -> None:
        raise KeyboardInterrupt

    parts = Parts(tmp_path, Config())
    with pytest.raises(KeyboardInterrupt):
        parts("one", killed)
    assert parts("one", lambda: 2) == 2


def test_trained_weights_are_read_by_the_next_call(tmp_path: Path) -> None:
    trained, again = nn.Linear(2, 2), nn.Linear(2, 2)
    Parts(tmp_path, Config()).weights("net", trained, lambda: None)

    def never() -> None:
        raise AssertionError("trained anew")

    Parts(tmp_path, Config()).weights("net", again, never)
    assert torch.equal(trained.weight, again.weight)


def test_parts_of_other_code_or_settings_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Parts(tmp_path, Config())
    with pytest.raises(OtherCommit, match="another commit or configuration"):
        Parts(tmp_path, replace(Config(), size=4))
    monkeypatch.setattr(module, "commit", lambda: "later")
    with pytest.raises(OtherCommit, match="Delete it"):
        Parts(tmp_path, Config())
