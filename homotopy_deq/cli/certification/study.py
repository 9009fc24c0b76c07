"""What is certified: a model and its images, all of it checked beforehand."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState  # type: ignore[import-untyped]
from torch import Tensor

import solvers

from ... import __version__
from ...certification import Journal, weights_sha256
from ...data import ImageData, stratified_order
from ...models import ImageModel
from ...settings import Settings
from ..options import ImagesToTest
from ..resolve import images_of
from ..trained import Trained, find_checkpoint

WAIT = timedelta(days=7)
"""How long a process waits for the others, whose images may take longer."""
CLEAN_BATCH = 256
PACKAGE = Path(__file__).parents[2]
ROOT = Path(solvers.__file__).parent
COMPUTING = (
    *((PACKAGE / name) for name in ("cells", "certification", "data", "lipschitz", "models")),
    *((PACKAGE / name) for name in ("entry.py", "equations.py", "layer.py", "layers.py")),
)
"""The parts of this package, beside solvers, that a vote, a bound or a radius goes through."""


def processes_of(cpu: bool) -> Any:
    """Return accelerate's view of the processes and their devices, with a GPU or without."""
    return PartialState(cpu=cpu, timeout=WAIT)


@dataclass(frozen=True)
class Study:
    """A trained model and the images to certify.

    Arguments:
        model: in eval mode, on its device, with the forward pass chosen.
        settings: of the training.
        pixels: the images, uint8 (B, C, H, W).
        labels: of the images.
        indices: of the images in the test set.
        size: numbers of a sample's state.
        identity: JSON of all this, for a journal.
        processes: accelerate's view of them.
    """

    model: ImageModel
    settings: Settings
    pixels: Tensor
    labels: Sequence[int]
    indices: Sequence[int]
    size: int
    identity: dict[str, Any]
    processes: Any

    @classmethod
    def of(
        cls,
        trained: Trained,
        images: ImagesToTest,
        *,
        model: ImageModel | None = None,
        skip: int = 0,
        cpu: bool = False,
        data: ImageData | None = None,
    ) -> Study:
        """Load what the options name.

        Arguments:
            trained: the model, with the forward pass of its training.
            images: which.
            model: the same with another forward pass.
            skip: so many of the first are left out.
            cpu: whether to leave a GPU alone.
            data: instead of the images that are named.

        Raises:
            FileNotFoundError, ValueError: what is named is not there, or is not valid; says what
                to do.
        """
        settings, model = trained.settings, model or trained.model
        data = data or images_of(settings, images.root)
        if data.shape != model.shape:
            raise ValueError(
                f"the images of {data.name} have shape {data.shape}; the model wants {model.shape}."
            )
        if data.test_images.dtype != torch.uint8:
            raise ValueError(
                f"the images of {data.name} are {data.test_images.dtype}; uint8 of 0 to 255 are "
                "wanted, which the model sees as 0 to 1: sigma and radii are in these units."
            )
        order = stratified_order(data.test_labels, settings.training.seed)[skip:][: images.limit]
        if not len(order):
            raise ValueError(
                f"--skip {skip} leaves none of the {len(data.test_labels)} test images."
            )
        processes = processes_of(cpu)
        device: torch.device = processes.device
        pixels, labels = data.test_images[order], data.test_labels[order]
        model.to(device)
        size = check_clean(model, pixels, device)
        identity = {
            "weights sha256": weights_sha256(model),
            "data": {
                "name": data.name,
                "test images": len(data.test_labels),
                "crc32": [_crc(data.test_images), _crc(data.test_labels)],
            },
            "images": {"skip": skip, "count": len(order), "crc32": _crc(order)},
            "device": device.type,
            "torch": torch.__version__,
            "arithmetic": arithmetic(),
        }
        indices = order.tolist()
        return cls(model, settings, pixels, labels.tolist(), indices, size, identity, processes)

    def journal(self, folder: Path, config: Mapping[str, Any]) -> Journal:
        """Return the journal of this process, for results that depend on `config`."""
        return Journal(folder, config, rank=self.processes.process_index)

    def image(self, place: int) -> Tensor:
        """Return the image at a place of `indices`, on the model's device, in [0, 1]."""
        return self.images([place])[0]

    def images(self, places: Sequence[int]) -> Tensor:
        """Return the images at places of `indices`, on the model's device, in [0, 1]."""
        device: torch.device = self.processes.device
        return self.pixels[places].to(device).float() / 255


def default_folder(run: Path, name: str) -> Path:
    """Return the folder for results about a run: beside its checkpoint."""
    return find_checkpoint(run).parent / name


def check_weights(model: ImageModel) -> None:
    """Raise ValueError unless all weights are finite: NaN logits would vote for class 0."""
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            bad = int((~torch.isfinite(value)).sum())
            raise ValueError(
                f"{bad} of {value.numel()} numbers of the weight {name} are not finite: nothing "
                "can be certified. The training diverged or the checkpoint was altered: train "
                "again, with a smaller --lr."
            )


@torch.no_grad()
def check_clean(model: ImageModel, pixels: Tensor, device: torch.device) -> int:
    """Raise ValueError unless the clean images' logits are finite; return the size of a state."""
    infinite = size = 0
    for k in range(0, len(pixels), CLEAN_BATCH):
        output = model.solve(pixels[k : k + CLEAN_BATCH].to(device).float() / 255)
        size = output.solution.value[0].numel()
        infinite += int((~torch.isfinite(output.logits).all(1)).sum())
    if infinite:
        raise ValueError(
            f"the logits of {infinite} of {len(pixels)} images are not finite: nothing can be "
            "certified."
        )
    return size


@cache
def arithmetic() -> dict[str, str]:
    """Return the versions that a result depends on, and a checksum of the code that computes it.

    NumPy draws the noise, SciPy computes bounds and radii; the code is named by its contents, as
    a release number does not tell two checkouts apart.
    """
    digest = hashlib.sha256()
    for base, part in [(ROOT.parent, ROOT), *((PACKAGE.parent, part) for part in COMPUTING)]:
        for file in sorted(part.rglob("*.py")) if part.is_dir() else [part]:
            digest.update(f"{file.relative_to(base).as_posix()}\n".encode())
            digest.update(file.read_bytes())
    others = {name: version(name) for name in ("numpy", "scipy")}
    return {"homotopy-deq": __version__, "source sha256": digest.hexdigest()[:16], **others}


def _crc(values: Tensor) -> int:
    return zlib.crc32(values.contiguous().numpy().tobytes())
