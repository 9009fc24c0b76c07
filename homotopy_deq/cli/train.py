"""homotopy-deq train"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from ..training import Bar, accelerator_for, check_folder, load_checkpoint, train
from . import certified, options
from .report import console, failing, residual
from .spec import Spec, conflicts, find_checkpoint, resolve, spec_of

Text = Optional[str]  # noqa: UP045  (typer reads it under Python 3.10 too)
Whole = Optional[int]  # noqa: UP045
Real = Optional[float]  # noqa: UP045
RECIPE = "Default: the data set's recipe (homotopy-deq info)."
MODEL, TRAINING, RUN = "What is trained", "How it is trained", "The run"


@failing
def command(
    model: Annotated[
        Text,
        typer.Option(
            help="homoode, deq, neural-ode, augmented-neural-ode or monotone. Default: homoode.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    dataset: Annotated[
        Text,
        typer.Option(
            help="digits (built in), mnist, fashion-mnist, cifar10, cifar100, svhn, or "
            "imagefolder for your own. Default: digits.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    data: options.Data = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch the data set into --data if it is missing.")
    ] = False,
    limit: Annotated[
        Whole, typer.Option(help="Use so many train images, validation included. Default: all.")
    ] = None,
    test_limit: options.Limit = None,
    image_size: Annotated[
        Whole, typer.Option(help="imagefolder: side in pixels. Default: 64, or as they are.")
    ] = None,
    rest_point: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option(
            "--rest-point/--no-rest-point",
            help="homoode: dz/dt = f(z; x) - z, which rests at an equilibrium, or dz/dt = f(z; x) "
            "as published. Default: --rest-point.",
            rich_help_panel=MODEL,
            show_default=False,
        ),
    ] = None,
    horizon: options.Horizon = None,
    contraction: Annotated[
        Real,
        typer.Option(
            help="deq, homoode: ||W|| in (0, 1) of a cell relu(W z + x), whose votes certify can "
            "verify. Default: the published cell.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    monotonicity: Annotated[
        Real,
        typer.Option(
            help="monotone: m in (0, 1] of I - W >= m I. Default: 0.1.", rich_help_panel=MODEL
        ),
    ] = None,
    kernel: Annotated[
        Whole,
        typer.Option(
            min=0,
            help="monotone, or with --contraction: side of the cell's kernel; 0 for a state that "
            "is a vector of --hidden numbers (then 128). Default: 3.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    hidden: Annotated[
        Whole, typer.Option(help=f"Channels of the state. {RECIPE}", rich_help_panel=MODEL)
    ] = None,
    head: Annotated[
        Whole, typer.Option(help=f"Channels of the head. {RECIPE}", rich_help_panel=MODEL)
    ] = None,
    pool: Annotated[
        Whole,
        typer.Option(help=f"Side of the head's pooling grid. {RECIPE}", rich_help_panel=MODEL),
    ] = None,
    groups: Annotated[
        Whole, typer.Option(help=f"GroupNorm groups at most. {RECIPE}", rich_help_panel=MODEL)
    ] = None,
    dropout: Annotated[
        Real,
        typer.Option(
            help=f"Probability of dropping a channel, one mask a solve. {RECIPE}",
            rich_help_panel=MODEL,
        ),
    ] = None,
    solver: Annotated[
        Text,
        typer.Option(
            help="Forward pass: anderson, ..., or a method of torchdiffeq (homotopy-deq info "
            "lists them). Default: rk4 for homoode, anderson for deq, else dopri5.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    rtol: options.Rtol = None,
    atol: options.Atol = None,
    max_steps: options.MaxSteps = None,
    step_size: options.StepSize = None,
    gradient: Annotated[
        Text,
        typer.Option(
            help="implicit, phantom (of an equilibrium), unroll or adjoint (of a flow). "
            "Default: implicit for an equilibrium, unroll for a flow.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    backward_rtol: Annotated[
        Real,
        typer.Option(
            help="Relative tolerance of the implicit gradient's linear solve. Default: 1e-6, with "
            "bf16 1e-2.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    epochs: Annotated[
        Whole,
        typer.Option(help="Passes over the images. Default: 10.", rich_help_panel=TRAINING),
    ] = None,
    batch: Annotated[
        Whole, typer.Option(help="Images a step. Default: 64.", rich_help_panel=TRAINING)
    ] = None,
    lr: Annotated[
        Real,
        typer.Option(help=f"Adam's first learning rate. {RECIPE}", rich_help_panel=TRAINING),
    ] = None,
    final_lr: Annotated[
        Real,
        typer.Option(help="Its last one, along a cosine. Default: 1e-6.", rich_help_panel=TRAINING),
    ] = None,
    start_lr: Annotated[
        Real,
        typer.Option(
            help=f"SGD's learning rate for the initial point. {RECIPE}", rich_help_panel=TRAINING
        ),
    ] = None,
    start_every: Annotated[
        Whole,
        typer.Option(
            help=f"Steps between two of the initial point. {RECIPE}", rich_help_panel=TRAINING
        ),
    ] = None,
    validation: Annotated[
        Real,
        typer.Option(
            help="Share of the train images that chooses the best epoch. Default: 0.1.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    residual_penalty: Annotated[
        Real,
        typer.Option(
            help="Weight of the squared relative residual at the end of the flow, which draws it "
            f"to the equilibrium. {RECIPE}",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    jacobian_penalty: Annotated[
        Real,
        typer.Option(
            help="Weight of ||df/dz||_F^2 a dimension at the answer. Default: 0.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    flip: Annotated[
        Real,
        typer.Option(help=f"Probability of mirroring. {RECIPE}", rich_help_panel=TRAINING),
    ] = None,
    pad: Annotated[
        Whole,
        typer.Option(
            help=f"Pixels of padding before a random crop. {RECIPE}", rich_help_panel=TRAINING
        ),
    ] = None,
    precision: Annotated[
        Text,
        typer.Option(
            help="no (float32) or bf16 (bfloat16 autocast). Default: no.", rich_help_panel=TRAINING
        ),
    ] = None,
    seed: Annotated[
        Whole,
        typer.Option(
            help="Of weights, split, order, augmentation, dropout. Default: 0.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    noise: certified.Noise = None,
    noise_samples: certified.NoiseSamples = None,
    adversary_steps: certified.AdversarySteps = None,
    adversary_radius: certified.AdversaryRadius = None,
    consistency: certified.Consistency = None,
    consistency_entropy: certified.ConsistencyEntropy = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            metavar="DIR",
            help="Folder for checkpoint, metrics and TensorBoard logs. Default: "
            "runs/MODEL-DATASET.",
            rich_help_panel=RUN,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the run in --out, to the same bits as if it had never stopped.",
            rich_help_panel=RUN,
        ),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Discard the run in --out.", rich_help_panel=RUN),
    ] = False,
    save_every: Annotated[
        float,
        typer.Option(
            min=0,
            help="Seconds between checkpoints within an epoch; 0 saves after each batch.",
            rich_help_panel=RUN,
        ),
    ] = 30.0,
    cpu: options.Cpu = False,
    threads: options.Threads = None,
) -> None:
    """Train an image classifier. With no option: a rest-point HomoODE on the built-in digits.

    Several GPUs: torchrun --nproc-per-node N -m homotopy_deq.cli train ...
    """
    given: dict[str, Any] = {k: v for k, v in locals().items() if k in Spec.__dataclass_fields__}
    folder = out or Path("runs") / f"{model or 'homoode'}-{dataset or 'digits'}"
    check_folder(folder, resume=resume, overwrite=overwrite)
    spec = _resumed(folder, given) if resume else resolve(given)
    if threads is not None:
        _use(threads)
    images = spec.data(data, download=download)
    network = spec.build(images)
    config = spec.config(save_every)
    accelerator = accelerator_for(config, cpu=cpu)
    if accelerator.is_main_process:
        count = sum(p.numel() for p in network.parameters())
        console.print(
            f"{spec.model} with {count:,} parameters, forward by {spec.solver}, on "
            f"{len(images.train_labels):,} images of {images.name} ({images.source}); "
            f"{accelerator.device}, writing to {folder}",
            highlight=False,
            soft_wrap=True,
        )
    about = {
        "spec": asdict(spec),
        "model": {"name": spec.model, "config": network.config},
        "classes": list(images.classes),
    }
    outcome = train(
        network,
        images,
        config,
        folder,
        about=about,
        resume=resume,
        overwrite=overwrite,
        observers=[Bar(console)],
        accelerator=accelerator,
    )
    if accelerator.is_main_process:
        test = outcome.test
        far = test["residual_median"]
        console.print(
            f"test accuracy {test['accuracy']:.2%} on {test['samples']:,} images with the weights "
            f"of epoch {outcome.best['epoch']} (validation {outcome.best['accuracy']:.2%}), "
            f"{test['nfe']:.1f} evaluations, {test['converged']:.1%} converged"
            + ("" if far is None else f", median residual {residual(far)}"),
            highlight=False,
            soft_wrap=True,
        )
        if outcome.noisy is not None:
            noisy = f"test accuracy {outcome.noisy['accuracy']:.2%} under noise of {spec.noise:g}"
            console.print(f"{noisy}, one draw an image", highlight=False)
        console.print(f"checkpoint {outcome.checkpoint}", highlight=False)


def _resumed(folder: Path, given: dict[str, Any]) -> Spec:
    """Return the choices of the run in a folder, to which the options given must not be opposed."""
    spec = spec_of(load_checkpoint(find_checkpoint(folder)))
    opposed = conflicts(spec, given)
    if opposed:
        raise ValueError(
            f"{folder} was started with other settings:\n  "
            + "\n  ".join(opposed)
            + "\nLeave them out to go on with the run, or choose another folder (--out)."
        )
    return spec


def _use(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
