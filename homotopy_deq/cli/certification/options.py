"""The commands about certification: what each is told. No torch is needed here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...settings.certification import DECIDING, SELECTING, AuditedVotes, NoiseSettings, Votes
from ...settings.data import Place
from ...settings.declare import above, at_least, between, like, setting
from ..options import Begun, ImagesToTest, Machine, Predict, Run, Solvers


@dataclass(frozen=True)
class Sampled:
    """What certify and decide have in common."""

    run: Run
    images: ImagesToTest = ImagesToTest()
    skip: int = setting(
        0, "Leave out so many of the first images of that order.", at_least(0), panel=Place.PANEL
    )
    noise: NoiseSettings = NoiseSettings()
    n0: int = setting(SELECTING, "Noise samples that select the class.", panel=NoiseSettings.PANEL)
    votes: Votes = Votes()
    deterministic: bool = setting(
        False,
        "Solve in blocks of 64 whatever --batch says, so that rounding, too, is the same for every "
        "batch size. Slower on a GPU.",
        panel=Votes.PANEL,
    )
    out: Path | None = setting(
        None,
        "Folder to write to. Default: a folder in RUN named after command and policy.",
        metavar="DIR",
        panel=Begun.PANEL,
    )
    begun: Begun = Begun()
    machine: Machine = Machine()


@dataclass(frozen=True)
class Certify(Sampled):
    """Certify test images: the class, and a radius within which no change of the image changes it.

    By smoothing, noise is added to each image --n times, and the votes prove a lower bound on the
    probability of the class (Cohen, Rosenfeld & Kolter 2019): probably true, in l2. lipschitz (l2)
    and ibp (l-infinity) prove what is certain, of models whose parts allow it.
    DIR/certificates.tsv and .jsonl hold a line an image: idx, label, predict (-1: abstains),
    radius, correct, evals.

    Several processes: torchrun --nproc-per-node N -m homotopy_deq.cli certify RUN --samples 10000
    """

    method: Literal["smoothing", "lipschitz", "ibp"] = setting(
        "smoothing",
        "smoothing (votes under noise), lipschitz (margins of the logits over a proved Lipschitz "
        "constant) or ibp (interval bounds).",
    )
    margin: Literal["global", "pairwise", "lipsdp"] | None = setting(
        None,
        "Of lipschitz, how the slope of a difference of logits is bounded: global (one constant "
        "of all before the head), pairwise (each pair of classes by itself, through the last layer "
        "of vectors) or lipsdp (by a semidefinite program there, too: dense, of at most 250 "
        "neurons, with cvxpy). Each takes the least of its own and those before it. Default: "
        "pairwise.",
    )
    votes: AuditedVotes = AuditedVotes()


@dataclass(frozen=True, kw_only=True)
class Decide(Sampled):
    """Answer for test images whether the class holds within one radius, with few samples.

    Sampling stops as soon as the votes prove the radius ("certified") or make it unlikely that
    they ever will ("futile"), and at the latest after --n ("undecided"). Where the answer is
    clear that takes some hundred samples, while certify draws all to find the largest radius.

    Policies: verified, converged and truncated, whose votes may be judged at any time.
    """

    n0: int = setting(DECIDING, "Noise samples that select the class.", panel=NoiseSettings.PANEL)
    radius: float = setting(
        ..., "The l2 radius asked about, in units of images in [0, 1].", above(0), metavar="R"
    )


@dataclass(frozen=True)
class SmoothPredict:
    """Predict by the smoothed classifier: the class that most noisy copies vote for, or abstain.

    It abstains where the votes do not tell the first two classes apart at level --alpha; votes
    that are undecided count for the second. Policies: verified, converged and truncated.
    """

    run: Run
    files: list[Path] | None = setting(
        None,
        "PNG or JPEG files. Default: test images.",
        option="images",
        metavar="IMAGE...",
        argument=True,
    )
    images: ImagesToTest = ImagesToTest(limit=10)
    noise: NoiseSettings = NoiseSettings(n=1000)
    votes: Votes = Votes()
    json: bool = like(Predict, "json")
    machine: Machine = Machine()


@dataclass(frozen=True)
class Show:
    """Write a page in which a person sees how solvers reach the answer, and what is certified.

    One HTML file for any browser, which asks no network for anything: for each image the states
    under each solver, residuals by evaluations, the branch that continuation follows, the votes of
    noisy copies, and the certified radius with what it claims.
    """

    run: Run
    images: int = setting(10, "Test images to show, each class in its share.", at_least(1))
    solvers: Solvers = Solvers()
    noise: NoiseSettings = NoiseSettings(n=1000)
    policy: str | None = like(Votes, "policy")
    place: Place = Place()
    out: Path | None = setting(None, "The page to write. Default: RUN/page.html.", metavar="FILE")
    machine: Machine = Machine()


@dataclass(frozen=True)
class Attack:
    """Attack the classifier inside its certified l2 radii. A success is a false certificate.

    Projected gradient ascent looks for a point in each certified ball where the classifier that
    the run is about names another class; of a smoothed one fresh votes there tell. Exits with 1 if
    one is found.
    """

    run: Run
    certificates: Path = setting(..., "The folder that certify (or decide) wrote.", metavar="DIR")
    place: Place = Place()
    limit: int = setting(
        20, "Attack so many certificates, of the smallest radii first.", at_least(1), also="images"
    )
    attack_steps: int = setting(20, "Steps of an ascent.")
    restarts: int = setting(1, "Ascents an image.")
    draws: int = setting(32, "Noise draws that an ascent's gradient is the mean of.")
    votes: int = setting(1000, "Fresh noise samples that vote at the point found.")
    seed: int = setting(0, "Of the attack.")
    batch: int = setting(512, "Noisy images solved for at a time.", at_least(1))
    machine: Machine = Machine()


@dataclass(frozen=True)
class Report:
    """Put certification runs side by side in a Markdown table.

    Certified accuracy is the share of all images that are certified for their true class at the
    radius; an abstention counts as an error. Speed-ups are of the whole run: time, and
    evaluations of the map. The largest difference is that of certified accuracy at any radius.
    A run that has not ended is shown with the images that are done, and named so.
    """

    folders: list[Path] = setting(
        ..., "Folders that certify or decide wrote.", metavar="DIR...", argument=True
    )
    against: Path | None = setting(
        None,
        "A run of the same images and weights to compare each with, such as one of --policy "
        "converged --warm-start none.",
        metavar="DIR",
    )
    out: Path | None = setting(None, "Write the table to a file, too.", metavar="FILE")


@dataclass(frozen=True)
class PlotCertified:
    """Draw certified accuracy against radius, one curve a run, with binomial bands.

    A folder of several sigmas gives a curve each.
    """

    folders: list[Path] = setting(
        ..., "Folders that certify wrote.", metavar="DIR...", argument=True
    )
    out: Path | None = setting(
        None, "The picture (.png, .pdf, .svg). Default: DIR/certified.png.", metavar="FILE"
    )
    level: float = setting(
        0.95, "Confidence of the bands, which are of the sample of images.", between(0, 1)
    )
