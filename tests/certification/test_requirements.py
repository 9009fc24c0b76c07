"""What is certified must be one classifier, and what is begun must be able to end in a claim."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from homotopy_deq import DEQ, ImplicitLayer
from homotopy_deq.certification import (
    Audited,
    Clean,
    Converged,
    Policy,
    Smoother,
    Smoothing,
    Tangent,
    Truncated,
    Verified,
)
from homotopy_deq.certification.alone import Alone
from homotopy_deq.certification.journal import ALONE, JournalError
from homotopy_deq.certification.requirements import state_size
from homotopy_deq.certification.sequence import betting_lower
from homotopy_deq.certification.starts import Start
from homotopy_deq.certification.statistics import radius
from homotopy_deq.certification.votes import Session
from homotopy_deq.models import ImageModel, ModelOutput, MonotoneDEQ
from solvers import Anderson
from tests.certification.commands import certify
from tests.certification.test_journal import begun
from tests.certification.test_smoothing import SOUND, image_at, linear
from tests.test_cli import done

SHAPE = (1, 4, 4)


def plain() -> ImageModel:
    torch.manual_seed(0)
    return DEQ(SHAPE, 3, hidden=4, head=8, groups=2).eval()


class Mixing(nn.Module):
    """Each row leans to the mean of the batch."""

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return 0.5 * torch.tanh(z + x) + 0.1 * z.mean(0, keepdim=True)


class Centred(nn.Module):
    """Each row less a part of the batch's mean."""

    def forward(self, x: Tensor) -> Tensor:
        return x - 0.1 * x.mean(0, keepdim=True)


class Drawing(nn.Module):
    """Each call drops other entries."""

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return 0.5 * nn.functional.dropout(torch.tanh(z + x), 0.2)


class Normed(nn.Module):
    """BatchNorm that keeps no statistics of its own takes those of the batch, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4, track_running_stats=False)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return 0.5 * torch.tanh(self.norm(z) + x)


@pytest.mark.parametrize("policy", (Converged(), Audited(), Truncated()))
@pytest.mark.parametrize(
    ("cell", "told"),
    ((Mixing, "beside others"), (Normed, "beside others"), (Drawing, "at its next call")),
)
def test_cells_that_mix_rows_or_draw_at_random_are_refused(
    policy: Policy, cell: Callable[[], nn.Module], told: str
) -> None:
    model = plain()
    with torch.no_grad():  # a head that hears nothing hides nothing
        for parameter in model.head.parameters():
            parameter.zero_()
    model.layer = ImplicitLayer(cell(), Anderson())
    with pytest.raises(ValueError, match=told):
        Smoother(model.eval(), policy, Smoothing(0.25))


@pytest.mark.parametrize("start", [Clean(), Tangent()])
def test_a_stem_that_mixes_rows_is_refused_whatever_is_proved_of_the_cell(start: Start) -> None:
    torch.manual_seed(0)
    model = DEQ(SHAPE, 3, hidden=4, contraction=0.9).eval()
    Verified(start).check(model)
    model.stem.append(Centred()).eval()
    with pytest.raises(ValueError, match="beside others"):
        Verified(start).check(model)


class Negated(DEQ):
    def forward(self, images: Tensor) -> Tensor:
        return -super().forward(images)


class NegatedSolve(DEQ):
    def solve(self, *args: Any, **kwargs: Any) -> ModelOutput:
        found = super().solve(*args, **kwargs)
        return replace(found, logits=-found.logits)


def hooked(model: ImageModel) -> None:
    model.register_forward_hook(lambda part, given, logits: -logits)


@pytest.mark.parametrize("policy", SOUND, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize(
    "change",
    [lambda model: setattr(model, "__class__", Negated), hooked,
     lambda model: setattr(model, "__class__", NegatedSolve)],
)  # fmt: skip
def test_a_model_whose_logits_are_not_those_of_its_parts_is_certified_as_a_whole(
    change: Callable[[ImageModel], None], policy: Policy
) -> None:
    model, w = linear()
    change(model)
    with pytest.raises(ValueError, match=r"a forward or solve of its own.*nn.Sequential\(model\)"):
        Smoother(model, policy, Smoothing(0.1))
    whole = Smoother(nn.Sequential(model).eval(), Converged(), Smoothing(0.1, n=200))
    assert whole.certify(image_at(0.4, w), 0, 0).prediction == 1


def test_rows_that_are_one_system_are_refused() -> None:
    model = plain()
    model.layer = ImplicitLayer(model.layer.cell, Anderson(), coupled=True).eval()
    with pytest.raises(ValueError, match=r"coupled=True"):
        Smoother(model, Converged(), Smoothing(0.25))


def test_a_part_that_is_training_is_refused_by_its_name() -> None:
    model = plain()
    model.head.train()
    assert not model.training
    with pytest.raises(ValueError, match="in eval mode: head is training"):
        Smoother(model, Converged(), Smoothing(0.25))


ASKED: dict[str, Callable[[Smoother, Tensor], object]] = {
    "certify": lambda smoother, image: smoother.certify(image, 0, 0),
    "decide": lambda smoother, image: smoother.decide(image, 0, 0, 0.05),
    "predict": lambda smoother, image: smoother.predict(image, 0),
}


@pytest.mark.parametrize("ask", ASKED)
@pytest.mark.parametrize("whole", [False, True])
def test_a_classifier_that_is_put_into_training_is_refused_from_then_on(
    ask: str, whole: bool
) -> None:
    model, w = linear()
    classifier = nn.Sequential(model).eval() if whole else model
    smoother = Smoother(classifier, Converged(), Smoothing(0.1))
    ASKED[ask](smoother, image_at(0.4, w))
    model.train()
    with pytest.raises(ValueError, match="in eval mode"):
        ASKED[ask](smoother, image_at(0.4, w))
    model.eval()
    ASKED[ask](smoother, image_at(0.4, w))


@pytest.mark.parametrize("ask", ASKED)
@pytest.mark.parametrize("policy", [Converged(), Verified(), Verified(Clean())])
def test_a_model_that_is_given_other_weights_is_refused_by_what_was_proved_of_the_first(
    ask: str, policy: Policy
) -> None:
    model, w = linear()
    smoother = Smoother(model, policy, Smoothing(0.1))
    ASKED[ask](smoother, image_at(0.4, w))
    with torch.no_grad():
        model.get_parameter("stem.1.bias").data.add_(0.5)
    with pytest.raises(ValueError, match="other weights than when this Smoother was made"):
        ASKED[ask](smoother, image_at(0.4, w))
    ASKED[ask](Smoother(model, policy, Smoothing(0.1)), image_at(0.4, w))


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_models_whose_rows_are_independent_pass(dtype: torch.dtype) -> None:
    Smoother(plain().to(dtype), Converged(), Smoothing(0.25))
    Smoother(linear()[0].to(dtype), Verified(), Smoothing(0.25))


def test_a_tangent_that_is_too_large_is_refused_before_the_first_image() -> None:
    torch.manual_seed(0)
    large = MonotoneDEQ((1, 8, 8), 3, hidden=2049, kernel=None, pool=1).eval()
    assert state_size(large) == 2049
    for policy in (Verified(), Converged(start=Tangent()), Audited(start=Tangent())):
        with pytest.raises(ValueError, match=r"have 2,049: choose start=Clean\(\)"):
            policy.check(large)
    wide = DEQ((1, 64, 64), 3, hidden=4, head=8, groups=2).eval()  # 4 x 32 x 32
    assert state_size(wide) == 4096
    with pytest.raises(ValueError, match="have 4,096"):
        Smoother(wide, Audited(start=Tangent()), Smoothing(0.25))
    Smoother(wide, Audited(start=Clean()), Smoothing(0.25))


@pytest.mark.parametrize(("n", "alpha"), ((9, 1e-3), (5, 1e-3), (1, 0.5), (6, 1e-2)))
def test_a_run_that_could_only_abstain_is_refused(n: int, alpha: float) -> None:
    # n votes that all agree bound p by alpha^(1/n), which must be above 1/2.
    model, w = linear()
    image = image_at(0.9, w)
    smoother = Smoother(model, Verified(), Smoothing(0.1, n=n, alpha=alpha))
    enough = int(np.floor(np.log2(1 / alpha))) + 1
    with pytest.raises(ValueError, match=rf"{n} samples that all agree.* n={enough} or more"):
        smoother.certify(image, 0, 0)
    smoother = Smoother(model, Verified(), Smoothing(0.1, n=enough, alpha=alpha))
    assert smoother.certify(image, 0, 0).radius > 0


def test_a_radius_or_a_class_that_no_votes_could_prove_is_refused() -> None:
    model, w = linear()
    image = image_at(0.9, w)
    few = Smoother(model, Verified(), Smoothing(0.1, n=100))
    most = radius(betting_lower(100, 100, 1e-3), few.smoothing.noise.deviation)
    with pytest.raises(ValueError, match=f"prove a radius of {most:.3f}"):
        few.decide(image, 0, 0, 1.001 * most)
    assert few.decide(image, 0, 0, 0.999 * most).claim.stop == "certified"
    with pytest.raises(ValueError, match="n=11 or more"):
        Smoother(model, Verified(), Smoothing(0.1, n=10)).predict(image, 0)
    assert Smoother(model, Verified(), Smoothing(0.1, n=11)).predict(image, 0)[0] == 0


@dataclass(frozen=True)
class Unsteady(Converged):
    """Votes as a network does whose rounding, and with it its root, depends on the batch."""

    flips: int = 7

    def base(self, session: Session, images: Tensor) -> np.ndarray:
        found = super().base(session, images)
        other = torch.arange(len(images)).numpy() % self.flips == 0
        return np.where(other & (len(images) > 1), 1 - found, found)


def test_votes_that_depend_on_the_batch_are_counted() -> None:
    model, w = linear()
    images = [(image_at(0.2, w), 3), (image_at(-0.2, w), 5)]
    smoothing = Smoothing(0.5, n=400, batch=50)
    steady = Alone.of(Smoother(model, Converged(), smoothing), images)
    assert (steady.samples, steady.disagreements, steady.batch) == (100, 0, 50)
    found = Alone.of(Smoother(model, Unsteady(), smoothing), images)
    assert found.disagreements == 2 * 8  # 0, 7, ..., 49 of each
    assert "16 of 100 noise samples vote otherwise" in str(found)


def test_a_run_warns_of_votes_that_depend_on_the_batch_and_its_report_says_so(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Warning" not in certify(run, tmp_path / "steady")
    assert "vote otherwise" not in done("report", tmp_path / "steady")
    real = Alone.of
    monkeypatch.setattr(Alone, "of", lambda *given: replace(real(*given), disagreements=3))
    certify(run, tmp_path / "unsteady")
    told = "3 of 256 noise samples vote otherwise when they are solved alone than in a batch of 128"
    assert told in done("report", tmp_path / "unsteady")


def test_what_was_found_alone_is_kept_whole(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    assert journal.kept(ALONE) is None
    model, w = linear()
    found = Alone.of(Smoother(model, Converged(), Smoothing(0.5, n=64)), [(image_at(0.2, w), 3)])
    journal.keep(ALONE, asdict(found))
    assert Alone(**journal.kept(ALONE) or {}) == found
    file = tmp_path / "alone.json"
    file.write_bytes(file.read_bytes().replace(b"64", b"65"))
    with pytest.raises(JournalError):
        journal.kept(ALONE)
