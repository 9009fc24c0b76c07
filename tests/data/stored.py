"""Write small data sets the way that the real ones are stored."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def pixels(n: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def write_idx(folder: Path, n: int = 20, zipped: bool = True) -> dict[str, np.ndarray]:
    """Write the four files of MNIST, with n train images and n / 2 test images of ten classes."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for part, count in (("train", n), ("t10k", n // 2)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        for kind, values in (("images-idx3", pixels(count, 28, 28)), ("labels-idx1", labels)):
            head = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
            raw = head + values.tobytes()
            name = f"{part}-{kind}-ubyte"
            if zipped:
                (folder / f"{name}.gz").write_bytes(gzip.compress(raw))
            else:
                (folder / name).write_bytes(raw)
            written[f"{part}-{kind}"] = values
    return written


def png(array: np.ndarray) -> bytes:
    """Encode (H, W) or (H, W, 3) without loss."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def tree(
    classes: Iterable[str], each: int, size: tuple[int, ...] = (32, 32, 3), seed: int = 0
) -> dict[str, bytes]:
    """Make `each` images of every class: {"class/0000.png": bytes}."""
    classes = list(classes)
    images = iter(pixels(len(classes) * each, *size, seed=seed))
    return {f"{name}/{i:04d}.png": png(next(images)) for name in classes for i in range(each)}


def below(prefix: str, files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{prefix}/{name}": data for name, data in files.items()}


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_cifar10(root: Path) -> tuple[dict[str, Any], np.ndarray]:
    """Write two train files and one test file of CIFAR-10.

    Returns the attributes with which torchvision's class takes them for the real ones (the names
    and checksums of the files), and the train images (N, C, H, W).
    """
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    images = pixels(30, 3, 32, 32)
    sums = {}
    for i, name in enumerate(("data_batch_1", "data_batch_2", "test_batch")):
        part = images[10 * i : 10 * i + 10].reshape(10, -1)
        raw = pickle.dumps({"data": part, "labels": list(range(10))})
        (folder / name).write_bytes(raw)
        sums[name] = hashlib.md5(raw).hexdigest()
    names = sorted(["airplane", "automobile", "bird", "cat", "deer"] + [f"x{i}" for i in range(5)])
    raw = pickle.dumps({"label_names": names})
    (folder / "batches.meta").write_bytes(raw)
    meta = {"filename": "batches.meta", "key": "label_names", "md5": hashlib.md5(raw).hexdigest()}
    attributes = {
        "train_list": [[name, sums[name]] for name in ("data_batch_1", "data_batch_2")],
        "test_list": [["test_batch", sums["test_batch"]]],
        "meta": meta,
    }
    return attributes, images[:20]
