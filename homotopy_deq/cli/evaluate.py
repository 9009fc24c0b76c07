"""homotopy-deq evaluate"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Optional

import torch
import typer
from torch import Tensor

from solvers.ode.initial_value import LSODA_NUMBERS

from ..data import loader, stratified_order
from ..models import ImageModel
from ..training import Evaluation, Objective, accelerator_for, evaluate, load_checkpoint
from ..training.checkpoint import replace_file
from ..training.folder import require_writable
from . import options
from .report import console, counting, evaluation_table, failing, warn
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
    Success is an equilibrium within tolerance (converged), or a flow that reached its end t1.
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
    paths = {name: spec.path_by(name, **given) for name in solver or [spec.solver]}
    passes = {name: path.put(model) for name, path in paths.items()}
    if output is not None:
        require_writable(output.parent)
    if threads is not None:
        torch.set_num_threads(threads)
    if not checkpoint.meta["best"]:
        warn("no epoch of this run is done yet: these are the weights as they stood.")
    images = spec.data(data)
    for name, each in passes.items():
        _check_size(name, each, images.test_images[:1].float() / 255, batch)
    order = stratified_order(images.test_labels, spec.seed)[:limit]
    accelerator = accelerator_for(spec.config(0.0), cpu=cpu)
    batches = accelerator.prepare(
        loader(images.test_images[order], images.test_labels[order], batch, shuffle=False)
    )
    found: dict[str, Evaluation] = {}
    for name, each in passes.items():
        objective = accelerator.prepare(Objective(each))
        with counting(name, len(order)) as advance:
            found[name] = evaluate(objective, batches, accelerator, advance)
    if not accelerator.is_main_process:
        return
    success = {name: path.success for name, path in paths.items()}
    title = f"{run}, {len(order):,} test images of {images.name}"
    console.print(evaluation_table(title, found, success))
    for name, figures in found.items():
        if figures.failed:
            warn(
                f"{name}: {figures.failed} of {figures.samples} samples did not converge; raise "
                "--max-steps, loosen --rtol, or escalate (robust, anderson+continuation)."
                if paths[name].at_root
                else f"{name}: {figures.failed} of {figures.samples} samples did not reach t1; "
                "raise --max-steps, loosen --rtol, or choose another method."
            )
    if output is not None:
        body = {
            "checkpoint": str(run),
            "data": {"name": images.name, "source": images.source, "test images": len(order)},
            "results": {
                name: {"success": success[name]}
                | {
                    k: None if isinstance(v, float) and math.isnan(v) else v
                    for k, v in asdict(figures).items()
                }
                for name, figures in found.items()
            },
        }
        replace_file(output, (json.dumps(body, indent=2) + "\n").encode())


def _check_size(name: str, model: ImageModel, image: Tensor, batch: int) -> None:
    """Raise ValueError where a batch is too large for a pass, before any other pass has run."""
    if getattr(model.layer.solver, "method", None) != "scipy_solver":
        return
    with torch.no_grad():
        each = model.start(model.condition(image)).numel()
    if each * batch > LSODA_NUMBERS:
        raise ValueError(
            f"--solver {name} takes a batch as one system: --batch {batch} needs "
            f"{8 * (each * batch) ** 2 / 2**30:,.1f} GiB for its Jacobian. Use --batch "
            f"{max(1, LSODA_NUMBERS // each)} or another solver."
        )
