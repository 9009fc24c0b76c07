"""homotopy-deq train"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ..training import Bar, accelerator_for, check_folder, load_checkpoint, train
from . import options, train_options
from .report import console, failing, residual
from .spec import Spec, conflicts, find_checkpoint, rebuild, resolve, spec_of


@failing
def command(
    model: train_options.Model = None,
    dataset: train_options.Dataset = None,
    data: options.Data = None,
    download: train_options.Download = False,
    limit: train_options.Limit = None,
    test_limit: options.Limit = None,
    image_size: train_options.ImageSize = None,
    rest_point: train_options.RestPoint = None,
    horizon: options.Horizon = None,
    contraction: train_options.Contraction = None,
    monotonicity: train_options.Monotonicity = None,
    kernel: train_options.Kernel = None,
    hidden: train_options.Hidden = None,
    head: train_options.Head = None,
    pool: train_options.Pool = None,
    groups: train_options.Groups = None,
    dropout: train_options.Dropout = None,
    solver: train_options.Solver = None,
    rtol: options.Rtol = None,
    atol: options.Atol = None,
    max_steps: options.MaxSteps = None,
    step_size: options.StepSize = None,
    gradient: train_options.Gradient = None,
    backward_rtol: train_options.BackwardRtol = None,
    epochs: train_options.Epochs = None,
    batch: train_options.Batch = None,
    lr: train_options.Lr = None,
    final_lr: train_options.FinalLr = None,
    start_lr: train_options.StartLr = None,
    start_every: train_options.StartEvery = None,
    validation: train_options.Validation = None,
    residual_penalty: train_options.ResidualPenalty = None,
    jacobian_penalty: train_options.JacobianPenalty = None,
    flip: train_options.Flip = None,
    pad: train_options.Pad = None,
    precision: train_options.Precision = None,
    seed: train_options.Seed = None,
    noise: train_options.Noise = None,
    noise_samples: train_options.NoiseSamples = None,
    adversary_steps: train_options.AdversarySteps = None,
    adversary_radius: train_options.AdversaryRadius = None,
    consistency: train_options.Consistency = None,
    consistency_entropy: train_options.ConsistencyEntropy = None,
    out: train_options.Out = None,
    resume: train_options.Resume = False,
    overwrite: train_options.Overwrite = False,
    save_every: train_options.SaveEvery = 30.0,
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
        "spec": spec.about(),
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
        observers=[Bar(console, spec.path.success)],
        accelerator=accelerator,
    )
    if accelerator.is_main_process:
        test = outcome.test
        far = test["residual_median"]
        console.print(
            f"test accuracy {test['accuracy']:.2%} on {test['samples']:,} images with the weights "
            f"of epoch {outcome.best['epoch']} (validation {outcome.best['accuracy']:.2%}), "
            f"{test['nfe']:.1f} evaluations, {test['converged']:.1%} {spec.path.success}"
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
    checkpoint = load_checkpoint(find_checkpoint(folder))
    spec = spec_of(checkpoint)
    rebuild(checkpoint)  # raises CheckpointError before anything else is read
    epochs = given["epochs"] or 0
    if epochs > spec.epochs:
        console.print(
            f"{folder} was to end after {spec.epochs} epochs and goes on to {epochs}: the learning "
            f"rate starts again at {spec.lr:g} and falls to {spec.final_lr:g} at the new end. The "
            f"result is not that of one run of {epochs} epochs.",
            highlight=False,
            soft_wrap=True,
        )
        spec = replace(spec, epochs=epochs)
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
