"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

RunArgument = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run's folder, or its checkpoint file.")
]
Data = Annotated[
    Optional[Path],  # noqa: UP045  (typer reads it under Python 3.10 too)
    typer.Option(
        metavar="DIR",
        help="Folder (or zip file) to look for the images in. Default: where the run found "
        "them, else ./data.",
    ),
]
Limit = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(min=1, help="Use so many test images, each class in its share. Default: all."),
]
Solvers = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--solver",
        help="Forward pass, to be given once or more: a fixed-point or continuation solver "
        "(anderson, newton-krylov, continuation, ...), a method of torchdiffeq (dopri5, rk4, "
        "...), or several joined by + (rk4+anderson). `homotopy-deq info` lists them. "
        "Default: that of the training.",
    ),
]
Rtol = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(
        help="Relative tolerance: of the residual ||f(z) - z|| / ||f(z)||, or of a flow's local "
        "error. Default: the solver's, 1e-4 or 1e-3; 1e-2 for equilibria trained in bf16."
    ),
]
Atol = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(help="Absolute tolerance. Default: the solver's, 0 or 1e-3."),
]
MaxSteps = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(help="Solver steps at most. Default: the solver's."),
]
StepSize = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(
        help="Step in t of methods without error control (rk4, euler, ...). Default: 1 towards "
        "a rest point (explicit_adams and the like: 0.1), else 0.1. Of forward-backward, "
        "peaceman-rachford and douglas-rachford: alpha; default: of the best proved rate."
    ),
]
Horizon = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(help="Time t at which a flow ends. Default: the model's."),
]
Batch = Annotated[int, typer.Option(min=1, help="Images solved for at a time.")]
Cpu = Annotated[bool, typer.Option("--cpu", help="Use the CPU even where there is a GPU.")]
Threads = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        min=1, help="CPU threads. Default: PyTorch's choice, or OMP_NUM_THREADS where it is set."
    ),
]
