"""The options of train that train for certification."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

PANEL = "Training for certification by randomized smoothing"

Noise = Annotated[
    Optional[float],  # noqa: UP045  (typer reads it under Python 3.10 too)
    typer.Option(
        metavar="SIGMA",
        help="Train under Gaussian noise of this standard deviation, in units of images in "
        "[0, 1]. Validation is under noise too, so that the best epoch is that of what will be "
        "certified. Default: none.",
        rich_help_panel=PANEL,
    ),
]
NoiseSamples = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        metavar="M",
        help="Draws of noise an image and step. Default: 1, with --consistency 2.",
        rich_help_panel=PANEL,
    ),
]
AdversarySteps = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        metavar="K",
        help="SmoothAdv: learn from images that K steps of an attack on the smoothed classifier "
        "have moved; each step costs a solve and its gradient. Default: 0.",
        rich_help_panel=PANEL,
    ),
]
AdversaryRadius = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(
        metavar="EPS",
        help="Radius of that attack's l2 ball, in units of images in [0, 1]. Default: 0.",
        rich_help_panel=PANEL,
    ),
]
Consistency = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(
        metavar="LAMBDA",
        help="Weight of the divergence between predictions under different noise. Default: 0.",
        rich_help_panel=PANEL,
    ),
]
ConsistencyEntropy = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(
        metavar="ETA",
        help="With --consistency, weight of the entropy of the mean prediction. Default: 0.5.",
        rich_help_panel=PANEL,
    ),
]
