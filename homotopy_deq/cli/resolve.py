"""Fill in what was not chosen, and make what was."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from solvers import Equilibrium
from solvers.driver import answered_by

from ..create import create_model, model_class
from ..create import takes as takes_of
from ..data import DATASETS, ImageData, load, stratified_order
from ..models import BoundedModel, ImageModel
from ..settings import BOUNDED, MODELS, RECIPES, ModelSettings, Settings, SmoothTraining
from ..settings.declare import leaves, pick, values
from . import names
from .command import option

BF16_RTOL = 1e-2
"""Tolerance of equilibria and their gradients in bfloat16, whose rounding unit is 2^-8 = 4e-3."""
DENSE_HIDDEN = 128
"""Size of a state that is a vector (--kernel 0); `hidden` of the recipes counts channels."""
RESIDUAL_PENALTY = 0.1
"""Default for a flow that has a rest point to be drawn to."""
CONSISTENCY_SAMPLES = 2  # Jeong & Shin 2020, section 4
SIZES = ("hidden", "head", "pool", "groups", "dropout", "stride")
"""Settings that a model may do without: those of all models and recipes."""
SIDE = 64  # of images whose size is not known before they are read


def resolve(given: Mapping[str, Any]) -> Settings:
    """Fill in what was not given (None) from the data set's recipe and the model's defaults.

    Raises:
        ValueError: a name or a number is not valid, or does not go with another.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    model = pick("model", chosen.get("model", "homoode"), MODELS)
    dataset = pick("dataset", chosen.get("dataset", "digits"), DATASETS)
    takes = takes_of(model)
    own = {leaf.name for leaf in leaves(ModelSettings)} - {"model"}
    for name in sorted((own & chosen.keys()) - takes.keys()):
        having = [each for each in MODELS if name in takes_of(each)]
        told = f"{option(name)} is of {', '.join(having)}; got it for {model}"
        if name not in SIZES:
            raise ValueError(f"{told}.")
        warnings.warn(f"{told}, where it changes nothing.", stacklevel=2)
    named: dict[str, Any] = {}
    named |= {name: takes[name].default if name in takes else None for name in own}
    named |= {k: v for k, v in RECIPES.get(dataset, {}).items() if k not in own or k in takes}
    named |= BOUNDED if issubclass(model_class(model), BoundedModel) else {}
    named |= {"hidden": DENSE_HIDDEN} if chosen.get("kernel") == 0 and "hidden" in takes else {}
    named |= _noise(chosen)
    named |= chosen
    drafted = Settings.of({"solver": "rk4", **named})
    with torch.device("meta"):  # a model that refuses its settings does so before data are read
        side = chosen.get("image_size", SIDE)
        sketch = _model(drafted, DATASETS[dataset].shape or (3, side, side), 10)
    rests = sketch.layer.rest_point
    root = issubclass(answered_by(sketch.solver), Equilibrium)
    if named.get("residual_penalty") and not rests:
        raise ValueError(f"{model} without a rest point has no residual to penalise.")
    named.setdefault("residual_penalty", RESIDUAL_PENALTY if rests and not root else 0.0)
    own_solver = sketch.solver
    called = next((name for name, kind in names.SOLVERS.items() if kind is type(own_solver)), "rk4")
    named.setdefault("solver", called if root else "rk4" if rests else "dopri5")
    if root and named["solver"] == called and (step := getattr(own_solver, "step_size", None)):
        named.setdefault("step_size", step)
    if chosen.get("precision") == "bf16" and names.Pass(named["solver"]).at_root:
        named.setdefault("rtol", BF16_RTOL)
        if chosen.get("gradient") in (None, "implicit"):
            named.setdefault("backward_rtol", BF16_RTOL)
    settings = Settings.of(named)
    put(sketch, settings)  # likewise
    return settings


def pass_of(settings: Settings, solver: str | None = None, **given: Any) -> names.Pass:
    """Return a forward pass through the trained model, by the name of its solver.

    The solver of the training, which is the default, keeps its settings but for those given.
    Another solver has its own, and at a root of a run in bf16 the tolerance of bf16.

    Arguments:
        settings: of the run.
        solver: as in `names.Pass`.
        given: its other arguments; None stands for not given.
    """
    given = {name: value for name, value in given.items() if value is not None}
    if solver is None or solver == settings.forward.solver:
        return names.Pass(**{**asdict(settings.forward), **given})
    path = names.Pass(solver, **given)
    if settings.training.precision == "bf16" and path.at_root and path.rtol is None:
        path = replace(path, rtol=BF16_RTOL)
    return path


def put(model: ImageModel, settings: Settings) -> ImageModel:
    """Return the model with the forward and the backward pass of a run; its weights are shared."""
    return pass_of(settings).put(model, settings.backward.gradient, settings.backward.rtol)


def images_of(settings: Settings, root: Path | None, *, download: bool = False) -> ImageData:
    """Load the images: from `root`, else from where the run read them, if that is there."""
    data = settings.data
    if root is None and data.place.root is not None and data.place.root.exists():
        root = data.place.root
    return load(
        data.name,
        root,
        limit=data.limit,
        test_limit=data.test_limit,
        seed=settings.training.seed,
        download=download,
        image_size=data.image_size,
    )


def first_images(settings: Settings, root: Path | None, count: int) -> Tensor:
    """Return so many test images, (N, C, H, W) in [0, 1], each class in its share."""
    data = images_of(settings, root)
    order = stratified_order(data.test_labels, settings.training.seed)[:count]
    return data.test_images[order].float() / 255


def build(settings: Settings, data: ImageData) -> ImageModel:
    """Make the model with fresh weights drawn from the seed."""
    torch.manual_seed(settings.training.seed)
    std = [max(value, 1e-3) for value in data.std]  # a channel that never changes has std 0
    model = _model(settings, data.shape, data.num_classes, mean=data.mean, std=std)
    return put(model, settings)


def _model(
    settings: Settings, shape: Sequence[int], num_classes: int, **statistics: Any
) -> ImageModel:
    name, takes = settings.model.name, takes_of(settings.model.name)
    own = {k: v for k, v in values(settings.model).items() if k in takes and v is not None}
    return create_model(name, shape=shape, num_classes=num_classes, **own, **statistics)


def _noise(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults of training under noise, or raise ValueError where there is none."""
    given = [leaf.name for leaf in leaves(SmoothTraining) if leaf.name in chosen]
    if given and "noise" not in chosen:
        raise ValueError(
            f"{', '.join(map(option, given))}: these train for certification under Gaussian noise, "
            "and no noise was given. Add --noise SIGMA, such as --noise 0.25."
        )
    if "consistency_entropy" in chosen and "consistency" not in chosen:
        raise ValueError("--consistency-entropy goes with --consistency: give both.")
    return {"noise_samples": CONSISTENCY_SAMPLES} if chosen.get("consistency") else {}
