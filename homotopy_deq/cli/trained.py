"""A trained model, from the folder of its run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import __version__
from ..create import create_model
from ..models import ImageModel
from ..sealed import misfit
from ..settings import Settings
from ..settings.tree import NAMES
from ..training import CHECKPOINT, Checkpoint, load_checkpoint
from ..training.header import check_header, nonfinite
from .resolve import CONSISTENCY_SAMPLES, SIZES, put


@dataclass(frozen=True)
class Trained:
    """What `homotopy-deq train` left.

    Arguments:
        checkpoint: the file.
        settings: of the run.
        model: in eval mode, with the weights that were best on validation.
    """

    checkpoint: Checkpoint
    settings: Settings
    model: ImageModel

    @classmethod
    def of(cls, path: Path) -> Trained:
        """Read a run's folder or its checkpoint file. Loading runs no code from it.

        Raises:
            FileNotFoundError: there is no such file.
            CheckpointError: it is no checkpoint of `homotopy-deq train`, or is damaged; the line
                names the file and the fault.
        """
        return cls.from_checkpoint(load_checkpoint(find_checkpoint(path)))

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> Trained:
        """Rebuild the model of a checkpoint; errors as in `of`."""
        settings = settings_of(checkpoint)
        config = checkpoint.meta["about"]["model"]["config"]

        def build() -> ImageModel:
            return put(create_model(settings.model.name, **config), settings)

        best = checkpoint.under("best") or checkpoint.meta["best"]
        groups = ("model", "best") if best else ("model",)
        return cls(checkpoint, settings, checkpoint.module(build, config, *groups))

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes."""
        classes: Sequence[str] = self.checkpoint.meta["about"]["classes"]
        return classes


def find_checkpoint(path: Path) -> Path:
    """Return the checkpoint that a path names: the file, or the one in a run's folder."""
    return path / CHECKPOINT if path.is_dir() else path


def settings_of(checkpoint: Checkpoint) -> Settings:
    """Return the choices behind a checkpoint.

    Raises:
        CheckpointError: it was not written by `homotopy-deq train`, or is damaged.
    """
    check_header(checkpoint)
    meta = checkpoint.meta
    about = meta["about"]
    wrong = misfit({"spec": dict, "classes": [str]}, about)
    wrong = wrong or nonfinite(about["spec"], "spec") or nonfinite(about["model"], "model")
    if wrong is not None:
        raise checkpoint.fault(wrong)
    spec, config = about["spec"], about["model"]["config"]
    if unknown := sorted(spec.keys() - NAMES.keys()):
        raise checkpoint.fault(
            f"homotopy-deq {meta.get('version', '0.1.0 or older')} wrote it, with settings that "
            f"this one, {__version__}, does not know ({', '.join(unknown)}): read it with that one"
        )
    try:
        named = {name: value for name, value in spec.items() if value is not None}
        if named.get("consistency"):  # version 0.1.0 kept no default
            named.setdefault("noise_samples", CONSISTENCY_SAMPLES)
        settings = Settings.of({**named, "data": meta.get("root")})
    except (TypeError, ValueError) as error:
        raise checkpoint.fault(f"spec.{error}") from error
    for name in SIZES:
        if name in config and spec.get(name, config[name]) != config[name]:
            raise checkpoint.fault(
                f"it says {name} = {config[name]} of the model and {spec[name]} of the run"
            )
    return settings
