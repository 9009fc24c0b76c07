"""homotopy-deq evaluate"""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import torch
from torch import Tensor

from solvers.ode.initial_value import LSODA_NUMBERS

from ...data import loader, stratified_order
from ...models import ImageModel
from ...training import Evaluation, Objective, accelerator_for, evaluate
from ...training.checkpoint import replace_file
from ...training.folder import require_writable
from .. import options
from ..report import console, counting, evaluation_table, warn
from ..resolve import images_of, pass_of
from ..trained import Trained


def command(chosen: options.Evaluate) -> None:
    """Measure a trained model under each forward pass, in one table."""
    run, output = chosen.run.path, chosen.json
    trained = Trained.of(run)
    settings, model = trained.settings, trained.model
    names = chosen.solvers.names or [settings.forward.solver]
    paths = {name: pass_of(settings, name, **asdict(chosen.limits)) for name in names}
    passes = {name: path.put(model) for name, path in paths.items()}
    if output is not None:
        require_writable(output.parent)
    chosen.machine.use()
    if not trained.checkpoint.meta["best"]:
        warn("no epoch of this run is done yet: these are the weights as they stood.")
    images = images_of(settings, chosen.images.root)
    for name, each in passes.items():
        _check_size(name, each, images.test_images[:1].float() / 255, chosen.batch)
    order = stratified_order(images.test_labels, settings.training.seed)[: chosen.images.limit]
    accelerator = accelerator_for(settings.training, cpu=chosen.machine.cpu)
    batches = accelerator.prepare(
        loader(images.test_images[order], images.test_labels[order], chosen.batch, shuffle=False)
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
