"""What noise samples are voted on by: the policy and the noise that the options name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ...certification import (
    Certificate,
    Clean,
    Cold,
    Journal,
    Policy,
    Smoother,
    Smoothing,
    Tangent,
    Verified,
)
from ...certification.alone import IMAGES, Alone
from ...certification.journal import ALONE
from ...certification.proof import iteration
from ...certification.requirements import state_size
from ...data import ImageData
from ...models import ImageModel
from ...settings import NoiseSettings, Settings, Votes
from .. import names
from ..options import ImagesToTest
from ..report import warn
from ..resolve import pass_of
from ..trained import Trained
from .study import Study, check_weights
from .work import Answer, Part

PAYS = 256
"""Largest state for which the tangent start is the default: beyond, its products with an n x n
matrix cost more than the evaluations that they save. Of 512 numbers, a contractive and a monotone
model took 10 to 30% longer from there than from the clean state, in turn."""
ROOM = 2**19
"""Numbers of a batch of states, where the batch is not given; it holds 100 to 4000 samples."""


@dataclass(frozen=True)
class Poll:
    """A study whose certificates follow from votes.

    Arguments:
        study: the model, with the forward pass that votes, and the images.
        policy: sound for the model.
        name: of the policy.
        identity: JSON of all this, for a journal.
    """

    study: Study
    policy: Policy
    name: str
    identity: dict[str, Any]

    @classmethod
    def of(
        cls,
        trained: Trained,
        votes: Votes,
        images: ImagesToTest,
        *,
        skip: int = 0,
        audit: int | None = None,
        cpu: bool = False,
        few: bool = False,
        data: ImageData | None = None,
    ) -> Poll:
        """Load what the options name.

        Arguments:
            trained: the model.
            votes: which count.
            images: see `Study.of`.
            skip: see `Study.of`.
            audit: samples that are solved again, where the policy does so.
            cpu: see `Study.of`.
            few: whether an image has too few samples for the matrix of the tangent start to pay.
            data: see `Study.of`.

        Raises:
            FileNotFoundError, ValueError: as in `Study.of`, or the policy is not sound for the
                model; says what to do.
        """
        model = trained.model
        check_weights(model)
        name = votes.policy or ("verified" if model.verifiable else "converged")
        policy = names.policy_by(name, votes.warm_start, steps=votes.steps, audit=audit)
        path = _path(trained.settings, votes, policy)
        model = path.put(model)
        policy = _with_start(_with_solver(policy, model, votes), model, votes, few)
        policy.check(model)
        study = Study.of(trained, images, model=model, skip=skip, cpu=cpu, data=data)
        voting = {
            "path": asdict(path),
            "layer": [described(model.layer.solver), None],
            "policy": {"name": name, **described(policy)},
        }
        return cls(study, policy, name, {**study.identity, **voting})

    def smoothings(
        self, noise: NoiseSettings, batch: int | None, **settings: Any
    ) -> list[Smoothing]:
        """Return the noise of each sigma, by default that of the training.

        Raises:
            ValueError: there is none, one is given twice, or a number is out of range.
        """
        trained = self.study.settings.training.smoothing
        chosen = list(noise.sigmas or ([] if trained is None else [trained.noise]))
        if not chosen:
            raise ValueError(
                "the model was trained without noise, so there is no default for --sigma: give "
                "--sigma, such as --sigma 0.25 (and train with --noise 0.25 to certify more)."
            )
        if len(set(chosen)) < len(chosen):
            raise ValueError(f"--sigma: each once; got {', '.join(map(str, chosen))}.")
        given = {k: v for k, v in asdict(noise).items() if k != "sigmas"}
        room = max(100, min(4000, ROOM // self.study.size))
        settings |= {**given, "batch": batch or room}
        found = [Smoothing(sigma=sigma, **settings) for sigma in chosen]
        audit = getattr(self.policy, "audit", 0)
        if audit > noise.n:
            raise ValueError(
                f"--audit {audit} is more than --n {noise.n}: no more samples can be solved "
                "again than were drawn."
            )
        return found

    def parts(
        self, smoothings: Sequence[Smoothing], out: Path, command: str, radius: float | None = None
    ) -> list[Part]:
        """Return the work under each noise, in OUT or where there are several OUT/sigma-0.25, ...

        Arguments:
            smoothings: the noise.
            out: the folder.
            command: what is done.
            radius: the one that is decided on, or None for the largest that is proved.
        """
        config = {"command": command, **({} if radius is None else {"radius": radius})}
        found = []
        for smoothing in smoothings:
            folder = out / f"sigma-{smoothing.sigma!r}" if len(smoothings) > 1 else out
            noise = {"smoothing": deciding(smoothing)}
            journal = self.study.journal(folder, {**config, **self.identity, **noise})
            look = partial(self._look, smoothing, journal)
            begin = partial(self._begin, smoothing, radius)
            together = 1 if radius is None else smoothing.together
            found.append(Part(self.study, journal, look, begin, smoothing, together))
        return found

    def _look(self, smoothing: Smoothing, journal: Journal) -> None:
        """Solve some noise samples alone, and warn where they vote otherwise."""
        if self.policy.proven or journal.kept(ALONE) is not None:
            return
        smoother, study = Smoother(self.study.model, self.policy, smoothing), self.study
        first = range(min(IMAGES, len(study.indices)))
        found = Alone.of(smoother, ((study.image(k), study.indices[k]) for k in first))
        journal.keep(ALONE, asdict(found))
        if found.disagreements:
            warn(
                f"{found}: this model's answer depends on rounding, as it does between several "
                "equilibria. The certificates are about the network at this batch size; votes of "
                "--policy verified depend on no batch (--contraction, or a monotone model)."
            )

    def _begin(
        self, smoothing: Smoothing, radius: float | None, advance: Callable[[int], None]
    ) -> Answer:
        study = self.study
        smoother = Smoother(study.model, self.policy, smoothing, advance)

        def certified(places: Sequence[int]) -> Iterator[Certificate]:
            labels, indices = ([of[k] for k in places] for of in (study.labels, study.indices))
            images = study.images(places)
            if radius is None:
                every = zip(images, labels, indices, strict=True)
                return (smoother.certify(image, label, index) for image, label, index in every)
            return smoother.decide_all(images, labels, indices, radius)

        return certified


def deciding(smoothing: Smoothing) -> dict[str, Any]:
    """Return those settings of the noise on which results depend.

    The batch is one of them only unless `deterministic`: a chain of starts goes from batch to
    batch, and for any start another batch may round otherwise, and a vote at a tie tip over.
    """
    found = asdict(smoothing)
    if smoothing.deterministic:
        del found["batch"]
    return found


def described(value: object) -> Any:
    """Return a frozen dataclass as JSON: what it is, and its fields."""
    if is_dataclass(value) and not isinstance(value, type):
        own = {field.name: described(getattr(value, field.name)) for field in fields(value)}
        return {"is": type(value).__name__, **own}
    if isinstance(value, (tuple, list)):
        return [described(each) for each in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return getattr(value, "__qualname__", type(value).__name__)


def _path(settings: Settings, votes: Votes, policy: Policy) -> names.Pass:
    """Return the forward pass; the exact equilibrium is found by Anderson along a flow, too."""
    given = {"rtol": votes.rtol, "max_steps": votes.max_steps}
    path = pass_of(settings, votes.solver, **given)
    if not isinstance(policy, Verified) or path.at_root:
        return path
    if votes.solver is not None:
        raise ValueError(
            f"policy verified looks for the equilibrium, and --solver {votes.solver} ends a flow "
            f"before it: leave --solver out, or use {votes.solver}+anderson."
        )
    return pass_of(settings, "anderson", **given)


def _with_solver(policy: Policy, model: ImageModel, votes: Votes) -> Policy:
    """Return the policy with the solver that the options give it, if it has one of its own."""
    if not isinstance(policy, Verified):
        return policy
    if votes.solver is not None:
        return replace(policy, solver=model.layer.solver)
    if not (model.layer.one_equation and model.verifiable):
        return policy  # of no meaning, or refused
    limits = {"rtol": votes.rtol, "max_steps": votes.max_steps}
    given: dict[str, Any] = {k: v for k, v in limits.items() if v is not None}
    solver, _ = iteration(model.bounds())
    return replace(policy, solver=replace(solver, **given))


def _with_start(policy: Policy, model: ImageModel, votes: Votes, few: bool) -> Policy:
    """Return the policy with another start than the tangent where that is default and too dear."""
    if votes.warm_start is not None or not isinstance(policy.start, Tangent):
        return policy
    if not model.layer.one_equation:
        return replace(policy, start=Cold())
    dear = few or state_size(model) > PAYS
    return replace(policy, start=Clean()) if dear else policy
