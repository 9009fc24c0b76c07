"""All that decides what a run computes, with every default filled in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import torch

from ..data import DATASETS, ImageData, load
from ..models import RECIPES, ImageModel, Recipe
from ..training import (
    CHECKPOINT,
    Checkpoint,
    SmoothTraining,
    TrainConfig,
    load_checkpoint,
)
from ..training.header import check_header, misfit, nonfinite
from . import names

EPOCHS = 10
BF16_RTOL = 1e-2
"""Tolerance of equilibria and their gradients in bfloat16, whose rounding unit is 2^-8 = 4e-3."""
DENSE_HIDDEN = 128
"""Size of a state that is a vector (--kernel 0); `hidden` of the recipes counts channels."""
CONSISTENCY_SAMPLES = 2  # Jeong & Shin 2020, section 4


@dataclass(frozen=True)
class Spec:
    """The choices behind a run, as numbers and names: what `train` takes, and a checkpoint keeps.

    `None` stands for the default of the model, the solver or the data set's reader. `root`, where
    the run read its images, decides nothing and may be another when it is resumed.
    """

    model: str
    dataset: str
    limit: int | None
    test_limit: int | None
    image_size: int | None
    rest_point: bool
    horizon: float | None
    hidden: int
    head: int
    pool: int
    groups: int
    dropout: float
    solver: str
    rtol: float | None
    atol: float | None
    max_steps: int | None
    step_size: float | None
    gradient: str | None
    backward_rtol: float | None
    epochs: int
    batch: int
    lr: float
    final_lr: float
    start_lr: float
    start_every: int
    validation: float
    residual_penalty: float
    jacobian_penalty: float
    flip: float
    pad: int
    precision: str
    seed: int
    noise: float | None = None
    noise_samples: int | None = None
    adversary_steps: int | None = None
    adversary_radius: float | None = None
    consistency: float | None = None
    consistency_entropy: float | None = None
    contraction: float | None = None
    monotonicity: float | None = None
    kernel: int | None = None
    root: str | None = None

    def about(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of this, and a resumed run must repeat."""
        return {name: value for name, value in asdict(self).items() if name != "root"}

    @property
    def path(self) -> names.Path:
        """The forward pass that the run trains with."""
        return names.Path(
            self.solver, self.rtol, self.atol, self.max_steps, self.step_size, self.horizon
        )

    def path_by(self, solver: str, **given: Any) -> names.Path:
        """Return a forward pass through the trained model, by the name of its solver.

        The solver of the training keeps its settings but for those given. Another solver has its
        own, and at a root of a run in bf16 the tolerance of bf16.

        Arguments:
            solver: as in `names.Path`.
            given: its other arguments; None stands for not given.
        """
        given = {name: value for name, value in given.items() if value is not None}
        if solver == self.solver:
            return replace(self.path, **given)
        path = names.Path(solver, **given)
        if self.precision == "bf16" and path.at_root and path.rtol is None:
            path = replace(path, rtol=BF16_RTOL)
        return path

    def config(self, save_every: float) -> TrainConfig:
        """Return what the training loop takes of this."""
        own = {f.name for f in fields(TrainConfig)}
        taken = {name: value for name, value in asdict(self).items() if name in own}
        return TrainConfig(**taken, save_every=save_every, smoothing=self.smoothing)

    @property
    def smoothing(self) -> SmoothTraining | None:
        """How the run trains for certification, or None.

        Raises:
            ValueError: what needs noise is given without it, or a number is out of range.
        """
        given = {
            "samples": self.noise_samples,
            "adversary_steps": self.adversary_steps,
            "adversary_radius": self.adversary_radius,
            "consistency": self.consistency,
            "entropy": self.consistency_entropy,
        }
        settings: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
        if self.noise is not None:
            if self.consistency:
                settings = {"samples": CONSISTENCY_SAMPLES, **settings}
            elif self.consistency_entropy is not None:
                raise ValueError("--consistency-entropy goes with --consistency: give both.")
            return SmoothTraining(self.noise, **settings)
        if settings:
            options = {"samples": "noise-samples", "entropy": "consistency-entropy"}
            named = ", ".join(f"--{options.get(k, k.replace('_', '-'))}" for k in settings)
            raise ValueError(
                f"{named}: these train for certification under Gaussian noise, and no noise was "
                "given. Add --noise SIGMA, such as --noise 0.25."
            )
        return None

    def data(self, root: Path | None, *, download: bool = False) -> ImageData:
        """Load the images: from `root`, else from where the run read them, if that is there."""
        if root is None and self.root is not None and Path(self.root).exists():
            root = Path(self.root)
        return load(
            self.dataset,
            root,
            limit=self.limit,
            test_limit=self.test_limit,
            seed=self.seed,
            download=download,
            image_size=self.image_size,
        )

    def build(self, data: ImageData) -> ImageModel:
        """Make the model with fresh weights drawn from the seed."""
        torch.manual_seed(self.seed)
        settings: dict[str, Any] = {
            name: getattr(self, name) for name in Recipe().model_arguments()
        }
        if self.model == "homoode":
            settings["rest_point"] = self.rest_point
        settings |= self._cell()
        if self.model == "monotone":
            del settings["head"], settings["groups"]  # its head is one affine map
        std = [max(value, 1e-3) for value in data.std]  # a channel that never changes has std 0
        model = names.MODELS[self.model](
            data.shape, data.num_classes, mean=data.mean, std=std, **settings
        )
        return self.path.put(model, self.gradient, self.backward_rtol)

    def _cell(self) -> dict[str, Any]:
        """Return what a constructor takes of the choices about a cell that proves its answer."""
        chosen = {"contraction": self.contraction, "monotonicity": self.monotonicity}
        settings: dict[str, Any] = {k: v for k, v in chosen.items() if v is not None}
        if self.kernel is not None:
            settings["kernel"] = self.kernel or None
        return settings


KINDS = get_type_hints(Spec)


def resolve(given: Mapping[str, Any]) -> Spec:
    """Fill in what was not given (None) from the data set's recipe and the model's defaults.

    Raises:
        ValueError: a name or a number is not valid.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    model = names.pick("model", chosen.get("model", "homoode"), names.MODELS)
    dataset = names.pick("dataset", chosen.get("dataset", "digits"), DATASETS)
    recipe = RECIPES.get(dataset, Recipe())
    equilibrium = model in ("deq", "monotone")
    rests = chosen.get("rest_point", True) if model == "homoode" else equilibrium
    flows = "rk4" if rests else "dopri5"
    defaults: dict[str, Any] = {field.name: None for field in fields(Spec)}
    defaults |= {f.name: f.default for f in fields(TrainConfig) if f.name in defaults}
    defaults |= recipe.model_arguments() | recipe.training_arguments()
    defaults |= {"epochs": EPOCHS, "solver": "anderson" if equilibrium else flows}
    if chosen.get("kernel") == 0:
        defaults["hidden"] = DENSE_HIDDEN
    if model != "homoode" or not rests:
        defaults["residual_penalty"] = 0.0
    settings = {**defaults, **chosen, "model": model, "dataset": dataset, "rest_point": rests}
    spec = Spec(**settings)
    if spec.precision == "bf16" and spec.path.at_root:
        rtol = BF16_RTOL if spec.rtol is None else spec.rtol
        backward = BF16_RTOL if spec.backward_rtol is None else spec.backward_rtol
        implicit = spec.gradient in (None, "implicit")
        spec = replace(spec, rtol=rtol, backward_rtol=backward if implicit else None)
    if chosen.get("rest_point") is not None and model != "homoode":
        raise ValueError(f"--rest-point is a choice of homoode alone; got it for {model}.")
    if spec.residual_penalty and not rests:
        raise ValueError(f"{model} without a rest point has no residual to penalise.")
    _check_cell(spec)
    spec.path.check(spec.gradient, spec.backward_rtol)
    spec.config(0.0)  # checks itself
    return spec


def _check_cell(spec: Spec) -> None:
    may_contract = spec.model == "deq" or (spec.model == "homoode" and spec.rest_point)
    if spec.contraction is not None and not may_contract:
        raise ValueError(
            "--contraction is a choice of deq, and of homoode with a rest point; got it for "
            f"{spec.model}" + (" without one." if spec.model == "homoode" else ".")
        )
    if spec.monotonicity is not None and spec.model != "monotone":
        raise ValueError(f"--monotonicity is a choice of monotone alone; got it for {spec.model}.")
    if spec.kernel is not None and spec.model != "monotone" and spec.contraction is None:
        raise ValueError("--kernel goes with --model monotone or with --contraction.")


def conflicts(spec: Spec, given: Mapping[str, Any]) -> list[str]:
    """List the options that were given and differ from those that a run was started with."""
    return [
        f"--{name.replace('_', '-')}: the run has {getattr(spec, name)}, got {value}"
        for name, value in given.items()
        if value is not None and value != getattr(spec, name)
    ]


def find_checkpoint(path: Path) -> Path:
    """Return the checkpoint that a path names: the file, or the one in a run's folder."""
    return path / CHECKPOINT if path.is_dir() else path


def spec_of(checkpoint: Checkpoint) -> Spec:
    """Return the choices behind a checkpoint.

    Raises:
        CheckpointError: it was not written by `homotopy-deq train`, or is damaged.
    """
    check_header(checkpoint)
    about = checkpoint.meta["about"]
    try:
        spec = Spec(**{**about["spec"], "root": checkpoint.meta.get("root")})
    except (KeyError, TypeError) as error:
        raise checkpoint.fault(
            f"it was not written by this version's homotopy-deq train ({error})"
        ) from error
    kinds = {"spec": KINDS, "classes": [str]}
    wrong = misfit(kinds, {"classes": about.get("classes"), "spec": asdict(spec)})
    wrong = wrong or nonfinite(about["spec"], "spec") or nonfinite(about["model"], "model")
    if wrong is not None:
        raise checkpoint.fault(wrong)
    config = {"name": spec.model, **about["model"]["config"]}
    for name in Recipe().model_arguments():
        if config.get(name, getattr(spec, name)) != getattr(spec, name):
            raise checkpoint.fault(
                f"it says {name} = {config[name]} of the model and {getattr(spec, name)} of the run"
            )
    return spec


def load_model(path: Path | str) -> ImageModel:
    """Rebuild a trained model, in eval mode, with the weights that were best on validation.

    Arguments:
        path: a run's folder or its checkpoint file. Loading runs no code from it.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is no checkpoint, or is damaged; the line names the file and the fault.

    Example:
        >>> model = load_model("runs/homoode-digits").with_solver(Anderson())
    """
    return rebuild(load_checkpoint(find_checkpoint(Path(path))))


def rebuild(checkpoint: Checkpoint) -> ImageModel:
    """Return the model of a checkpoint, in eval mode: see `load_model`."""
    spec = spec_of(checkpoint)
    config = checkpoint.meta["about"]["model"]["config"]

    def build() -> ImageModel:
        try:
            model = names.MODELS[names.pick("model", spec.model, names.MODELS)](**config)
            return spec.path.put(model, spec.gradient, spec.backward_rtol)
        except Exception as error:  # a header may say anything
            raise checkpoint.fault(f"its header describes no model ({_line(error)})") from error

    with torch.device("meta"):  # shapes alone: a size that is no size must not ask for memory
        sketch = build()
    trained = checkpoint.state("model", sketch)
    if checkpoint.under("best") or checkpoint.meta["best"]:
        trained = checkpoint.state("best", sketch)
    model = build()
    model.load_state_dict(trained)
    return model.eval()


def _line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
