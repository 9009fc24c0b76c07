"""Decode image files to uint8 tensors of one shape."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

Shape = tuple[int, int, int]
GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "F")  # Pillow's modes without colour


def read_images(paths: Sequence[Path], shape: Shape) -> Tensor:
    """Read image files as a model of this shape wants them: grey or RGB, resized, cropped.

    The shorter side is resized and the longer one cropped about the centre, as for the train
    images of an `imagefolder`.

    Arguments:
        paths: PNG, JPEG or other files that Pillow reads.
        shape: (C, H, W), with C = 1 for grey or 3 for RGB.

    Returns:
        uint8, shape (len(paths), C, H, W).

    Raises:
        FileNotFoundError: a path is no file.
        ValueError: a file is no image.
    """
    images = torch.empty(len(paths), *shape, dtype=torch.uint8)
    for row, path in zip(images.numpy(), map(Path, paths), strict=True):
        if not path.is_file():
            raise FileNotFoundError(f"no image at {path}: it is no file.")
        with path.open("rb") as file:
            row[:] = decode(file, shape, str(path))
    return images


def decode(file: BinaryIO, shape: Shape, name: str, *, exact: bool = False) -> np.ndarray:
    """Decode one image file to uint8 (C, H, W).

    Arguments:
        file: the open file.
        shape: (C, H, W), with C in {1, 3}.
        name: what an error calls the file.
        exact: refuse an image of another size where resizing would change what is measured.
    """
    from PIL import Image, ImageOps

    channels, height, width = shape
    if channels not in (1, 3):
        raise ValueError(f"images have 1 channel (grey) or 3 (RGB); the shape wanted is {shape}.")
    image = _opened(file, name)
    if image.size != (width, height):
        if exact:
            given = f"{image.width}x{image.height}"
            raise ValueError(f"{name} is {given}; the images of this set are {width}x{height}.")
        image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def probe(file: BinaryIO, name: str) -> tuple[tuple[int, int], bool]:
    """Read an image's (height, width) and whether it has colour, from its header alone."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            turned = image.getexif().get(ORIENTATION, 1) >= 5  # 5 to 8 lie on their side
            size = (image.width, image.height) if turned else (image.height, image.width)
            return size, image.mode not in GREY_MODES
    except _failures() as error:
        raise _no_image(name, error) from error


ORIENTATION = 0x0112  # Exif 2.3, table 4


def _opened(file: BinaryIO, name: str) -> Image:
    """Decode as the camera was held, with 16 bits a pixel reduced to 8."""
    from PIL import Image, ImageOps

    try:
        image = ImageOps.exif_transpose(Image.open(file))
        image.load()
    except _failures() as error:
        raise _no_image(name, error) from error
    if image.mode.startswith("I"):  # convert("L") would clip at 255
        return Image.fromarray((np.asarray(image) // 257).clip(0, 255).astype(np.uint8))
    return image


def _failures() -> tuple[type[Exception], ...]:
    """What Pillow raises for a broken file, by format."""
    from PIL import Image

    return (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


def _no_image(name: str, error: Exception) -> ValueError:
    return ValueError(
        f"{name} is no image that Pillow can read ({error}): give a PNG, a JPEG or the like."
    )
