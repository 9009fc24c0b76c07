"""What links the flow of a trained HomoODE to the equilibrium of the same weights.

    python -m experiments.homoode_links [run folder]

Trains a rest-point HomoODE dz/dt = f(z; x) - z on the built-in digits, as `demo.py` does but for
fewer epochs (or takes the checkpoint of a run), and in float64, with the same weights:

1. compares the flow's end z(horizon), the point at which the flow rests, and the equilibrium that
   each fixed-point solver finds from the learned initial point, with the flow's end polished by
   Newton's method: the distances are relative, the largest and the median over the test images;
2. checks that one unit Euler step of Davidenko's equation for the fixed-point homotopy is a Picard
   step;
3. counts the evaluations to the tolerance of training from the learned initial point and from 0.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.results import Record
from homotopy_deq.cli import load_model
from homotopy_deq.cli.resolve import build, images_of, resolve
from homotopy_deq.layers import FlowLayer
from homotopy_deq.models import ImageModel
from homotopy_deq.training import train
from solvers import (
    Anderson,
    ArcLength,
    Broyden,
    Continuation,
    Davidenko,
    Flow,
    NewtonKrylov,
    Picard,
    PseudoTransient,
    Solver,
    solve,
)


@dataclass(frozen=True)
class Config:
    """What is trained, and how tightly its equilibria are solved for."""

    run: Path | None = None
    epochs: int = 4
    images: int = 128
    rtol: float = 1e-9
    start_rtol: float = 1e-4
    seed: int = 0


def fixed_points(rtol: float) -> dict[str, Solver[Any, Any]]:
    """Return the solvers of z = f(z) that are compared."""
    solvers: tuple[Solver[Any, Any], ...] = (
        Picard(rtol=rtol, max_steps=2000),
        Anderson(rtol=rtol, max_steps=500),
        Broyden(rtol=rtol, max_steps=500),
        NewtonKrylov(rtol=rtol),
        PseudoTransient(rtol=rtol),
        Continuation(rtol=rtol),
        ArcLength(rtol=rtol),
        Davidenko(rtol=rtol),
    )
    return {type(solver).__name__: solver for solver in solvers}


@torch.no_grad()
def links(model: ImageModel, images: Tensor, rtol: float, start_rtol: float) -> dict[str, Any]:
    """Return the three comparisons for a trained model with a rest point.

    Arguments:
        model: in eval mode; it is copied to float64.
        images: (B, C, H, W), in [0, 1].
        rtol: to which equilibria are solved for.
        start_rtol: to which the starts are compared.
    """
    model = copy.deepcopy(model).double().eval()
    layer = model.layer
    if not isinstance(layer, FlowLayer) or not layer.rest_point:
        raise ValueError("homoode_links needs a HomoODE with a rest point.")
    x = model.condition(images.double())
    equation = layer.equation(layer.condition(x))
    learned = model.start(x)
    flow = model.solve(images.double()).solution
    polished = solve(equation, NewtonKrylov(rtol=rtol), flow).check().value
    rest = solve(equation, Flow(rtol=rtol, max_steps=5000), flow).check()

    ends: dict[str, Any] = {"flow's end": flow.value, "flow at rest": rest.value}
    found = {name: solve(equation, each, learned) for name, each in fixed_points(rtol).items()}
    answers = ends | {name: each.value for name, each in found.items()}
    right = model.head(polished).argmax(1)
    agreement = {}
    for name, z in answers.items():
        off = (z - polished).flatten(1).norm(dim=1) / polished.flatten(1).norm(dim=1)
        fz = equation(z)
        residual = (fz - z).flatten(1).norm(dim=1) / fz.flatten(1).norm(dim=1)
        agreement[name] = {
            "distance from the polished end, largest": float(off.max()),
            "median": float(off.median()),
            "residual, largest": float(residual.max()),
            "same class": round(float((model.head(z).argmax(1) == right).double().mean()), 4),
        }
        if name in found:
            agreement[name]["converged"] = int(found[name].converged.sum())

    euler = Davidenko(method="euler", step_size=1.0).flow(equation, learned).value
    picard = solve(equation, Picard(max_steps=1), learned).value
    starts = {}
    for name, solver in fixed_points(start_rtol).items():
        here = {
            start: solve(equation, solver, z0)
            for start, z0 in (("learned", learned), ("zeros", torch.zeros_like(learned)))
        }
        starts[name] = {
            start: {
                "evaluations": round(float(each.evals.double().mean()), 2),
                "converged": int(each.converged.sum()),
            }
            for start, each in here.items()
        }
    distance = {
        start: float(
            ((z0 - polished).flatten(1).norm(dim=1) / polished.flatten(1).norm(dim=1)).median()
        )
        for start, z0 in (("learned", learned), ("zeros", torch.zeros_like(learned)))
    }
    return {
        "images": len(images),
        "horizon": layer.t1,
        "distances from the polished end": agreement,
        "unit Euler step of Davidenko less a Picard step, largest entry": float(
            (euler - picard).abs().max()
        ),
        "evaluations from the learned initial point and from zeros": starts,
        "distance of the start from the equilibrium, median": distance,
    }


def main(config: Config) -> dict[str, Any]:
    """Train or load, compare, write."""
    torch.set_num_threads(1)
    record = Record("homoode_links", config)
    settings = resolve({"epochs": config.epochs, "seed": config.seed})
    data = images_of(settings, None)
    if config.run is None:
        with tempfile.TemporaryDirectory() as folder:
            model = build(settings, data)
            train(model, data, settings.training, Path(folder), overwrite=True)
    else:
        model = load_model(config.run)
    images = data.test_images[: config.images].float() / 255
    result = links(model.eval(), images, config.rtol, config.start_rtol)
    record.write(result)
    for name, part in result.items():
        print(name, part)
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", type=Path, help="folder of a finished run")
    main(Config(run=parser.parse_args().run))
