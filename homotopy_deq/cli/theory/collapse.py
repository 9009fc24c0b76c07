"""homotopy-deq theory collapse"""

from __future__ import annotations

from ...plotting.collapse import collapse_figures
from ...theory.studies import CollapseStudy
from .options import Collapse
from .run import run


def command(chosen: Collapse) -> None:
    """Measure neural collapse of ideal and of trained networks."""
    study = CollapseStudy(
        steps=chosen.steps, ratio=chosen.ratio, seeds=chosen.networks, seed=chosen.kept.seed
    )
    run(study, chosen.kept, chosen.machine, collapse_figures)
