"""What is proved of a model without any samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...certification import PROVERS, Certificate, LipschitzProver, Prover
from ...certification.journal import SLOPE
from ...settings import NoiseSettings, Votes
from ...settings.declare import leaves, values
from ..command import option
from ..trained import Trained
from .options import Certify
from .study import Study, check_weights
from .work import Answer, Part, journal_of

TOGETHER = 256
LOOKED = 4
"""Images at which a slope of the logits is looked for."""


@dataclass(frozen=True)
class Proved(Part):
    """The images, certified by a proof.

    Arguments:
        prover: the proof.
        batch: images at a time.
    """

    prover: Prover
    batch: int = TOGETHER

    @property
    def name(self) -> str:
        return self.journal.config["bound"]  # type: ignore[no-any-return]

    @property
    def together(self) -> int:
        return self.batch

    def look(self) -> None:
        """Look for the steepest difference of two logits, to be shown beside what is proved."""
        if isinstance(self.prover, LipschitzProver) and self.journal.kept(SLOPE) is None:
            count = min(LOOKED, len(self.study.indices))
            found, proved = self.prover.tightness(self.study.images(range(count)))
            self.journal.keep(SLOPE, {"found": found, "proved": proved})

    def remarks(self) -> list[tuple[str, str]]:
        slope = self.journal.kept(SLOPE)
        if slope is None:
            return []
        said = "slope of a difference of logits, proved", "  found by search (no certificate)"
        return [(said[0], f"{slope['proved']:.3g}"), (said[1], f"{slope['found']:.3g}")]

    def begin(self, advance: Callable[[int], None]) -> Answer:
        def answer(places: Sequence[int]) -> list[Certificate]:
            of = [[each[k] for k in places] for each in (self.study.labels, self.study.indices)]
            return self.prover.certify_all(self.study.images(places), *of)

        return answer


def proved(chosen: Certify, out: Path) -> Proved:
    """Load what the options name.

    Raises:
        FileNotFoundError, ValueError: as in `Study.of`; an option is of sampling; or the model has
            no such proof, and which of its parts is in the way.
    """
    given = values(chosen)
    for leaf in leaves(Certify):
        of_votes = (
            leaf.about["panel"] in (NoiseSettings.PANEL, Votes.PANEL) and leaf.name != "batch"
        )
        if of_votes and given[leaf.name] != leaf.default:
            raise ValueError(
                f"{option(leaf.name)} is of --method smoothing; {chosen.method} takes no samples."
            )
    trained = Trained.of(chosen.run.path)
    check_weights(trained.model)
    kind = PROVERS[chosen.method]
    kind(trained.model.network(), trained.model.shape)  # what is refused is so before data are read
    study = Study.of(trained, chosen.images, skip=chosen.skip, cpu=chosen.machine.cpu)
    prover = kind(study.model.network(), study.model.shape)
    config = {"command": "certify", **study.identity, "bound": chosen.method}
    journal = journal_of(study, out, config)
    return Proved(study, journal, prover, chosen.votes.batch or TOGETHER)
