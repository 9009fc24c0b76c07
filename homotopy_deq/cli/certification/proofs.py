"""What is proved of a model without any samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...certification import PROVERS, Certificate, LipschitzProver, Prover
from ...certification.journal import SLOPE
from ...lipschitz import Margin
from ...settings import NoiseSettings, Votes
from ...settings.declare import leaves, values
from ..command import option
from ..trained import Trained
from .options import Certify
from .study import Study, check_weights, processes_of
from .work import Part

TOGETHER = 256
LOOKED = 4
"""Images at which a slope of the logits is looked for."""


def proved(chosen: Certify, out: Path) -> tuple[Part, Prover]:
    """Return the work that the options name, and the proof.

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
    model = trained.model.to(processes_of(chosen.machine.cpu).device)
    # Before data are read: what has no proof is refused so early, and no proof is made twice.
    what: dict[str, Any] = {"bound": chosen.method}
    how = {"margin": Margin(chosen.margin or "pairwise")} if chosen.method == "lipschitz" else {}
    try:
        prover = PROVERS[chosen.method](model.network(), model.shape, **how)
    except ImportError as error:
        raise ValueError(f"--margin {chosen.margin}: {error}") from error
    study = Study.of(trained, chosen.images, skip=chosen.skip, cpu=chosen.machine.cpu)
    together = chosen.votes.batch or TOGETHER
    what |= {"batch": together, **{name: value.value for name, value in how.items()}}
    config = {"command": "certify", **study.identity, **what}
    journal = study.journal(out, config)

    def look() -> None:  # for the steepest difference of two logits, to stand beside the proof
        if isinstance(prover, LipschitzProver) and journal.kept(SLOPE) is None:
            few = study.images(range(min(LOOKED, len(study.indices))))
            journal.keep(SLOPE, dict(zip(("found", "proved"), prover.tightness(few), strict=True)))

    def certified(places: Sequence[int]) -> list[Certificate]:
        of = [[each[k] for k in places] for each in (study.labels, study.indices)]
        return prover.certify_all(study.images(places), *of)

    return Part(study, journal, look, lambda advance: certified, together=together), prover
