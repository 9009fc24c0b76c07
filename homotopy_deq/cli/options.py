"""The commands about training and trained models: what each is told. No torch is needed here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..settings import Settings, TrainConfig
from ..settings.data import Place
from ..settings.declare import above, at_least, given, like, setting
from ..settings.model import Limits


@dataclass(frozen=True)
class Run:
    """A run that `train` made."""

    path: Path = setting(
        ..., "A run's folder, or its checkpoint file.", option="run", metavar="RUN", argument=True
    )


@dataclass(frozen=True)
class Machine:
    """What a command may use."""

    PANEL: ClassVar[str] = "The machine"

    cpu: bool = setting(False, "Use the CPU even where there is a GPU.")
    threads: int | None = setting(
        None,
        "CPU threads. Default: PyTorch's choice, or OMP_NUM_THREADS where it is set.",
        at_least(1),
    )

    def use(self) -> None:
        """Set the number of threads, where one is given."""
        import torch

        if self.threads is not None:
            torch.set_num_threads(self.threads)

    def device(self) -> str:
        """Return the GPU where there is one and it may be used, else the CPU."""
        import torch

        return "cuda" if torch.cuda.is_available() and not self.cpu else "cpu"


@dataclass(frozen=True)
class ImagesToTest(Place):
    """Which test images, and where they are looked for."""

    limit: int | None = setting(
        None, "Use so many test images, each class in its share. Default: all.", at_least(1)
    )


@dataclass(frozen=True)
class Solvers:
    """Forward passes to compare."""

    PANEL: ClassVar[str] = Limits.PANEL

    names: list[str] | None = setting(
        None,
        "Forward pass, to be given once or more: a fixed-point or continuation solver (anderson, "
        "newton-krylov, continuation, ...), a method for flows (dopri5, rk4, ...), or several "
        "joined by + (rk4+anderson), which take over each other's failed samples. `homotopy-deq "
        "info` lists them. Default: the training's.",
        option="solver",
    )


@dataclass(frozen=True)
class Begun:
    """What is done about what the folder holds."""

    PANEL: ClassVar[str] = "The run"

    resume: bool = setting(
        False, "Go on with what --out holds; ends with the bytes of a run that never stopped."
    )
    overwrite: bool = setting(False, "Discard what --out holds.")


@dataclass(frozen=True)
class Train:
    """Train an image classifier. With no option: a rest-point HomoODE on the built-in digits.

    Each run writes its settings to DIR/config.toml, which --config reads; options given beside it
    go first. With --resume and more --epochs than it had, a run goes on to the new end, with
    learning rates that start again.

    Several GPUs: torchrun --nproc-per-node N -m homotopy_deq.cli train ...
    """

    PANEL: ClassVar[str] = "The run"

    settings: Mapping[str, Any] = given(Settings)
    download: bool = setting(
        False, "Fetch the data set into --data if it is missing.", panel=Place.PANEL
    )
    config: Path | None = setting(
        None, "Read settings from a file, such as the config.toml of another run.", metavar="FILE"
    )
    out: Path | None = setting(
        None,
        "Folder for checkpoint, metrics and TensorBoard logs. Default: runs/MODEL-DATASET.",
        metavar="DIR",
    )
    track: list[str] | None = setting(
        None,
        "Measure after each epoch, on the train images, and draw at the end: neural-collapse (NC1 "
        "to NC4 of the features). A solve for each image more; nothing else changes. With "
        "--resume, to be given again.",
        metavar="WHAT",
    )
    begun: Begun = Begun()
    machine: Machine = Machine()


@dataclass(frozen=True)
class Tuning:
    """How equilibria that were made of explicit layers are trained."""

    PANEL: ClassVar[str] = "How it is trained"

    epochs: int = setting(5, "Passes over the train images.", at_least(1))
    batch: int = setting(128, "Images a step.", at_least(1))
    lr: float = setting(
        1e-4, "Adam's first learning rate, which a cosine takes to 0; the paper has 1e-7.", above(0)
    )
    structure_penalty: float = setting(
        0.1,
        "Weight of the sum of |W| where the explicit network has none.",
        at_least(0),
        also="penalty",
    )
    clip: float = setting(1.0, "Largest norm of the gradient of a step.", above(0))
    save_every: float = like(TrainConfig, "save_every")


@dataclass(frozen=True)
class Finetune:
    """Make equilibria (LBEN) of a trained explicit network, with the same logits and the same
    Lipschitz constant, and train them further.

    RUN is one of cpl, sll, aol or sandwich. That the logits are equal and the inequality holds is
    checked first. The new run can be evaluated, certified and resumed as any other; its data set,
    loss and seed are RUN's.
    """

    PANEL: ClassVar[str] = "The run"

    run: Run
    form: str = setting("lben", "What is made of it.", option="as_")
    tuning: Mapping[str, Any] = given(Tuning)
    place: Place = Place()
    out: Path | None = setting(
        None, "Folder to write to. Default: RUN-lben, beside it.", metavar="DIR"
    )
    begun: Begun = Begun()
    machine: Machine = Machine()


@dataclass(frozen=True)
class Evaluate:
    """Measure a trained model on the test images, under one forward pass or several.

    The residual is ||f(z) - z|| / ||f(z)|| at the answer, whatever solver found it.
    Success is an equilibrium within tolerance (converged), or a flow that reached its end t1.
    """

    run: Run
    solvers: Solvers = Solvers()
    limits: Limits = Limits()
    images: ImagesToTest = ImagesToTest()
    batch: int = setting(256, "Images solved for at a time.", at_least(1))
    json: Path | None = setting(None, "Write the figures to a JSON file, too.", metavar="FILE")
    machine: Machine = Machine()


@dataclass(frozen=True)
class Predict:
    """Classify image files: the most probable classes, and whether the solver succeeded.

    Images are made grey or RGB and resized as the model's train images were. A file that cannot be
    read is told after the answers for the others, and the exit status is then 1.
    """

    run: Run
    images: list[Path] = setting(..., "PNG or JPEG files.", metavar="IMAGE...", argument=True)
    solver: str | None = setting(
        None, "Forward pass (homotopy-deq info lists them). Default: the training's."
    )
    top: int = setting(1, "Classes to name for each image.", at_least(1))
    json: bool = setting(False, "Print JSON instead of a table.")
    batch: int = like(Evaluate, "batch")
    machine: Machine = Machine()


@dataclass(frozen=True)
class Plot:
    """Draw a trained model's paths, residuals and training curves as PNG files."""

    run: Run
    kind: list[str] | None = setting(
        None,
        "paths (of z, in the plane of its principal components), residuals (against evaluations), "
        "training (curves), branch (of roots of z = z0 + lambda (f(z) - z0), lambda from 0 to 1) "
        "or collapse (what `train --track neural-collapse` measured); once or more. Default: the "
        "first three.",
    )
    solvers: Solvers = Solvers()
    samples: int = setting(5, "Images whose paths are drawn.", at_least(1))
    batch: int = setting(64, "Images that the residuals are of.", at_least(1))
    place: Place = Place()
    out: Path | None = setting(None, "Folder for the PNG files. Default: RUN/plots.", metavar="DIR")


@dataclass(frozen=True)
class Profile:
    """Say which coordinates converge when, and what early stopping, Anderson, delta updates, a
    compiled cell and bfloat16 would each save: measured on the test images, at equal residuals.

    Times are of the solves alone, one after the other in turns, after a first one that is not
    counted. Writes RUN/plots/profile.png.
    """

    run: Run
    samples: int = setting(64, "Test images to solve for, each class in its share.", at_least(1))
    rtol: float = setting(1e-3, "Relative residual that every way solves to.", above(0))
    iterations: int = setting(
        40, "Fixed iterations, which savings are measured against.", at_least(1)
    )
    repeats: int = setting(3, "Timings of each way.", at_least(1))
    skip_compiled: bool = setting(
        False, "Leave out the compiled cell: to compile it may take a minute."
    )
    place: Place = Place()
    json: Path | None = like(Evaluate, "json")
    out: Path | None = setting(None, "Folder for the PNG file. Default: RUN/plots.", metavar="DIR")
    machine: Machine = Machine()


@dataclass(frozen=True)
class Diagnose:
    """Say why a trained model's solves do not converge, and what to try, in order.

    Is the map deterministic, row-wise, free of writes; eigenvalues of its Jacobian and the growth
    of J^T; four solvers beside the model's own. Writes RUN/plots/diagnosis.png.
    """

    run: Run
    samples: int = setting(16, "Test images to look at, each class in its share.", at_least(1))
    solver: str | None = like(Predict, "solver")
    limits: Limits = Limits()
    place: Place = Place()
    json: Path | None = like(Evaluate, "json")
    out: Path | None = setting(None, "Folder for the PNG file. Default: RUN/plots.", metavar="DIR")
    machine: Machine = Machine()


@dataclass(frozen=True)
class Export:
    """Write a trained model into a folder that `from_pretrained` reads, in Python or from a hub.

    It receives model.safetensors, config.json and a model card with the settings and figures of the
    run, README.md.
    """

    run: Run
    out: Path | None = setting(None, "Folder to write to. Default: RUN/pretrained.", metavar="DIR")


@dataclass(frozen=True)
class Info:
    """Show versions, devices, and the valid names; or what a checkpoint holds."""

    run: Path | None = setting(
        None, "A run's folder or checkpoint file to look into.", metavar="[RUN]", argument=True
    )
