"""Decisions about several images side by side are those of each image alone."""

from __future__ import annotations

import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from homotopy_deq.certification import (
    Certificate,
    Clean,
    Cold,
    Converged,
    Policy,
    Serial,
    Smoother,
    Smoothing,
    Tangent,
    Truncated,
    Verified,
)
from homotopy_deq.certification.asking import Ask, Asking, packed, side_by_side
from homotopy_deq.certification.noise import Phase
from homotopy_deq.certification.verified import VerifiedSession
from homotopy_deq.certification.votes import Session
from homotopy_deq.models import ImageModel
from tests.certification.cases import halves, linear
from tests.certification.commands import LINES, TABLE
from tests.certification.test_verified import SHAPE, model
from tests.test_cli import call, done

SOME = 9
POLICIES: tuple[Policy, ...] = (
    Verified(Clean()),
    Verified(Tangent()),
    Verified(Cold()),
    Verified(Serial()),
    Converged(),
    Converged(Clean()),
    Truncated(),
)


def asked(made: ImageModel, policy: Policy, **changes: Any) -> tuple[Smoother, tuple[Any, ...]]:
    """A smoother, and images with their classes and numbers."""
    torch.manual_seed(3)
    images = torch.rand(SOME, *SHAPE)
    noise = Smoothing(**{"sigma": 0.2, "n0": 20, "n": 600, "batch": 200, **changes})
    return Smoother(made, policy, noise), (images, [0] * SOME, [5 * k for k in range(SOME)])


def alone(smoother: Smoother, images: tuple[Any, ...], radius: float) -> list[Certificate]:
    return [smoother.decide(*each, radius) for each in zip(*images, strict=True)]


def beside(smoother: Smoother, images: tuple[Any, ...], radius: float) -> list[Certificate]:
    return sorted(smoother.decide_all(*images, radius), key=lambda c: c.index)


@pytest.mark.parametrize(
    "policy", POLICIES, ids=lambda p: f"{type(p).__name__}-{type(p.start).__name__}"
)
@pytest.mark.parametrize("kind", ("contractive", "monotone convolution"))
def test_votes_and_verdicts_are_those_of_each_image_alone(kind: str, policy: Policy) -> None:
    smoother, images = asked(model(kind), policy)
    wanted, found = alone(smoother, images, 0.1), beside(smoother, images, 0.1)
    assert len({c.claim.stop for c in wanted if hasattr(c.claim, "stop")}) >= 2  # a mixed lot
    for one, other in zip(wanted, found, strict=True):
        assert (one.claim, one.evidence, one.note) == (other.claim, other.evidence, other.note)
        # A product of another size rounds otherwise, and a sample may take an evaluation more; and
        # where one answer of the selection is doubted, all of its batch are found again.
        spare = 0.02 * one.evaluations + 4 * smoother.smoothing.n0
        assert abs(one.evaluations - other.evaluations) <= spare


def test_a_class_is_asked_of_each_sample_by_itself() -> None:
    """Images of all classes in one batch: a target that went with the wrong row would show."""
    w, images, labels, _ = linear(n=8)
    assert len(set(labels.tolist())) == 2
    smoother = Smoother(
        lambda x: halves(w, x), Converged(), Smoothing(0.1, n0=10, n=500, batch=900)
    )
    found = smoother.decide_all(images, labels.tolist(), list(range(8)), 0.05)
    for certificate in found:
        assert certificate.correct or certificate.radius == 0


def test_samples_of_several_images_are_solved_together_and_never_more_than_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[int] = []
    look = VerifiedSession.look

    def counted(self: VerifiedSession, images: Tensor, *more: Any) -> Any:
        sizes.append(len(images))
        return look(self, images, *more)

    monkeypatch.setattr(VerifiedSession, "look", counted)
    smoother, images = asked(model("contractive"), Verified(Clean()))
    alone(smoother, images, 0.1)
    apart, drawn = len(sizes), sum(sizes)
    sizes.clear()
    beside(smoother, images, 0.1)
    assert sum(sizes) == drawn and max(sizes) <= 200
    assert len(sizes) <= 0.75 * apart  # three times 64 fit into 200, and once 128


def test_blocks_of_64_are_solved_alone_where_the_batch_must_not_matter() -> None:
    found = []
    for batch in (64, 400):
        smoother, images = asked(model("monotone"), Converged(), batch=batch, deterministic=True)
        assert smoother.smoothing.together == 1
        found.append(beside(smoother, images, 0.1))
    assert found[0] == found[1] == alone(smoother, images, 0.1)


def test_a_pack_is_of_one_phase_fits_the_room_and_leaves_none_out() -> None:
    torch.manual_seed(0)
    flat = [Session(lambda x: x.flatten(1)[:, :2], torch.rand(1, 2, 2)) for _ in range(6)]
    flat[3].alone = True
    phases = [
        Phase.SELECT,
        Phase.ESTIMATE,
        Phase.ESTIMATE,
        Phase.ESTIMATE,
        Phase.SELECT,
        Phase.ESTIMATE,
    ]
    sizes = [10, 64, 64, 64, 10, 300]
    asks = {
        k: Ask(session, k, phase, 0, size)
        for k, (session, phase, size) in enumerate(zip(flat, phases, sizes, strict=True))
    }
    packs = list(packed(asks, 130))
    assert sorted(sum(packs, [])) == list(range(6))
    assert sorted(packs) == [[0, 4], [1, 2], [3], [5]]  # 300 fit nowhere, and go by themselves


def test_an_asking_is_sent_its_own_votes_and_ends_by_itself() -> None:
    session = Session(lambda x: x.flatten(1)[:, :2], torch.rand(1, 2, 2))

    def asking(k: int) -> Asking[tuple[int, list[int]]]:
        seen = []
        for _ in range(k + 1):
            votes = yield Ask(session, k, Phase.ESTIMATE, 0, k + 1)
            seen += votes.tolist()
        return k, seen

    def answer(packs: Any) -> list[Any]:
        return [[torch.full((len(ask),), ask.index).numpy() for ask in asks] for asks in packs]

    ended = list(side_by_side([asking(2), asking(0), asking(1)], answer, 100))
    assert ended == [(0, [0]), (1, [1] * 4), (2, [2] * 9)]


def test_a_decision_is_gone_on_with_to_the_bytes_of_an_unbroken_one(
    monotone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--radius", 0.1, "--n", 500, "--limit", 7, "--batch", 128, "--cpu"]
    done("decide", monotone, "--out", tmp_path / "unbroken", *flags)
    real, calls = Smoother.decide_all, list[int]()

    def interrupted(self: Smoother, images: Tensor, *more: Any) -> Any:
        calls.append(len(images))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, images, *more)

    monkeypatch.setattr(Smoother, "decide_all", interrupted)
    out = tmp_path / "out"
    assert "4 of 7 images" in call("decide", monotone, "--out", out, *flags).output
    part = out / "parts" / "rank-0.jsonl"
    part.write_bytes(part.read_bytes().rpartition(b"\n")[0].rpartition(b"\n")[0] + b"\n")
    done("decide", monotone, "--out", out, *flags, "--resume")
    assert calls == [2, 2, 2, 2, 2, 1]  # the block of which a line was lost is decided as a whole
    for name in (LINES, TABLE):
        assert (out / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()


def test_killed_within_a_block_all_certificates_that_were_reached_are_kept(
    monotone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--radius", 0.1, "--n", 500, "--limit", 5, "--batch", 320, "--cpu"]
    done("decide", monotone, "--out", tmp_path / "unbroken", *flags)
    real = Smoother.decide_all

    def killed(self: Smoother, *given: Any) -> Any:
        yield next(real(self, *given))
        raise KeyboardInterrupt

    out = tmp_path / "out"
    with monkeypatch.context() as within:
        within.setattr(Smoother, "decide_all", killed)
        assert "1 of 5 images" in call("decide", monotone, "--out", out, *flags).output
    part = out / "parts" / "rank-0.jsonl"
    kept = part.read_bytes()
    done("decide", monotone, "--out", out, *flags, "--resume")
    # The block is decided as a whole, as before, and what was written of it is not written again.
    assert part.read_bytes().startswith(kept) and part.read_bytes().count(b"\n") == 5
    for name in (LINES, TABLE):
        assert (out / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()


def test_what_an_image_needed_is_freed_once_it_is_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tangent start keeps an n x n matrix for each image."""
    smoother, images = asked(model("contractive"), Verified(Tangent()))
    begun, begin = list[Any](), smoother.session

    def watched(*given: Any) -> Session:
        session = begin(*given)
        begun.append(weakref.ref(session))
        return session

    monkeypatch.setattr(smoother, "session", watched)
    for decided, _ in enumerate(smoother.decide_all(*images, 0.1), 1):
        left = sum(each() is not None for each in begun)
        assert left <= SOME - decided + 1  # the one whose certificate is being looked at


def test_an_image_whose_own_solve_failed_is_decided_from_the_cold_start() -> None:
    """It starts where no other image does, and is solved beside none of them."""
    made = model("contractive")
    smoother, images = asked(made, Verified(Clean()))
    weak = replace(made.layer.solver, max_steps=0)
    failing = Smoother(made.with_solver(weak), Verified(Clean()), smoother.smoothing)
    sessions = [failing.session(image) for image in images[0][:2]]
    assert all(session.alone and session.note for session in sessions)
    for one, other in zip(alone(failing, images, 0.1), alone(smoother, images, 0.1), strict=True):
        assert one.claim == other.claim
    assert [c.claim for c in beside(failing, images, 0.1)] == [
        c.claim for c in beside(smoother, images, 0.1)
    ]
