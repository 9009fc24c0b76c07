"""Images in a folder for each class, on disk or in zip files."""

from __future__ import annotations

import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import torch
from torch import Tensor

from .image_files import Shape, decode, probe
from .source import Found, Place, Split

EXTENSIONS = {
    ".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp", ".gif",
}  # fmt: skip
DEFAULT_SIZE = 64
LARGEST = 2**28
"""Bytes of a file in a zip file: the largest photograph as a TIFF, and no bomb."""
UNREADABLE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, RuntimeError)
"""What zipfile raises; an unknown compression and an encrypted file are `RuntimeError`s."""
ByClass = dict[str, list[str]]


@dataclass(frozen=True)
class Tree:
    """The image files below a folder or in a zip file.

    Arguments:
        path: the folder or the zip file.
        names: the files' names in it, with forward slashes, sorted.
    """

    path: Path
    names: tuple[str, ...]

    @classmethod
    def at(cls, path: Path) -> Tree:
        """List the images at a path; none where there is neither folder nor zip file."""
        if path.is_dir():
            files = (file for file in path.rglob("*") if file.is_file())
            return cls(path, _images(file.relative_to(path).as_posix() for file in files))
        if path.suffix.lower() == ".zip" and path.is_file():
            with _archive(path) as archive:
                return cls(path, _images(archive.namelist()))
        return cls(path, ())

    @contextmanager
    def opener(self) -> Iterator[Callable[[str], BinaryIO]]:
        """Give a function that opens one of the files by name."""
        if self.path.is_dir():
            yield lambda name: (self.path / name).open("rb")
        else:
            with _archive(self.path) as archive:
                yield lambda name: _member(archive, name, self.path)

    def parts(self) -> dict[str, ByClass]:
        """Sort the files into "train" and "test", or "" for a tree without them, and by class."""
        paths = [(PurePosixPath(name).parts, name) for name in self.names]
        while paths and _wrapped([parts for parts, _ in paths]):
            paths = [(parts[1:], name) for parts, name in paths]
        levels = {parts[0].lower() for parts, _ in paths if len(parts) > 2}
        found: dict[str, ByClass] = {}
        for parts, name in paths:
            part = ""
            if "train" in levels:
                part, parts = parts[0].lower(), parts[1:]
            if len(parts) > 1:  # a file beside the class folders belongs to no class
                found.setdefault(part, {}).setdefault(parts[0], []).append(name)
        return found


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise ValueError(
            f"{path} is no zip file that can be read ({error}): fetch it again, or pack it anew."
        ) from error
    with archive:
        yield archive


def _member(archive: zipfile.ZipFile, name: str, path: Path) -> BinaryIO:
    """Unpack a file into memory, never onto the disk.

    Raises:
        KeyError: there is none of the name.
        ValueError: it is damaged, or would unpack to more than `LARGEST`.
    """
    size = archive.getinfo(name).file_size
    if size > LARGEST:
        raise ValueError(
            f"{path}/{name} would unpack to {size / 2**20:,.0f} MiB, and no image is read above "
            f"{LARGEST >> 20}: take it out of the zip file."
        )
    try:
        return io.BytesIO(archive.read(name))  # no more than the size that was said
    except UNREADABLE as error:
        raise ValueError(
            f"{path}/{name} cannot be unpacked ({error}): fetch the zip file again, "
            "or pack it anew."
        ) from error


def folder_places(root: Path, size: int | None) -> list[Place]:
    """Look for a user's own images, of any size, at a folder or zip file."""
    kept = f"{root}/train/<class>/* and {root}/test/<class>/* (or val), or zip files of those"
    return [
        Place(kept, lambda: _found(_pair(root), None, size)),
        Place(f"{root}/<class>/*, or such a zip file", lambda: _found((root, None), None, size)),
    ]


def named_places(root: Path, name: str, shape: Shape, classes: int) -> list[Place]:
    """Look for a known data set of one shape as folders or zip files of images."""
    folder, whole = root / name, root / f"{name}.zip"
    zips = (root / f"{name}-train.zip", root / f"{name}-test.zip")

    def place(wanted: str, paths: Callable[[], tuple[Path, Path | None]]) -> Place:
        def open_() -> Found | None:
            train, test = paths()
            found = _found((train, test), shape, None, classes)
            return found if found is not None and found.test is not None else None

        return Place(f"{wanted} ({classes} classes, train/<class>/* and test/<class>/*)", open_)

    if root.is_file():
        return [place(f"{root}", lambda: (root, None))]
    return [
        place(f"{zips[0]} and {zips[1].name}", lambda: zips),
        place(f"{whole}", lambda: (whole, None)),
        place(f"{folder}/", lambda: _pair(folder)),
    ] + ([place(f"{root}/", lambda: (root, None))] if (root / "train").is_dir() else [])


def _pair(root: Path) -> tuple[Path, Path | None]:
    """Choose the paths of the train and test images; None where one path holds both."""
    zips = sorted(root.glob("*.zip")) if root.is_dir() else []
    trains = [path for path in zips if path.stem.lower().endswith("train")]
    if (root / "train").is_dir() or not trains:
        return root, None
    if len(trains) > 1:
        names = ", ".join(path.name for path in trains)
        raise ValueError(f"{root} holds several train sets ({names}): leave one, or name the zip.")
    prefix = trains[0].stem[: -len("train")].lower()
    tests = [path for path in zips if path.stem.lower() in (f"{prefix}test", f"{prefix}val")]
    return trains[0], tests[0] if tests else None


def _found(
    paths: tuple[Path, Path | None], shape: Shape | None, size: int | None, classes: int = 0
) -> Found | None:
    train_path, test_path = paths
    train_tree = Tree.at(train_path)
    parts = train_tree.parts()
    train, test, test_tree = parts.get("train", parts.get("", {})), _test(parts), train_tree
    if test_path is not None:
        test_tree = Tree.at(test_path)
        parts = test_tree.parts()
        test = parts.get("", {}) or _test(parts)
    if not train or (classes and len(train) != classes):
        return None
    names = tuple(sorted(train))
    if len(names) < 2:
        raise ValueError(
            f"{train_path} should hold a folder for each class; got only {', '.join(names)}."
        )
    if strangers := sorted(set(test) - set(names)):
        raise ValueError(
            f"the test images have classes that the train images lack: {', '.join(strangers)}."
        )
    exact = shape is not None
    if shape is None:
        shape = _shape([(train_tree, train), (test_tree, test)], size)
    where = train_path.name if test_path is None else f"{train_path.name} and {test_path.name}"
    return Found(
        split_of(train_tree, train, names, shape, exact=exact),
        split_of(test_tree, test, names, shape, exact=exact) if test else None,
        names,
        f"the image files of {where}",
    )


def split_of(
    tree: Tree, by_class: ByClass, classes: tuple[str, ...], shape: Shape, *, exact: bool
) -> Split:
    """Return the images of a tree with the number of their class, to be decoded when asked for.

    Arguments:
        tree: where they lie.
        by_class: names of files by class.
        classes: in the order of their numbers.
        shape: (C, H, W).
        exact: refuse an image of another size.
    """
    files = [(name, label) for label, key in enumerate(classes) for name in by_class.get(key, [])]

    def read(index: Tensor) -> Tensor:
        images = torch.empty(len(index), *shape, dtype=torch.uint8)
        with tree.opener() as open_:
            for row, i in zip(images.numpy(), index.tolist(), strict=True):
                name = files[i][0]
                with open_(name) as file:
                    row[:] = decode(file, shape, f"{tree.path}/{name}", exact=exact)
        return images

    return Split(torch.tensor([label for _, label in files]), read)


def _shape(trees: list[tuple[Tree, ByClass]], size: int | None) -> Shape:
    """Choose one shape: grey if all images are, and small images of one size as they are."""
    sizes: set[tuple[int, int]] = set()
    colour = False
    for tree, by_class in trees:
        with tree.opener() as open_:
            for name in (name for names in by_class.values() for name in names):
                with open_(name) as file:
                    found, coloured = probe(file, f"{tree.path}/{name}")
                sizes.add(found)
                colour |= coloured
    height, width = next(iter(sizes))
    if size is not None or len(sizes) > 1 or max(height, width) > DEFAULT_SIZE:
        height = width = size or DEFAULT_SIZE
    return 3 if colour else 1, height, width


def _test(parts: dict[str, ByClass]) -> ByClass:
    return parts.get("test") or parts.get("val") or {}


def _wrapped(paths: list[tuple[str, ...]]) -> bool:
    """Tell whether all lies in one folder that is neither a class nor a part."""
    first = paths[0][0]
    alike = all(len(parts) > 2 and parts[0] == first for parts in paths)
    return alike and first.lower() != "train"


def _images(names: Iterable[str]) -> tuple[str, ...]:
    """Keep the images, without hidden files and those that macOS adds to a zip file."""
    paths = map(PurePosixPath, names)
    return tuple(
        sorted(
            str(path)
            for path in paths
            if path.suffix.lower() in EXTENSIONS
            and not any(part.startswith((".", "__MACOSX")) for part in path.parts)
        )
    )
