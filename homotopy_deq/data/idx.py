"""The idx files of MNIST and Fashion-MNIST, gzipped or plain."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

from .source import Found, Place, Split, in_memory

LARGEST = 2**29  # bytes unpacked: ten times MNIST, and no bomb
UNSIGNED_BYTE = 0x08  # the idx format's code for its type; both data sets use no other


def read_idx(path: Path) -> np.ndarray:
    """Read one idx file of unsigned bytes: two zeros, the type, the rank, the sizes, the values.

    Raises:
        ValueError: the file is no such file, or is cut short.

    References:
        Y. LeCun, C. Cortes and C. Burges (1998). The MNIST database of handwritten digits.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            raw = file.read(LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read ({error}): fetch it again.") from error
    if len(raw) > LARGEST:
        raise ValueError(f"{path} holds more than {LARGEST >> 20} MiB: fetch it again.")
    if len(raw) < 4 or raw[:3] != bytes((0, 0, UNSIGNED_BYTE)):
        raise ValueError(f"{path} is no idx file of unsigned bytes: it begins with {raw[:4]!r}.")
    rank = raw[3]
    shape = np.frombuffer(raw, ">u4", count=rank, offset=4) if len(raw) >= 4 + 4 * rank else ()
    values = np.frombuffer(raw, np.uint8, offset=min(4 + 4 * rank, len(raw)))
    if len(shape) != rank or values.size != int(np.prod(shape, dtype=np.int64)):
        raise ValueError(f"{path} is cut short or too long: fetch it again.")
    array: np.ndarray = values.reshape([int(size) for size in shape]).copy()
    return array  # a copy, as what frombuffer gives cannot be written to


def idx_place(folder: Path, classes: tuple[str, ...]) -> Place:
    """Look for the four idx files in a folder."""

    def open_() -> Found | None:
        files = [_find(folder, part, kind) for part in ("train", "t10k") for kind in KINDS]
        found = [file for file in files if file is not None]
        if len(found) < len(files):
            return None
        train_images, train_labels, test_images, test_labels = map(read_idx, found)
        return Found(
            _images(train_images, train_labels, folder),
            _images(test_images, test_labels, folder),
            classes,
            f"the idx files in {folder.name}",
        )

    return Place(f"{folder}/{{train,t10k}}-{{images-idx3,labels-idx1}}-ubyte[.gz]", open_)


KINDS = ("images-idx3-ubyte", "labels-idx1-ubyte")


def _find(folder: Path, part: str, kind: str) -> Path | None:
    # Some mirrors write a dot before "idx".
    names = [f"{part}-{spelled}{end}" for spelled in (kind, kind.replace("-idx", ".idx"))
             for end in ("", ".gz")]  # fmt: skip
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _images(images: np.ndarray, labels: np.ndarray, folder: Path) -> Split:
    if images.ndim != 3 or labels.ndim != 1:
        raise ValueError(
            f"the idx files in {folder} should hold images of rank 3 and labels of rank 1; "
            f"got ranks {images.ndim} and {labels.ndim}."
        )
    return in_memory(images[:, None], labels)
