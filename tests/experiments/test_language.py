"""The language models see one text, the same windows for the same time, and go on where killed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.characters import batch, bits, corpus, summary
from experiments.language import EXPLICIT, SWAPS, TIED, Config, built, main
from experiments.language_training import Training, answer, train
from experiments.tables.language import language
from experiments.transformers import parameters

SMALL = Config(Training(batch=2, length=16), channels=8, heads=2, characters=2000)


def test_the_parts_of_the_text_follow_each_other_and_no_paragraph_stands_twice() -> None:
    found = corpus()
    text = "".join(map(found.decode, (found.train, found.validation, found.held_out)))
    assert found.about["characters"] == len(text) > 300_000
    paragraphs = text.split("\n\n")
    assert len(set(paragraphs)) == len(paragraphs)
    assert set(text) == set(found.alphabet)
    assert corpus(500).decode(corpus(500).train) == text[:425]


def test_a_batch_is_known_by_its_step_and_is_followed_by_what_stands_there() -> None:
    text = torch.arange(50)
    seen, wanted = batch(text, 6, 8, seed=1, step=3)
    assert torch.equal(wanted, seen + 1) and seen.shape == (6, 8)
    assert torch.equal(seen, batch(text, 6, 8, seed=1, step=3)[0])
    assert not torch.equal(seen, batch(text, 6, 8, seed=1, step=4)[0])


@pytest.mark.parametrize("characters", [9, 16, 17, 50])
def test_every_character_is_predicted_once_from_half_a_window_or_more(characters: int) -> None:
    def halving(text: Tensor) -> Tensor:  # gives the character 0 the probability 2^-(1 + place)
        places = torch.arange(text.shape[1], dtype=torch.float64)
        chance = 2.0 ** -(places + 1)
        return torch.stack([chance, 1 - chance], -1).log().expand(*text.shape, 2)

    spent = bits(halving, torch.zeros(characters, dtype=torch.long), 8, "cpu", size=2)
    context = spent.round().int().tolist()
    assert context[:8] == list(range(1, 9)) and len(context) == characters - 1
    assert all(5 <= c <= 8 for c in context[8:])


def test_standard_error_is_that_of_the_mean_of_blocks() -> None:
    spent = torch.linspace(0, 1, 20, dtype=torch.float64).repeat_interleave(7)
    deviation = math.sqrt(sum((k / 19 - 0.5) ** 2 for k in range(20)) / 19)
    assert summary(spent) == {
        "bits per character": 0.5,
        "standard error": round(deviation / math.sqrt(20), 4),
    }


@pytest.mark.parametrize("config", [Config(), replace(SMALL, channels=32)], ids=["whole", "small"])
def test_models_have_equally_many_parameters(config: Config) -> None:
    same, explicit, tied = (
        parameters(built(name, config, 103, 5)) for name in ("equilibrium", EXPLICIT, TIED)
    )
    assert same == tied
    assert 0.99 * same <= explicit <= same


def test_rate_rises_and_falls_to_nothing() -> None:
    rates = [Training(lr=0.5).rate(part / 100) for part in range(101)]
    assert rates[0] == 0 and rates[100] == pytest.approx(0)
    assert max(rates) == rates[3] == pytest.approx(0.5, rel=0.01)


def test_a_penalty_makes_the_equilibrium_contract_and_leaves_a_loop_as_it_is() -> None:
    text = corpus(2000)
    x = torch.randn(2, 16, 8)
    body: Any = built("equilibrium", SMALL, len(text.alphabet), 0).body.eval()
    z, extra = answer(body, x, 3.0)
    (j,) = torch.autograd.functional.jacobian(lambda z: (body.cell(z, x),), z.detach())
    exact = torch.einsum("btcbsd,btcbsd->", j, j) / z.numel()
    draws = torch.stack([answer(body, x, 3.0)[1] for _ in range(400)]).detach()  # type: ignore[arg-type]
    assert abs(draws.mean() - 3 * exact) < 5 * draws.std() / 20
    assert torch.as_tensor(extra).requires_grad
    loop = built("weight-tied", SMALL, len(text.alphabet), 2).body
    assert answer(loop, x, 3.0)[1] == 0


@dataclass(frozen=True)
class Steps(Training):
    """A training whose seconds are readings of its clock, so that steps are the same each time."""

    @property
    def clock(self) -> Callable[[], float]:
        readings = count()
        return lambda: float(next(readings))


@dataclass(frozen=True)
class Killed(Steps):
    """The same, killed in a step."""

    @property
    def clock(self) -> Callable[[], float]:
        readings = iter(range(9))
        return lambda: float(next(readings))


def test_a_killed_training_ends_as_the_unbroken_one(tmp_path: Path) -> None:
    how = {"minutes": 8 / 60, "every": 2 / 60, "batch": 2, "length": 16}
    text = corpus(2000)

    def run(kind: type[Training], file: Path) -> tuple[Any, bytes]:
        model = built("equilibrium", SMALL, len(text.alphabet), 0)
        return train(model, text, kind(**how), file), file.read_bytes()  # type: ignore[arg-type]

    with pytest.raises(StopIteration):
        run(Killed, tmp_path / "killed")
    assert (tmp_path / "killed").exists()
    whole = run(Steps, tmp_path / "whole")
    assert run(Steps, tmp_path / "killed") == whole
    assert whole[0]["steps"] == 8 and len(whole[0]["curve"]) == 4


def test_the_weights_that_are_left_are_those_that_were_best(tmp_path: Path) -> None:
    text = corpus(2000)
    model = built("weight-tied", SMALL, len(text.alphabet), 2)
    how = Steps(minutes=9 / 60, every=3 / 60, batch=2, length=16, lr=0.5)  # which spoils it
    found = train(model, text, how, tmp_path / "checkpoint")
    best = min(point["validation"] for point in found["curve"])
    assert found["best validation"] == best
    left = bits(model.eval(), text.validation, how.length, "cpu").mean()
    assert float(left) == pytest.approx(best, abs=1e-3)


@pytest.mark.slow
def test_three_models_are_trained_judged_swapped_and_tabled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Steps(minutes=8 / 60, every=4 / 60, batch=2, length=16)
    config = replace(SMALL, training=training, work=tmp_path / "work")
    main(config, tmp_path)
    written = json.loads((tmp_path / "language.json").read_text())
    rows = written["result"]["models"]
    uniform = math.log2(written["result"]["text"]["distinct"])
    for row in rows.values():
        assert 0 < row["bits per character"] < uniform + 1
        assert row["step"]["evaluations forward"] >= 1 <= row["step"]["evaluations backward"]
    same, tied = rows["equilibrium"], rows["weight-tied"]
    assert tied["step"]["evaluations forward"] == round(same["evaluations"])
    for row in (tied, same):
        to_the_root = [row["swaps"][name] for name in SWAPS if "1e-4" in name]
        assert len(to_the_root) == 4 and all(each["converged"] == 1 for each in to_the_root)
        found = [each["bits per character"] for each in to_the_root]
        assert max(found) - min(found) < 2e-3  # of logits that are 1e-4 apart
    monkeypatch.setattr("experiments.tables.markdown.RESULTS", tmp_path)
    said = language()
    assert f"| Picard, to 1e-4 | {found[0]:.4f} (" in said
    main(config, tmp_path)  # reads all of it
    assert json.loads((tmp_path / "language.json").read_text())["result"] == written["result"]


def test_logits_of_a_uniform_model_cost_the_bits_of_the_alphabet() -> None:
    spent = bits(lambda text: F.one_hot(text * 0, 8) * 0.0, torch.arange(8).repeat(5), 8, "cpu")
    assert torch.allclose(spent, torch.full((39,), 3.0, dtype=torch.float64), atol=1e-6)
