"""Tiny-ImageNet as it is distributed, in a folder or its zip file."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from .image_files import Shape
from .image_folder import ByClass, Tree, named_places, split_of
from .source import Found, Place

NAME = "tiny-imagenet"
FOLDER = "tiny-imagenet-200"
SHAPE: Shape = (3, 64, 64)
LIST, ANNOTATIONS = "wnids.txt", "val/val_annotations.txt"


def tiny_imagenet_places(root: Path) -> list[Place]:
    """Look for Tiny-ImageNet; its validation images, which have labels, are the test images.

    References:
        Y. Le, X. Yang (2015), Tiny ImageNet visual recognition challenge.
    """
    wanted = f"{LIST}, train/<wnid>/images/* and {ANNOTATIONS} with val/images/*"
    homes = [root] if root.is_file() else [root / FOLDER, root / NAME, root, root / f"{FOLDER}.zip"]
    own = [Place(f"{home} ({wanted})", partial(_open, home)) for home in homes]
    return own + named_places(root, NAME, SHAPE, 200)


def _open(home: Path) -> Found | None:
    if home.is_dir() and not (home / LIST).is_file():
        return None  # before all that may lie there is listed
    tree = Tree.at(home)
    train_files = [name for name in tree.names if "/train/" in f"/{name}"]
    if not train_files:
        return None
    above = f"/{train_files[0]}".split("/train/")[0][1:]
    within = f"{above}/" if above else ""
    with tree.opener() as open_:
        try:
            texts = [open_(within + name).read().decode() for name in (LIST, ANNOTATIONS)]
        except (KeyError, FileNotFoundError):
            return None  # images in folders, of another layout
    classes = tuple(texts[0].split())
    train: ByClass = {}
    for name in train_files:
        train.setdefault(name.removeprefix(f"{within}train/").split("/")[0], []).append(name)
    test: ByClass = {}
    there = set(tree.names)
    for line in texts[1].splitlines():
        file, wnid, *_ = (*line.split("\t"), "")
        if (name := f"{within}val/images/{file}") not in there or wnid not in classes:
            raise ValueError(
                f"{home}/{ANNOTATIONS} names {file} of {wnid or 'no class'}, and there is no such "
                f"image or no such class in {LIST}: unpack it again."
            )
        test.setdefault(wnid, []).append(name)
    if apart := sorted({*train} ^ {*classes}):
        raise ValueError(
            f"{home}: {LIST} and the folders of train disagree on {', '.join(apart[:3])}"
            f"{', ...' if len(apart) > 3 else ''}: unpack it again."
        )
    return Found(
        split_of(tree, train, classes, SHAPE, exact=True),
        split_of(tree, test, classes, SHAPE, exact=True),
        classes,
        f"the image files of {home.name}, tested on its validation images",
    )
