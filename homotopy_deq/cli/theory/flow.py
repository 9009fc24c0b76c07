"""homotopy-deq theory flow"""

from __future__ import annotations

from ...plotting.gradient_flow import flow_figures
from ...theory.studies import FlowStudy
from .options import Flow
from .run import run


def command(chosen: Flow) -> None:
    """Measure the gradient flow of scalar DEQs."""
    study = FlowStudy(epochs=chosen.epochs, seed=chosen.kept.seed)
    run(study, chosen.kept, chosen.machine, flow_figures)
