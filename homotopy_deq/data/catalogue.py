"""The data sets by name, and where they are looked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from solvers.caller import warn_caller

from .idx import idx_place
from .image_data import ImageData
from .image_files import Shape
from .image_folder import folder_places, named_places
from .source import TEST_FRACTION, TEST_SEED, Found, Place, Split, in_memory
from .stratified import split, subset
from .tiny_imagenet import SHAPE, tiny_imagenet_places
from .torchvision_sets import cifar_place, download, svhn_place

DEFAULT_ROOT = Path("data")
FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


@dataclass(frozen=True)
class DataSet:
    """Describe one data set: how it is called and read.

    Arguments:
        title: its name in prose.
        shape: (C, H, W), or None where the files decide.
        places: lists where to look below a folder, most specific first.
        kind: torchvision's class, which can download it; None where there is none.
        stored: whether it lies in a folder of the user's, not in a package.
    """

    title: str
    shape: Shape | None
    places: Callable[[Path], list[Place]]
    kind: str | None = None
    stored: bool = True


def digits() -> Found:
    """Read the 1,797 grey 8x8 digits, whose 17 levels 0..16 are spread over 0..255.

    References:
        E. Alpaydin and C. Kaynak (1998). Optical recognition of handwritten digits. UCI.
    """
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = np.rint(pixels.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    return Found(in_memory(images, labels), None, tuple("0123456789"), "scikit-learn's load_digits")


def _idx(name: str, kind: str, classes: tuple[str, ...]) -> Callable[[Path], list[Place]]:
    def places(root: Path) -> list[Place]:
        folders = [root / kind / "raw", root / kind, root / name]
        # Both sets name their files alike: a folder called after one does not hold the other.
        if root.name.lower() not in {"mnist", "fashion-mnist", "fashionmnist"} - {
            name,
            kind.lower(),
        }:
            folders += [root / "raw", root]
        idx = [idx_place(folder, classes) for folder in folders]
        return idx + named_places(root, name, (1, 28, 28), 10)

    return places


def _cifar(name: str, kind: str, folder: str, classes: int) -> Callable[[Path], list[Place]]:
    def places(root: Path) -> list[Place]:
        roots = (root, root / kind, root / name)
        cifar = [cifar_place(each, kind, folder) for each in roots]
        return cifar + named_places(root, name, (3, 32, 32), classes)

    return places


def _svhn(root: Path) -> list[Place]:
    roots = (root, root / "SVHN", root / "svhn")
    return [svhn_place(each) for each in roots] + named_places(root, "svhn", (3, 32, 32), 10)


DATASETS: dict[str, DataSet] = {
    "digits": DataSet("digits", (1, 8, 8), lambda _: [Place("scikit-learn", digits)], stored=False),
    "mnist": DataSet("MNIST", (1, 28, 28), _idx("mnist", "MNIST", tuple("0123456789")), "MNIST"),
    "fashion-mnist": DataSet(
        "Fashion-MNIST",
        (1, 28, 28),
        _idx("fashion-mnist", "FashionMNIST", FASHION),
        "FashionMNIST",
    ),
    "cifar10": DataSet(
        "CIFAR-10",
        (3, 32, 32),
        _cifar("cifar10", "CIFAR10", "cifar-10-batches-py", 10),
        "CIFAR10",
    ),
    "cifar100": DataSet(
        "CIFAR-100",
        (3, 32, 32),
        _cifar("cifar100", "CIFAR100", "cifar-100-python", 100),
        "CIFAR100",
    ),
    "svhn": DataSet("SVHN", (3, 32, 32), _svhn, "SVHN"),
    "tiny-imagenet": DataSet("Tiny-ImageNet", SHAPE, tiny_imagenet_places),
    "imagefolder": DataSet("image folder", None, lambda root: folder_places(root, None)),
}
"""The data sets that `load` and the command line know, by name; one of your own is added to it."""


def load(
    name: str = "digits",
    root: Path | None = None,
    *,
    limit: int | None = None,
    test_limit: int | None = None,
    seed: int = 0,
    download: bool = False,
    image_size: int | None = None,
) -> ImageData:
    """Load a data set by name, from files that are there.

    A set that comes without test images is split 80 to 20, each class in its share, the same way
    for every seed; a user's own folder says so by a `UserWarning`.

    Arguments:
        name: a key of `DATASETS`.
        root: the folder to look in (an `imagefolder` may be a zip file); ./data by default.
        limit: use so many train images, each class in its share; None uses all.
        test_limit: the same for the test images.
        seed: chooses the images for the limits; 0 or more.
        download: fetch the set through torchvision if it is not there.
        image_size: for `imagefolder`, the side in pixels to resize and crop to. By default small
            images (up to 64) of one size stay as they are, and others become 64x64.

    Raises:
        FileNotFoundError: the files are nowhere; the message lists the places.
        ValueError: the name or a limit is not valid, or a file is broken.
    """
    data_set = DATASETS.get(name)
    if data_set is None:
        raise ValueError(f"name must be one of {', '.join(DATASETS)}; got {name!r}.")
    if image_size is not None and (name != "imagefolder" or image_size < 1):
        raise ValueError(
            f"image_size is for imagefolder and at least 1; got {image_size} for {name}."
        )
    root = DEFAULT_ROOT if root is None else Path(root).expanduser()
    places = folder_places(root, image_size) if image_size else data_set.places(root)
    found = _search(places)
    if found is None and download:
        found = _downloaded(data_set, root)
    if found is None:
        raise FileNotFoundError(_missing(data_set, root, places))
    train, test = found.train, found.test
    source = found.source
    if test is None:
        train, test = _parted(train)
        source += f", {TEST_FRACTION:.0%} of them held out as the test set"
        if name == "imagefolder":
            warn_caller(
                f"{root} has no test images: {len(test.labels)} of its "
                f"{len(train.labels) + len(test.labels)} images, the same ones in every run, "
                "became the test set."
            )
    train_index = subset(train.labels, limit, seed)
    test_index = subset(test.labels, test_limit, seed)
    return ImageData(
        name,
        train.read(train_index),
        train.labels[train_index],
        test.read(test_index),
        test.labels[test_index],
        found.classes,
        source,
        root.absolute() if data_set.stored else None,
    )


def _search(places: list[Place]) -> Found | None:
    return next((found for place in places if (found := place.open()) is not None), None)


def _parted(whole: Split) -> tuple[Split, Split]:
    """Hold out a test set."""
    parts = split(whole.labels, TEST_FRACTION, TEST_SEED)

    def part(chosen: torch.Tensor) -> Split:
        return Split(whole.labels[chosen], lambda index: whole.read(chosen[index]))

    return part(parts[0]), part(parts[1])


def _downloaded(data_set: DataSet, root: Path) -> Found | None:
    if data_set.kind is None:
        return None
    download(root, data_set.kind)
    return _search(data_set.places(root))


def _missing(data_set: DataSet, root: Path, places: list[Place]) -> str:
    there = "" if root.exists() else " (there is no such folder)"
    if root.is_file():
        return (
            f"{root} is no {data_set.title} of one file, which holds train/<class>/* and "
            f"test/<class>/*. Give the folder that the files lie in: --data {root.parent}, or, "
            "unpacked, the one that it becomes."
        )
    looked = "".join(f"\n  {place.wanted}" for place in places)
    fetch = (
        f", or fetch it through torchvision: download=True or --download puts it in {root}"
        if data_set.kind
        else ""
    )
    return (
        f"no {data_set.title} in {root}{there}. Looked for:{looked}\n"
        f"Say where it is (root=DIR or --data DIR){fetch}."
    )
