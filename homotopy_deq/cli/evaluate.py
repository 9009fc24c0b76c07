"""homotopy-deq evaluate"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Optional

import torch
import typer
from rich.progress import Progress

from ..data import loader, stratified_order
from ..training import Evaluation, Objective, accelerator_for, evaluate, load_checkpoint
from ..training.checkpoint import replace_file
from ..training.folder import require_writable
from . import options
from .report import console, evaluation_table, failing, warn
from .spec import find_checkpoint, rebuild, spec_of


@failing
def command(
    run: options.RunArgument,
    solver: options.Solvers = None,
    data: options.Data = None,
    limit: options.Limit = None,
    batch: options.Batch = 256,
    rtol: options.Rtol = None,
    atol: options.Atol = None,
    max_steps: options.MaxSteps = None,
    step_size: options.StepSize = None,
    horizon: options.Horizon = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--json", metavar="FILE", help="Write the figures to a JSON file, too."),
    ] = None,
    cpu: options.Cpu = False,
    threads: options.Threads = None,
) -> None:
    """Measure a trained model on the test images, under one forward pass or several.

    The residual is ||f(z) - z|| / ||f(z)|| at the answer, whatever solver found it.
    "converged": an equilibrium within tolerance, or a flow that reached its end.
    """
    checkpoint = load_checkpoint(find_checkpoint(run))
    spec, model = spec_of(checkpoint), rebuild(checkpoint)
    given = {
        "rtol": rtol,
        "atol": atol,
        "max_steps": max_steps,
        "step_size": step_size,
        "horizon": horizon,
    }
    passes = {name: spec.path_by(name, **given).put(model) for name in solver or [spec.solver]}
    if output is not None:
        require_writable(output.parent)
    if threads is not None:
        torch.set_num_threads(threads)
    if not checkpoint.meta["best"]:
        warn("no epoch of this run is done yet: these are the weights as they stood.")
    images = spec.data(data)
    order = stratified_order(images.test_labels, spec.seed)[:limit]
    accelerator = accelerator_for(spec.config(0.0), cpu=cpu)
    batches = accelerator.prepare(
        loader(images.test_images[order], images.test_labels[order], batch, shuffle=False)
    )
    found: dict[str, Evaluation] = {}
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        for name, each in passes.items():
            task = progress.add_task(name, total=len(order))
            objective = accelerator.prepare(Objective(each))
            found[name] = evaluate(objective, batches, accelerator, partial(progress.advance, task))
    if not accelerator.is_main_process:
        return
    console.print(evaluation_table(f"{run}, {len(order):,} test images of {images.name}", found))
    for name, figures in found.items():
        if figures.failed:
            warn(
                f"{name}: {figures.failed} of {figures.samples} samples did not converge; raise "
                "--max-steps, loosen --rtol, or escalate (robust, anderson+continuation)."
            )
    if output is not None:
        body = {
            "checkpoint": str(run),
            "data": {"name": images.name, "source": images.source, "test images": len(order)},
            "results": {
                name: {
                    k: None if isinstance(v, float) and math.isnan(v) else v
                    for k, v in asdict(figures).items()
                }
                for name, figures in found.items()
            },
        }
        replace_file(output, (json.dumps(body, indent=2) + "\n").encode())
