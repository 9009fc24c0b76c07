"""homotopy-deq theory nngp"""

from __future__ import annotations

from ...plotting.nngp import nngp_figures
from ...theory.studies import NNGPStudy
from .options import NNGP
from .run import run


def command(chosen: NNGP) -> None:
    """Hold finite DEQs against their limit of infinite width."""
    study = NNGPStudy(chosen.images, chosen.networks, seed=chosen.kept.seed)
    run(study, chosen.kept, chosen.machine, nngp_figures)
