"""Any classifier is certified, by samples or by a bound; all of it is written and shown alike."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import torch
from scipy.stats import norm
from torch import Tensor, nn
from torch.nn import functional as F

from homotopy_deq import ODE, FlowLayer, ImplicitLayer
from homotopy_deq.certification import (
    ABSTAIN,
    Audited,
    Certain,
    Certificate,
    Certifier,
    Clean,
    Converged,
    Journal,
    JournalError,
    Lipschitz,
    Margin,
    Probable,
    Smoother,
    Smoothing,
    Tally,
    Truncated,
    Verified,
    read,
    weights_sha256,
)
from homotopy_deq.certification.summary import Summary
from homotopy_deq.cli.flags import in_options
from homotopy_deq.plotting import certified_figure
from tests.test_cli import done

SHAPE, SIGMA = (1, 3, 4), 0.5


def linear() -> tuple[nn.Sequential, Tensor]:
    """Two classes split by a hyperplane through grey, as plain torch, and its normal."""
    torch.manual_seed(0)
    w = F.normalize(torch.randn(12), dim=0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    with torch.no_grad():
        net[1].weight.copy_(torch.stack((w, -w)))
        net[1].bias.copy_(torch.tensor([-0.5, 0.5]) * w.sum())
    return net.eval(), w


def image_at(distance: float, w: Tensor) -> Tensor:
    return (0.5 + distance * w).view(SHAPE)


@dataclass(frozen=True)
class Spectral:
    """The margin of a linear classifier over the norm of the difference of its rows."""

    net: nn.Sequential
    rule: Lipschitz = Lipschitz()  # noqa: RUF009  (frozen)
    certifies: str = "the linear classifier"

    @torch.no_grad()
    def certify(self, image: Tensor, label: int, index: int) -> Certificate:
        logits = self.net.double()(image[None].double())[0]
        first, second = logits.topk(2).indices.tolist()
        rows = self.net[1].weight.double()
        gain = float((rows[first] - rows[second]).norm())
        evidence = Margin(first, float(logits[first] - logits[second]), gain)
        return Certificate(index, label, self.rule.claim(evidence), evidence, 1)


CERTAIN = {"bound": "lipschitz"}


def probable(smoothing: Smoothing) -> dict[str, object]:
    return {"smoothing": asdict(smoothing), "policy": {"name": "converged"}}


def written(folder: Path, certifier: Certifier, config: dict[str, object], w: Tensor) -> Journal:
    journal = Journal(folder, config)
    journal.begin()
    for index, distance in enumerate((0.3, 0.2, -0.1)):
        found = certifier.certify(image_at(distance, w), 0, index)
        journal.append(found, 0.1)
    journal.publish([0, 1, 2])
    return journal


def test_a_plain_network_is_certified_up_to_its_true_radius() -> None:
    net, w = linear()
    smoother = Smoother(net, Converged(), Smoothing(SIGMA, n=4000))
    found = smoother.certify(image_at(0.2, w), 0, 7)
    assert isinstance(found.claim, Probable) and isinstance(found.evidence, Tally)
    # The smoothed classifier is itself; 4000 samples bound p to 0.025 below it.
    assert 0 < found.radius <= 0.2 and found.claim.lower > norm.cdf(0.2 / SIGMA) - 0.04
    assert found.evaluations == 1 + 100 + 4000
    assert smoother.decide(image_at(0.5, w), 0, 0, radius=0.2).prediction == 0
    assert smoother.predict(image_at(-0.5, w), 0)[0] == 1
    function = Smoother(lambda images: net(images), Converged(), Smoothing(SIGMA, n=4000))
    assert function.certify(image_at(0.2, w), 0, 7) == found


class Mixing(nn.Module):
    """Subtracts the mean over the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0, keepdim=True)


class Random(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


def test_plain_networks_without_a_fixed_vote_are_refused() -> None:
    net, w = linear()
    smoothing, image = Smoothing(SIGMA), image_at(0.2, w)
    for extra, told in ((Mixing(), "by itself than beside others"), (Random(), "at its next call")):
        with pytest.raises(ValueError, match=told):
            Smoother(nn.Sequential(net, extra).eval(), Converged(), smoothing).certify(image, 0, 0)
    half_trained = nn.Sequential(net, nn.Dropout()).eval()
    half_trained[1].train()
    with pytest.raises(ValueError, match=r"eval mode: 1 is training"):
        Smoother(half_trained, Converged(), smoothing)
    with pytest.raises(ValueError, match=r"to logits \(B, classes\)"):
        Smoother(nn.Flatten(0).eval(), Converged(), smoothing).certify(image, 0, 0)
    for policy in (Verified(), Truncated(), Audited(), Converged(start=Clean())):
        with pytest.raises(ValueError, match=r"Sequential is no ImageModel: choose policy=Conv"):
            Smoother(net, policy, smoothing)


def test_layers_within_a_plain_network_are_looked_at() -> None:
    cell = nn.Tanh()
    for layer, told in (
        (ImplicitLayer(_Cell(cell), coupled=True), "one system"),
        (FlowLayer(_Cell(cell), ODE("dopri5")), "worst sample of the batch"),
    ):
        with pytest.raises(ValueError, match=told):
            Smoother(nn.Sequential(nn.Flatten(), layer).eval(), Converged(), Smoothing(SIGMA))


class _Cell(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return self.inner(0.5 * z + x)


def test_a_bound_holds_up_to_its_radius_and_goes_through_the_same_journal(tmp_path: Path) -> None:
    net, w = linear()
    written(tmp_path, Spectral(net), CERTAIN, w)
    _, found, _ = read(tmp_path)
    assert [type(each.claim) for each in found] == [Certain] * 3
    # float32 images and weights; the radius is the distance, to their rounding.
    assert [each.radius for each in found] == pytest.approx([0.3, 0.2, 0.1], rel=1e-6)
    assert [each.prediction for each in found] == [0, 0, 1]
    for distance, each in zip((0.3, 0.2, -0.1), found, strict=True):
        side = math.copysign(1, distance)
        at_edge = image_at(distance - side * each.radius * (1 - 1e-5), w)
        assert int(net(at_edge[None].double()).argmax()) == each.prediction


def test_a_run_is_gone_on_with_by_the_weights_alone_that_began_it(tmp_path: Path) -> None:
    net, w = linear()
    smoother = Smoother(net, Converged(), Smoothing(SIGMA, n=200))

    def sitting(*, resume: bool) -> Journal:
        config = {**probable(smoother.smoothing), "weights sha256": weights_sha256(net)}
        journal = Journal(tmp_path, config)
        journal.begin(resume=resume)
        return journal

    sitting(resume=False).append(smoother.certify(image_at(0.2, w), 0, 0), 0.1)
    assert list(sitting(resume=True).done()) == [0]
    for change in (lambda: net[1].bias[0].add_(1e-7), lambda: net.bfloat16(), lambda: net.half()):
        with torch.no_grad():
            change()
        with pytest.raises(JournalError, match="weights sha256"):
            sitting(resume=True)


def test_a_claim_of_one_kind_is_not_taken_for_the_other(tmp_path: Path) -> None:
    net, w = linear()
    sure = Spectral(net).certify(image_at(0.2, w), 0, 0)
    smoothing = Smoothing(SIGMA, n=200)
    journal = Journal(tmp_path, probable(smoothing))
    journal.begin()
    with pytest.raises(ValueError, match="Certain for a Probable"):
        journal.append(sure, 0.1)
    with pytest.raises(ValueError, match="its counts give"):
        Spectral(net).rule.check(Certificate(0, 0, Certain(0, 2 * sure.radius), sure.evidence, 1))
    with pytest.raises(ValueError, match="a gain must be above 0"):
        Lipschitz().claim(Margin(0, 1.0, 0.0))
    assert Lipschitz().claim(Margin(0, -0.5, 1.0)) == Certain(ABSTAIN, 0.0)


def test_both_kinds_stand_in_one_table_and_one_figure_each_with_its_label(tmp_path: Path) -> None:
    net, w = linear()
    smoothing = Smoothing(SIGMA, n=400)
    written(tmp_path / "smoothed", Smoother(net.float(), Converged(), smoothing),
            probable(smoothing), w)  # fmt: skip
    written(tmp_path / "bound", Spectral(net), CERTAIN, w)
    text = done("report", tmp_path / "smoothed", tmp_path / "bound")
    assert "converged, σ 0.5 | 3" in text and "lipschitz (for certain, l2) | 3" in text
    done("plot-certified", tmp_path / "smoothed", tmp_path / "bound", "--out", tmp_path / "c.png")
    runs = {name: Summary.of(read(tmp_path / name)[1]) for name in ("smoothed", "bound")}
    (axes,) = certified_figure(runs).axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["smoothed: each with probability 0.999", "bound: for certain"]
    (axes,) = certified_figure({"bound": runs["bound"]}).axes
    assert axes.get_legend().get_title().get_text() == "run (for certain)"


def test_a_finished_bound_is_refused_once_a_digit_is_altered(tmp_path: Path) -> None:
    net, w = linear()
    written(tmp_path, Spectral(net), CERTAIN, w)
    lines = tmp_path / "certificates.jsonl"
    lines.write_text(lines.read_text().replace('"margin": 0.', '"margin": 1.'))
    with pytest.raises(JournalError, match="checksum"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("start=Cold() or start=Along(0.8).", "--warm-start none or --warm-start along:0.8."),
        ('use solver=ODE("rk4"), or solver=Anderson()', "use --solver rk4, or --solver anderson"),
        ("policy Verified: no policy=Audited().", "policy verified: no --policy audited."),
        ("Give n=10 or more, or a larger audit=.", "Give --n 10 or more, or a larger --audit."),
        ("resume=True, or another folder=.", "--resume, or another --out."),
        ("coupled=True and x = 3 stay.", "coupled=True and x = 3 stay."),
    ],
)  # fmt: skip
def test_the_command_line_says_options_where_the_library_says_arguments(
    said: str, wanted: str
) -> None:
    assert in_options(said) == wanted


def test_no_message_of_certification_names_an_option() -> None:
    files = list((Path(__file__).parents[2] / "homotopy_deq" / "certification").glob("*.py"))
    assert len(files) > 10 and [file.name for file in files if " --" in file.read_text()] == []
