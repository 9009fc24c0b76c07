"""Which images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from .declare import at_least, described, setting


@dataclass(frozen=True)
class Place:
    """Where images are looked for; decides nothing."""

    PANEL: ClassVar[str] = "The images"

    root: Path | None = setting(
        None,
        "Folder (or zip file) to look for the images in. Default: where the run found them, else "
        "./data.",
        option="data",
        metavar="DIR",
        decides=False,
    )


@described
@dataclass(frozen=True)
class DataSettings:
    """The data set, and how much of it."""

    PANEL: ClassVar[str] = "The images"

    name: str = setting(
        "digits",
        "digits (built in), mnist, fashion-mnist, cifar10, cifar100, svhn, tiny-imagenet, ... "
        "(homotopy-deq info lists them), or imagefolder for your own.",
        option="dataset",
    )
    place: Place = Place()
    limit: int | None = setting(
        None, "Use so many train images, validation included. Default: all.", at_least(1)
    )
    test_limit: int | None = setting(
        None, "Use so many test images, each class in its share. Default: all.", at_least(1)
    )
    image_size: int | None = setting(
        None, "imagefolder: side in pixels. Default: 64, or as they are.", at_least(1)
    )
