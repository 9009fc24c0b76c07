"""Figures. Each function returns one, and `save` writes it; nothing is shown."""

from .branch import branch_figure, largest, rms
from .certified import certified_figure
from .collapse import collapse_figure
from .comparison import comparison_figure
from .convergence import convergence_figure, tradeoff_figure
from .diagnosis import diagnosis_figure
from .paths import path_figure, plane, project, residual_figure
from .style import save
from .training import training_figure

__all__ = [
    "branch_figure",
    "certified_figure",
    "collapse_figure",
    "comparison_figure",
    "convergence_figure",
    "diagnosis_figure",
    "largest",
    "path_figure",
    "plane",
    "project",
    "residual_figure",
    "rms",
    "save",
    "tradeoff_figure",
    "training_figure",
]
