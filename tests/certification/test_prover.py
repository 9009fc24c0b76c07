"""What is proved without samples holds, in its norm and in units of the images."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from homotopy_deq.certification import (
    Audited,
    Certain,
    Certificate,
    Clean,
    Converged,
    Interval,
    IntervalProver,
    Intervals,
    Lipschitz,
    LipschitzProver,
    Margin,
    Phase,
    Policy,
    Probable,
    Prover,
    Smoother,
    Smoothing,
    Tally,
    Truncated,
    Verified,
    read,
)
from homotopy_deq.certification.journal import Journal, seal
from homotopy_deq.certification.summary import Summary, compare
from homotopy_deq.cli import load_model
from homotopy_deq.lipschitz import MarginProof
from homotopy_deq.models import MonotoneDEQ
from homotopy_deq.models.lipschitz import LBENNetwork, SLLNetwork
from homotopy_deq.plotting import certified_figure
from solvers import Anderson
from tests.certification.commands import LINES, TABLE, altered
from tests.certification.test_certifier import image_at, linear
from tests.certification.test_requirements import Centred
from tests.test_cli import call, done, refused

SHAPE = (1, 4, 4)
HALVED = 2.0**-16
"""Intervals look for a radius up to 1 by 16 halvings."""


def small(kernel: int, std: float = 0.5) -> MonotoneDEQ:
    """A model of small W, through which intervals go."""
    torch.manual_seed(0)
    model = MonotoneDEQ(SHAPE, 3, hidden=6, pool=2, kernel=kernel, std=std, monotonicity=0.9)
    with torch.no_grad():
        for part in (model.layer.cell.gram, model.layer.cell.skew):
            part.mul_(0.2)  # type: ignore[operator]
    return model.double().eval()


@pytest.mark.parametrize(
    ("kind", "power"), [(LipschitzProver, 2), (IntervalProver, 1)], ids=["l2", "linf"]
)
def test_a_linear_classifier_is_certified_to_its_distance(kind: type[Prover], power: int) -> None:
    net, w = linear()
    # The least change in a norm that moves w x by t is t over the dual norm of w.
    dual = float(torch.linalg.vector_norm(w.double(), power))
    for distance in (0.3, -0.1):
        found = kind(net, (1, 3, 4)).certify(image_at(distance, w), 0, 7)
        exact = abs(distance) / dual
        assert (found.prediction, found.index) == (int(distance < 0), 7)
        # float32 images and weights; nothing is rounded up beyond that.
        assert exact * (1 - 1e-5) - HALVED <= found.radius <= exact * (1 + 1e-6)
        assert isinstance(found.claim, Certain)
        assert found.claim.norm == ("l2" if power == 2 else "linf")


@pytest.mark.parametrize("kind", [LipschitzProver, IntervalProver])
@pytest.mark.parametrize("kernel", [0, 3])
def test_radii_are_in_units_of_images_before_they_are_normalised(
    kind: type[Prover], kernel: int
) -> None:
    x = torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(1))
    labels, indices = [0] * 6, list(range(6))
    wide, narrow = (
        kind(small(kernel, std).network(), SHAPE).certify_all(images, labels, indices)
        for std, images in ((1.0, x), (0.25, x / 4))
    )
    assert [one.prediction for one in wide] == [one.prediction for one in narrow]
    # The same numbers reach the stem, and a change of them is four times one of the images. The
    # bounds are equal to rounding; what is looked for by halving is so to a step of it.
    for one, other in zip(wide, narrow, strict=True):
        assert one.radius > 0
        assert other.radius == pytest.approx(one.radius / 4, rel=1e-6, abs=HALVED)


@pytest.mark.parametrize("kernel", [0, 3])
def test_no_image_of_ten_thousand_within_a_box_has_another_class(kernel: int) -> None:
    model, x = small(kernel), torch.rand(5, *SHAPE, dtype=torch.float64)
    found = IntervalProver(model.network(), SHAPE).certify_all(x, [0] * 5, list(range(5)))
    exact = model.with_solver(Anderson(rtol=1e-10, max_steps=300))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for image, one in zip(x, found, strict=True):
            assert one.radius > 0
            corners = torch.randint(0, 2, (2000, *SHAPE), generator=generator) * 2.0 - 1
            inside = one.radius * torch.rand(2000, 1, 1, 1, generator=generator) ** 0.1
            logits = exact(image + inside * corners)
            assert bool((logits.argmax(1) == one.prediction).all())


@pytest.mark.parametrize("kernel", [0, 3])
def test_the_slope_that_is_found_is_below_the_one_that_is_proved(kernel: int) -> None:
    prover = LipschitzProver(small(kernel).network(), SHAPE)
    found, proved = prover.tightness(torch.rand(4, *SHAPE))
    assert 0 < found <= proved


def test_a_claim_follows_from_its_evidence_and_is_rounded_down() -> None:
    rule, third = Lipschitz(), Margin(2, 1.0, 3.0)
    assert rule.claim(third).radius < 1 / 3 < rule.claim(third).radius * (1 + 1e-15)
    assert Intervals().claim(Interval(1, 1e-9, 0.25)) == Certain(1, 0.25, norm="linf")
    for nothing in (Interval(1, 0.0, 0.25), Interval(1, -1.0, 0.25), Interval(1, 1.0, 0.0)):
        assert Intervals().claim(nothing) == Certain(-1, 0.0, norm="linf")
    assert rule.claim(Margin(1, 1e300, 5e-324)).radius < math.inf
    with pytest.raises(ValueError, match="norm must be l2 or linf"):
        Certain(1, 0.5, norm="l1")  # type: ignore[arg-type]


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_claim_in_another_norm_than_its_rule_gives_is_refused(norm: str) -> None:
    pairs = {"l2": (Lipschitz(), Margin(2, 1.0, 4.0)), "linf": (Intervals(), Interval(2, 1.0, 0.2))}
    rule, evidence = pairs[norm]
    right = Certificate(0, 2, rule.claim(evidence), evidence, 1).body()
    assert rule.read(right).claim.norm == norm
    wrong = {**right, "norm": "linf" if norm == "l2" else "l2"}
    with pytest.raises(ValueError, match="image 0: norm is"):
        rule.read(wrong)
    del right["norm"]  # as lines before there were norms: these were l2
    if norm == "l2":
        assert rule.read(right).claim.norm == "l2"
    else:
        with pytest.raises(ValueError, match="norm is l2"):
            rule.read(right)


def test_a_rule_of_another_version_is_named(tmp_path: Path) -> None:
    journal = Journal(tmp_path, {"bound": "magic"})
    with pytest.raises(ValueError, match="bound must be lipschitz or ibp; got magic"):
        _ = journal.rule


@pytest.fixture(scope="module")
def quiet(monotone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny monotone run, its W made small enough for intervals."""
    folder = tmp_path_factory.mktemp("runs")
    some = altered(monotone, folder / "some", 0.02, "best.layer.cell.gram")
    return altered(some, folder / "quiet", 0.02, "best.layer.cell.skew")


def certify(run: Path, method: str, out: Path, *more: object) -> str:
    return done("certify", run, "--method", method, "--out", out, "--limit", 12, "--cpu", *more)


@pytest.mark.parametrize(("method", "norm"), [("lipschitz", "l2"), ("ibp", "linf")])
def test_a_proof_goes_through_the_one_journal(
    method: str, norm: str, quiet: Path, tmp_path: Path
) -> None:
    said = " ".join(certify(quiet, method, tmp_path).split())
    assert f"{norm} radii" in said and "12 images" in said and "samples" not in said
    config, certificates, seconds = read(tmp_path)
    assert config["bound"] == method and len(seconds) == 12
    assert {type(one.claim) for one in certificates} == {Certain}
    assert {one.claim.norm for one in certificates} == {norm}
    model = load_model(quiet).double().with_solver(Anderson(rtol=1e-8, max_steps=300))
    rows = (tmp_path / TABLE).read_text().splitlines()[1:]
    assert [row.split("\t")[0] for row in rows] == [str(one.index) for one in certificates]
    assert sum(one.radius > 0 for one in certificates) > 6
    text = done("report", tmp_path)
    assert f"{method} (for certain, {norm}) | 12" in text
    assert ("found by search, which certifies nothing" in text) == (method == "lipschitz")
    assert ("found by search (no certificate)" in said) == (method == "lipschitz")
    assert model.verifiable


def test_a_proof_that_was_killed_goes_on_to_the_same_bytes(quiet: Path, tmp_path: Path) -> None:
    certify(quiet, "lipschitz", tmp_path / "whole", "--batch", 5)
    certify(quiet, "lipschitz", tmp_path / "torn", "--batch", 5)
    part = tmp_path / "torn" / "parts" / "rank-0.jsonl"
    part.write_bytes(part.read_bytes()[:-700])
    (tmp_path / "torn" / LINES).unlink()
    certify(quiet, "lipschitz", tmp_path / "torn", "--batch", 5, "--resume")
    for name in (LINES, TABLE):
        whole = (tmp_path / "whole" / name).read_bytes()
        assert (tmp_path / "torn" / name).read_bytes() == whole
    flags = ["--out", tmp_path / "torn", "--limit", 12, "--cpu", "--resume", "--batch", 4]
    told = refused("certify", quiet, "--method", "lipschitz", *flags)
    assert "batch: 5 in the run, 4 given" in told  # which may round otherwise


def test_a_run_is_not_gone_on_with_by_another_method(quiet: Path, tmp_path: Path) -> None:
    certify(quiet, "lipschitz", tmp_path)
    flags = ["--out", tmp_path, "--limit", 12, "--cpu", "--resume"]
    told = refused("certify", quiet, "--method", "ibp", *flags)
    assert 'bound: "lipschitz" in the run, "ibp" given' in told
    told = refused("certify", quiet, "--method", "smoothing", "--n", 64, *flags)
    assert "bound" in told and "smoothing" in told


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--sigma", 0.5], "--sigma is of --method smoothing; lipschitz takes no samples"),
        (["--policy", "verified"], "--policy is of --method smoothing"),
        (["--n0", 7], "--n0 is of --method smoothing"),
        (["--deterministic"], "--deterministic is of --method smoothing"),
        (["--audit", 7], "--audit is of --method smoothing"),
        (["--skip", 359], "leaves none of the 359"),
    ],
)
def test_options_of_sampling_are_refused_of_a_proof(
    flags: list[object], told: str, monotone: Path, tmp_path: Path
) -> None:
    out = ["--method", "lipschitz", "--out", tmp_path / "out"]
    assert told in refused("certify", monotone, *out, *flags)
    assert not (tmp_path / "out").exists()


def test_a_margin_by_pairs_is_the_default_and_never_below_the_global_one(
    quiet: Path, tmp_path: Path
) -> None:
    radii = {}
    for margin, flags in (("global", ["--margin", "global"]), ("pairwise", [])):
        said = certify(quiet, "lipschitz", tmp_path / margin, *flags)
        assert f"method lipschitz, margin {margin}" in " ".join(said.split())
        config, certificates, _ = read(tmp_path / margin)
        assert config["margin"] == margin
        radii[margin] = torch.tensor([one.radius for one in certificates], dtype=torch.float64)
    assert bool((radii["pairwise"] >= radii["global"]).all())


@pytest.mark.parametrize("method", ["ibp", "smoothing"])
def test_a_margin_is_refused_of_what_has_none(method: str, quiet: Path, tmp_path: Path) -> None:
    flags = ["--method", method, "--margin", "pairwise", "--out", tmp_path / "out", "--cpu"]
    told = refused("certify", quiet, *flags)
    assert f"--margin is of --method lipschitz; got --method {method}" in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["lipschitz", "ibp"])
def test_what_has_no_proof_is_refused_in_a_line_before_images_are_read(
    method: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homotopy_deq.cli.certification.study.images_of", None)
    told = refused("certify", run, "--method", method, "--out", tmp_path / "out").strip()
    assert "layer (ImplicitLayer) cannot be certified" in told
    assert not (tmp_path / "out").exists()


def test_intervals_without_a_fixed_point_are_refused(monotone: Path, tmp_path: Path) -> None:
    loud = altered(monotone, tmp_path / "loud", 30.0, "best.layer.cell.skew")
    told = refused("certify", loud, "--method", "ibp", "--out", tmp_path / "out")
    assert "layer (EquilibriumNetwork)" in told and "spectral radius of |W|" in told


def summaries() -> dict[str, Summary]:
    claims = {
        "margins": (Certain(1, 0.25), Margin(1, 1.0, 4.0)),
        "boxes": (Certain(1, 0.25, norm="linf"), Interval(1, 1.0, 0.25)),
    }
    return {n: Summary.of([Certificate(0, 1, *of, 1)]) for n, of in claims.items()}


def test_no_line_is_without_its_norm_and_no_two_norms_are_compared() -> None:
    runs = summaries()
    (axes,) = certified_figure(runs).axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["margins: l2", "boxes: linf"]
    assert axes.get_xlabel().startswith("radius in the norm of each line")
    (axes,) = certified_figure({"boxes": runs["boxes"]}).axes
    assert axes.get_xlabel().startswith("linf radius")
    with pytest.raises(ValueError, match="radii in l2 and in linf cannot be compared"):
        compare(*runs.values())
    both = [Certificate(k, 1, Certain(1, 0.5, norm=n), Margin(1, 1.0, 2.0), 1)
            for k, n in enumerate(("l2", "linf"))]  # fmt: skip
    with pytest.raises(ValueError, match="for certain in l2 and for certain in linf"):
        Summary.of(both)
    assert Probable(1, 0.5, 0.9, "all samples drawn", 1e-3).norm == "l2"


def test_an_attack_within_proved_radii_finds_nothing_but_what_is_false(
    quiet: Path, tmp_path: Path
) -> None:
    certify(quiet, "lipschitz", tmp_path / "l2")
    flags = ["--certificates", tmp_path / "l2", "--attack-steps", 5, "--cpu"]
    told = call("attack", quiet, *flags)
    assert told.exit_code == 0 and "no certificate violated" in told.output
    lines = [json.loads(line) for line in (tmp_path / "l2" / LINES).read_text().splitlines()]
    for line in lines:
        del line["sha256"]
        if line["prediction"] >= 0:  # as if the normalisation and all layers were forgotten
            line |= {"gain": line["gain"] / 1e4}
            evidence = Margin(line["selected"], line["margin"], line["gain"])
            line |= {"radius": Lipschitz().claim(evidence).radius}
    (tmp_path / "l2" / LINES).write_bytes(b"".join(map(seal, lines)))
    found = call("attack", quiet, *flags)
    assert found.exit_code == 1 and "are violated" in found.output
    certify(quiet, "ibp", tmp_path / "linf")
    assert "attacks search l2 balls" in refused("attack", quiet, "--certificates",
                                                tmp_path / "linf")  # fmt: skip


class Plain(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :2]


@pytest.mark.parametrize("kind", [LipschitzProver, IntervalProver])
def test_a_network_of_unknown_parts_makes_no_prover(kind: type[Prover]) -> None:
    with pytest.raises(ValueError, match=r"1 \(Plain\) cannot be certified"):
        kind(nn.Sequential(nn.Conv2d(1, 1, 1), Plain()), SHAPE)


STACKS = {"channels": 3, "depth": 2, "kernel": 3, "patch": 4, "features": 8, "dense_depth": 2}


@pytest.mark.filterwarnings("ignore:.*did not converge")
@pytest.mark.parametrize("kind", [LBENNetwork, SLLNetwork])
def test_votes_of_a_stack_are_proved_by_how_far_its_logits_may_be_off(kind: Any) -> None:
    torch.manual_seed(0)
    model = kind((1, 8, 8), 4, std=0.5, on_failure="ignore", **STACKS).eval()
    smoothing, image = Smoothing(0.3, n0=32, n=128), torch.rand(1, 8, 8)
    found = Smoother(model, Verified(), smoothing).certify(image, 0, 3)
    noise = smoothing.noise.draw(3, Phase.ESTIMATE, 0, 128, image.shape)
    exact = MarginProof(model.network())(image + noise)
    assert isinstance(found.evidence, Tally)
    right = int((exact.logits.argmax(1) == found.evidence.selected).sum())
    assert 0 < found.evidence.votes == right and found.evidence.undecided == 0
    # Equilibria that are left after one step: what they leave open is no vote.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("homotopy_deq.lipschitz.enclosure.PATH", Anderson(max_steps=1))
        fewer = Smoother(model, Verified(), smoothing).certify(image, 0, 3).evidence
    assert isinstance(fewer, Tally) and fewer.selected == found.evidence.selected
    assert fewer.votes <= found.evidence.votes
    assert (fewer.undecided > 0) == (kind is LBENNetwork)


class Meant(LBENNetwork):
    """Claims the map of its parts without the one that mixes rows."""

    def network(self) -> nn.Sequential:
        return LBENNetwork((1, 8, 8), 4, **STACKS).eval().network()


def test_a_stack_that_mixes_rows_is_refused_whatever_map_it_claims() -> None:
    model = Meant((1, 8, 8), 4, **STACKS).eval()
    Verified().check(model)
    model.stem = nn.Sequential(model.stem, Centred()).eval()
    with pytest.raises(ValueError, match="beside others"):
        Verified().check(model)


@pytest.mark.parametrize("policy", [Truncated(), Audited(), Converged(start=Clean())])
def test_policies_that_follow_one_solver_refuse_a_stack(policy: Policy) -> None:
    model = LBENNetwork((1, 8, 8), 4, **STACKS).eval()
    with pytest.raises(ValueError, match="is a stack of layers that are solved one by one"):
        Smoother(model, policy, Smoothing(0.25))
    found = Smoother(model, Converged(), Smoothing(0.25, n=64)).certify(torch.rand(1, 8, 8), 0, 0)
    assert isinstance(found.claim, Probable) and found.evidence.undecided == 0


def test_rows_whose_differences_underflow_claim_no_more_than_their_distance() -> None:
    torch.manual_seed(0)
    last = nn.Linear(16, 3, bias=False).double()
    with torch.no_grad():
        last.weight.mul_(1e-170)  # of which the squares are 0 in double precision
    x = torch.rand(4, *SHAPE, dtype=torch.float64)
    found = LipschitzProver(nn.Sequential(nn.Flatten(), last), SHAPE).certify_all(
        x, [0] * 4, [0, 1, 2, 3]
    )
    rows = last.weight.detach() * 1e170
    logits = x.flatten(1) @ rows.mT
    for values, one in zip(logits, found, strict=True):
        first, second = values.topk(2).indices.tolist()
        exact = (values[first] - values[second]) / (rows[first] - rows[second]).norm()
        assert one.radius <= float(exact)


@pytest.mark.parametrize("weight", [1e300, math.inf, math.nan])
def test_a_head_without_a_finite_bound_abstains_in_numbers_that_a_journal_takes(
    weight: float, tmp_path: Path
) -> None:
    last = nn.Linear(16, 3).double()
    nn.init.constant_(last.weight[0], weight)
    prover = LipschitzProver(nn.Sequential(nn.Flatten(), last), SHAPE)
    found = prover.certify(torch.rand(SHAPE), 0, 0)
    assert (found.prediction, found.radius) == (-1, 0.0)
    journal = Journal(tmp_path, {"bound": "lipschitz"})
    journal.begin()
    journal.append(found, 0.1)
    assert journal.done()[0][0] == found


@pytest.mark.parametrize("kind", [LipschitzProver, IntervalProver])
def test_images_of_integers_are_refused_as_their_units_are_others(kind: type[Prover]) -> None:
    prover = kind(small(3).network(), SHAPE)
    with pytest.raises(ValueError, match=r"images must be floating point in \[0, 1\]"):
        prover.certify(torch.ones(SHAPE, dtype=torch.uint8), 0, 0)


@pytest.mark.parametrize("kind", [LipschitzProver, IntervalProver])
def test_images_that_a_network_does_not_take_are_told_by_their_shape(kind: type[Prover]) -> None:
    prover = kind(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), SHAPE)
    with pytest.raises(ValueError, match=r"of shape \(1, 4, 5\), torch.float32 on cpu: mat"):
        prover.certify(torch.rand(1, 4, 5), 0, 0)
    with pytest.raises(ValueError, match=r"of shape \(2, 1, 4, 4\).*without a batch"):
        prover.certify(torch.rand(2, *SHAPE), 0, 0)


@pytest.mark.parametrize("kind", [LipschitzProver, IntervalProver])
def test_a_network_without_parameters_makes_a_prover(kind: type[Prover]) -> None:
    image = torch.tensor([0.75, 0.25]).view(1, 1, 2)
    found = kind(nn.Flatten(), (1, 1, 2)).certify(image, 0, 0)
    # The entries meet after 0.25 of each, or 0.25 sqrt 2 in all.
    assert found.radius == pytest.approx(0.25 * 2 ** (0.5 * (found.claim.norm == "l2")), rel=1e-4)
