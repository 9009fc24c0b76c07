"""Options of the commands that sample the smoothed classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

NOISE, VOTES, RUN = "The noise", "Which votes count, and what they cost", "The run"

Sigmas = Annotated[
    Optional[list[float]],  # noqa: UP045  (typer reads it under Python 3.10 too)
    typer.Option(
        "--sigma",
        metavar="SIGMA",
        help="Standard deviation of the noise, in units of images in [0, 1]; once or more, each "
        "into a folder of its own. Default: the --noise of the training.",
        rich_help_panel=NOISE,
    ),
]
N = Annotated[
    int,
    typer.Option(
        "--n",
        "--samples",  # torchrun takes --n for the start of an option of its own
        help="Noise samples an image to estimate with. Under torchrun write --samples.",
        rich_help_panel=NOISE,
    ),
]
N0 = Annotated[
    int,
    typer.Option("--n0", help="Noise samples that select the class.", rich_help_panel=NOISE),
]
Alpha = Annotated[
    float,
    typer.Option(
        help="Probability, at most, that an image's certificate is wrong.", rich_help_panel=NOISE
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        help="Of the noise: each sample is a function of it, the image and its number, whatever "
        "the batch, the processes and the interruptions.",
        rich_help_panel=NOISE,
    ),
]
PolicyName = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--policy",
        help="verified (count what a bound proves of the exact equilibrium), converged (count "
        "what is solved to the tolerance), audited (short solves, a random part done again in "
        "full) or truncated (certify the network of --steps steps itself). Default: verified where "
        "the model qualifies, else converged.",
        rich_help_panel=VOTES,
    ),
]
WarmStart = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        help="Where a sample's solve starts: none (the model's own start), clean (the image's "
        "equilibrium), tangent (its first-order prediction), serial (where the batch before "
        "ended) or along:T (the image's own path at time T). Default: the policy's: serial for "
        "audited, one from the clean image for verified, else none.",
        rich_help_panel=VOTES,
    ),
]
Steps = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        metavar="S",
        help="Solver steps of truncated and audited. Default: 3.",
        rich_help_panel=VOTES,
    ),
]
Audit = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        metavar="K",
        help="Samples that audited solves again in full. Default: 1000.",
        rich_help_panel=VOTES,
    ),
]
Solver = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        help="Forward pass, as in evaluate. It is part of what converged, audited and truncated "
        "certify; verified certifies the exact equilibrium, by whatever solver evaluates the map "
        "at its iterates. Default: that of the training; for verified anderson.",
        rich_help_panel=VOTES,
    ),
]
Batch = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        min=1,
        help="Noise samples solved for at a time. Default: by the size of a state, 100 to 4000.",
        rich_help_panel=VOTES,
    ),
]
Deterministic = Annotated[
    bool,
    typer.Option(
        "--deterministic",
        help="Solve in blocks of 64 whatever --batch says, so that rounding, too, is the same for "
        "every batch size. Slower on a GPU.",
        rich_help_panel=VOTES,
    ),
]
Discrete = Annotated[
    bool,
    typer.Option(
        "--discrete",
        help="Round noise to whole steps of 1/255, as 8-bit images are: no rounding of sums then "
        "stands between the sampled and the certified classifier. Certifies the classifier that "
        "rounds its input so.",
        rich_help_panel=NOISE,
    ),
]
Skip = Annotated[
    int, typer.Option(min=0, help="Leave out so many of the first images of that order.")
]
Out = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        metavar="DIR",
        help="Folder to write to. Default: a folder in RUN named after command and policy.",
        rich_help_panel=RUN,
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on with what --out holds; ends with the bytes of a run that never stopped.",
        rich_help_panel=RUN,
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Discard what --out holds.", rich_help_panel=RUN)
]
