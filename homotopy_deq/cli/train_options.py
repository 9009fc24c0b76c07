"""The options of train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

Text = Optional[str]  # noqa: UP045  (typer reads it under Python 3.10 too)
Whole = Optional[int]  # noqa: UP045
Real = Optional[float]  # noqa: UP045
RECIPE = "Default: the data set's recipe (homotopy-deq info)."
MODEL, TRAINING, RUN = "What is trained", "How it is trained", "The run"
Model = Annotated[
    Text,
    typer.Option(
        help="homoode, deq, neural-ode, augmented-neural-ode or monotone. Default: homoode.",
        rich_help_panel=MODEL,
    ),
]
Dataset = Annotated[
    Text,
    typer.Option(
        help="digits (built in), mnist, fashion-mnist, cifar10, cifar100, svhn, or "
        "imagefolder for your own. Default: digits.",
        rich_help_panel=MODEL,
    ),
]
Download = Annotated[
    bool, typer.Option("--download", help="Fetch the data set into --data if it is missing.")
]
Limit = Annotated[
    Whole, typer.Option(help="Use so many train images, validation included. Default: all.")
]
ImageSize = Annotated[
    Whole, typer.Option(help="imagefolder: side in pixels. Default: 64, or as they are.")
]
RestPoint = Annotated[
    Optional[bool],  # noqa: UP045
    typer.Option(
        "--rest-point/--no-rest-point",
        help="homoode: dz/dt = f(z; x) - z, which rests at an equilibrium, or dz/dt = f(z; x) "
        "as published. Default: --rest-point.",
        rich_help_panel=MODEL,
        show_default=False,
    ),
]
Contraction = Annotated[
    Real,
    typer.Option(
        help="deq, homoode: ||W|| in (0, 1) of a cell relu(W z + x), whose votes certify can "
        "verify. Default: the published cell.",
        rich_help_panel=MODEL,
    ),
]
Monotonicity = Annotated[
    Real,
    typer.Option(
        help="monotone: m in (0, 1] of I - W >= m I. Default: 0.1.", rich_help_panel=MODEL
    ),
]
Kernel = Annotated[
    Whole,
    typer.Option(
        min=0,
        help="monotone, or with --contraction: side of the cell's kernel; 0 for a state that "
        "is a vector of --hidden numbers (then 128). Default: 3.",
        rich_help_panel=MODEL,
    ),
]
Hidden = Annotated[
    Whole, typer.Option(help=f"Channels of the state. {RECIPE}", rich_help_panel=MODEL)
]
Head = Annotated[Whole, typer.Option(help=f"Channels of the head. {RECIPE}", rich_help_panel=MODEL)]
Pool = Annotated[
    Whole,
    typer.Option(help=f"Side of the head's pooling grid. {RECIPE}", rich_help_panel=MODEL),
]
Groups = Annotated[
    Whole, typer.Option(help=f"GroupNorm groups at most. {RECIPE}", rich_help_panel=MODEL)
]
Dropout = Annotated[
    Real,
    typer.Option(
        help=f"Probability of dropping a channel, one mask a solve. {RECIPE}",
        rich_help_panel=MODEL,
    ),
]
Solver = Annotated[
    Text,
    typer.Option(
        help="Forward pass: anderson, ..., or a method of torchdiffeq (homotopy-deq info "
        "lists them). Default: rk4 for homoode, anderson for deq, else dopri5.",
        rich_help_panel=MODEL,
    ),
]
Gradient = Annotated[
    Text,
    typer.Option(
        help="implicit, phantom (of an equilibrium), unroll or adjoint (of a flow). "
        "Default: implicit for an equilibrium, unroll for a flow.",
        rich_help_panel=MODEL,
    ),
]
BackwardRtol = Annotated[
    Real,
    typer.Option(
        help="Relative tolerance of the implicit gradient's linear solve. Default: 1e-6, with "
        "bf16 1e-2.",
        rich_help_panel=MODEL,
    ),
]
Epochs = Annotated[
    Whole,
    typer.Option(help="Passes over the images. Default: 10.", rich_help_panel=TRAINING),
]
Batch = Annotated[Whole, typer.Option(help="Images a step. Default: 64.", rich_help_panel=TRAINING)]
Lr = Annotated[
    Real,
    typer.Option(help=f"Adam's first learning rate. {RECIPE}", rich_help_panel=TRAINING),
]
FinalLr = Annotated[
    Real,
    typer.Option(help="Its last one, along a cosine. Default: 1e-6.", rich_help_panel=TRAINING),
]
StartLr = Annotated[
    Real,
    typer.Option(
        help=f"SGD's learning rate for the initial point. {RECIPE}", rich_help_panel=TRAINING
    ),
]
StartEvery = Annotated[
    Whole,
    typer.Option(
        help=f"Steps between two of the initial point. {RECIPE}", rich_help_panel=TRAINING
    ),
]
Validation = Annotated[
    Real,
    typer.Option(
        help="Share of the train images that chooses the best epoch. Default: 0.1.",
        rich_help_panel=TRAINING,
    ),
]
ResidualPenalty = Annotated[
    Real,
    typer.Option(
        help="Weight of the squared relative residual at the end of the flow, which draws it "
        f"to the equilibrium. {RECIPE}",
        rich_help_panel=TRAINING,
    ),
]
JacobianPenalty = Annotated[
    Real,
    typer.Option(
        help="Weight of ||df/dz||_F^2 a dimension at the answer. Default: 0.",
        rich_help_panel=TRAINING,
    ),
]
Flip = Annotated[
    Real,
    typer.Option(help=f"Probability of mirroring. {RECIPE}", rich_help_panel=TRAINING),
]
Pad = Annotated[
    Whole,
    typer.Option(
        help=f"Pixels of padding before a random crop. {RECIPE}", rich_help_panel=TRAINING
    ),
]
Precision = Annotated[
    Text,
    typer.Option(
        help="no (float32) or bf16 (bfloat16 autocast). Default: no.", rich_help_panel=TRAINING
    ),
]
Seed = Annotated[
    Whole,
    typer.Option(
        help="Of weights, split, order, augmentation, dropout. Default: 0.",
        rich_help_panel=TRAINING,
    ),
]
Out = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        metavar="DIR",
        help="Folder for checkpoint, metrics and TensorBoard logs. Default: runs/MODEL-DATASET.",
        rich_help_panel=RUN,
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on with the run in --out, to the same bits as if it had never stopped; with more "
        "--epochs than it had, on to the new end, with learning rates that start again.",
        rich_help_panel=RUN,
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Discard the run in --out.", rich_help_panel=RUN),
]
SaveEvery = Annotated[
    float,
    typer.Option(
        min=0,
        help="Seconds between checkpoints within an epoch; 0 saves after each batch.",
        rich_help_panel=RUN,
    ),
]

SMOOTHING = "Training for certification by randomized smoothing"

Noise = Annotated[
    Real,
    typer.Option(
        metavar="SIGMA",
        help="Train under Gaussian noise of this standard deviation, in units of images in "
        "[0, 1]. Validation is under noise too, so that the best epoch is that of what will be "
        "certified. Default: none.",
        rich_help_panel=SMOOTHING,
    ),
]
NoiseSamples = Annotated[
    Whole,
    typer.Option(
        metavar="M",
        help="Draws of noise an image and step. Default: 1, with --consistency 2.",
        rich_help_panel=SMOOTHING,
    ),
]
AdversarySteps = Annotated[
    Whole,
    typer.Option(
        metavar="K",
        help="SmoothAdv: learn from images that K steps of an attack on the smoothed classifier "
        "have moved; each step costs a solve and its gradient. Default: 0.",
        rich_help_panel=SMOOTHING,
    ),
]
AdversaryRadius = Annotated[
    Real,
    typer.Option(
        metavar="EPS",
        help="Radius of that attack's l2 ball, in units of images in [0, 1]. Default: 0.",
        rich_help_panel=SMOOTHING,
    ),
]
Consistency = Annotated[
    Real,
    typer.Option(
        metavar="LAMBDA",
        help="Weight of the divergence between predictions under different noise. Default: 0.",
        rich_help_panel=SMOOTHING,
    ),
]
ConsistencyEntropy = Annotated[
    Real,
    typer.Option(
        metavar="ETA",
        help="With --consistency, weight of the entropy of the mean prediction. Default: 0.5.",
        rich_help_panel=SMOOTHING,
    ),
]
