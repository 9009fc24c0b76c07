"""The data sets in torchvision's own layouts, and their download."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from .source import Found, Place, in_memory


def cifar_place(root: Path, kind: str, folder: str) -> Place:
    """Look for CIFAR-10 or CIFAR-100 as torchvision unpacks it."""

    def read(sets: ModuleType) -> Found:
        parts = [getattr(sets, kind)(root, train=train) for train in (True, False)]
        train, test = (
            in_memory(_channels_first(part.data), np.asarray(part.targets)) for part in parts
        )
        return Found(train, test, tuple(parts[0].classes), f"torchvision's {kind}")

    path = root / folder
    return Place(f"{path}/", lambda: _open(path, read) if path.is_dir() else None)


def svhn_place(root: Path) -> Place:
    """Look for SVHN's two Matlab files of cropped digits."""

    def read(sets: ModuleType) -> Found:
        parts = [sets.SVHN(root, split=split) for split in ("train", "test")]
        train, test = (in_memory(part.data, part.labels) for part in parts)
        return Found(train, test, tuple("0123456789"), "torchvision's SVHN")

    files = [root / f"{split}_32x32.mat" for split in ("train", "test")]
    there = all(file.is_file() for file in files)
    wanted = f"{files[0]} and {files[1].name}"
    return Place(wanted, lambda: _open(files[0], read) if there else None)


def download(root: Path, kind: str) -> None:
    """Fetch a data set into torchvision's layout below a folder.

    Raises:
        OSError: it could not be fetched.
    """
    choose: list[dict[str, Any]] = [{"train": True}, {"train": False}]
    if kind == "SVHN":
        choose = [{"split": "train"}, {"split": "test"}]
    for part in choose:
        try:
            getattr(_datasets(root), kind)(root, download=True, **part)
        except (OSError, RuntimeError) as error:
            raise OSError(
                f"{kind} could not be downloaded to {root} ({error}): "
                "try again, or put the files there by hand."
            ) from error


def _open(path: Path, read: Callable[[ModuleType], Found]) -> Found:
    try:
        return read(_datasets(path))
    except RuntimeError as error:  # torchvision checks the files against their known checksums
        raise ValueError(
            f"{path} is incomplete or was changed ({error}): remove it and fetch it again."
        ) from error


def _datasets(path: Path) -> ModuleType:
    try:
        from torchvision import datasets
    except ImportError as error:
        raise ImportError(
            f"{path} is in torchvision's layout, and torchvision cannot be imported ({error}): "
            "pip install 'homotopy-deq[data]', in the version that goes with your torch."
        ) from error
    module: ModuleType = datasets
    return module


def _channels_first(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
