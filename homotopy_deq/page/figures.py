"""What the page shows of each image: plain numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Point = tuple[float, float]


@dataclass(frozen=True)
class Way:
    """How a solver went to its answer.

    Arguments:
        solver: its name.
        status: why it stopped, the name of a `Status`.
        succeeded: whether that is what was wanted of it.
        prediction: the class of its answer, None where its logits are not finite.
        probability: that the model gives this class.
        evaluations: that the solve took.
        residual: ||f(z) - z|| / ||f(z)|| at the answer; None where there is none.
        tolerance: on the residual; None of a flow, which ends at its t1.
        evals: made when each state was reached.
        residuals: of the states.
        points: the states in the plane.
        lam: lambda of the states of a continuation, else none.
    """

    solver: str
    status: str
    succeeded: bool
    prediction: int | None
    probability: float | None
    evaluations: int
    residual: float | None
    tolerance: float | None
    evals: tuple[int, ...]
    residuals: tuple[float | None, ...]
    points: tuple[Point, ...]
    lam: tuple[float, ...]


@dataclass(frozen=True)
class Equilibrium:
    """The answer that the best solver's was polished to.

    Arguments:
        point: in the plane.
        residual: as in `Way`.
        prediction: its class.
    """

    point: Point
    residual: float
    prediction: int


@dataclass(frozen=True)
class Branch:
    """The roots of z = z0 + lambda (f(z) - z0).

    Arguments:
        lam: of the roots.
        points: the roots in the plane.
        folds: lambda and the first coordinate of each place where the branch turns back.
        status: why it ends, the name of a `Status`.
        evaluations: that following it took, products with the Jacobian included.
    """

    lam: tuple[float, ...]
    points: tuple[Point, ...]
    folds: tuple[Point, ...]
    status: str
    evaluations: int


@dataclass(frozen=True)
class Votes:
    """What noisy copies of an image voted for.

    Arguments:
        sigma: standard deviation of the noise, in units of images in [0, 1].
        n: how many voted.
        counts: for each class.
        undecided: for none.
        selected: the class that was voted on, chosen by `n0` other samples.
        n0: as said.
    """

    sigma: float
    n: int
    counts: tuple[int, ...]
    undecided: int
    selected: int
    n0: int


@dataclass(frozen=True)
class Certificate:
    """What is claimed of an image.

    Arguments:
        prediction: the class, None for an abstention.
        radius: within which it holds; 0 for an abstention.
        norm: that the radius is in.
        alpha: probability, at most, that the claim is false; None where it is certain.
        about: the classifier that it is about.
        votes: that it follows from, None of a proof without noise.
    """

    prediction: int | None
    radius: float
    norm: str
    alpha: float | None
    about: str
    votes: Votes | None


@dataclass(frozen=True)
class Picture:
    """An image and all that is shown of it.

    Arguments:
        index: in the test set.
        label: its class.
        png: the image as a data URI.
        ways: of the solvers; of all of them, or of none where the model has no one path.
        equilibrium: None where no solver found one, or there is none.
        branch: None where the model has no equilibria.
        certificates: what is claimed of it.
    """

    index: int
    label: int
    png: str
    ways: tuple[Way, ...]
    equilibrium: Equilibrium | None
    branch: Branch | None
    certificates: tuple[Certificate, ...]


@dataclass(frozen=True)
class Page:
    """All that the page shows.

    Arguments:
        run: where the model is from.
        model: its name.
        dataset: the name of its images.
        classes: their names.
        trained_with: the name of its own forward pass.
        accuracy: on the test images; None where it was not measured.
        version: of this library.
        told: what is to be said of a part that is not there, by its name: "paths", "residuals",
            "certificates"; and of the noise, "noise".
        pictures: the images.
    """

    run: str
    model: str
    dataset: str
    classes: tuple[str, ...]
    trained_with: str
    accuracy: float | None
    version: str
    told: Mapping[str, str]
    pictures: tuple[Picture, ...]
