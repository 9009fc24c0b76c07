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
        ValueError: a file is no image, or has more than 8 bits a pixel and an unknown scale.
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
    """Decode as the camera was held, with more than 8 bits a pixel reduced to 8."""
    from PIL import Image, ImageOps

    try:
        opened = Image.open(file)
        image = ImageOps.exif_transpose(opened)
        image.load()
        bits = _bits(opened, file) if image.mode[0] in "IF" else None
    except _failures() as error:
        raise _no_image(name, error) from error
    if image.mode[0] in "IF":  # convert("L") would clip at 255
        return Image.fromarray(_eight_bits(np.asarray(image), bits, name))
    return image


MAX_SAMPLE_VALUE = 281  # TIFF 6.0, section 8
DEEPEST_ASKED = 12  # bits: cameras, microscopes and scanners store these in 16


def _bits(image: Image, file: BinaryIO) -> int | None:
    """Return how many bits the samples of an image have, where a PNG (sBIT) or TIFF says so."""
    largest = getattr(image, "tag_v2", {}).get(MAX_SAMPLE_VALUE)
    if largest is not None:
        return int(np.max(largest)).bit_length() or None
    if image.format != "PNG":
        return None
    file.seek(8)
    while len(head := file.read(8)) == 8 and head[4:] != b"IDAT":
        data = file.read(int.from_bytes(head[:4], "big") + 4)  # and a checksum
        if head[4:] == b"sBIT":  # PNG 1.2, 4.2.6
            return data[0] or None
    return None


def _eight_bits(values: np.ndarray, bits: int | None, name: str) -> np.ndarray:
    """Scale samples of many bits to 0 .. 255.

    Without a word of the file's, whole numbers of 16 bits fill them; where they do not, as 12-bit
    data in 16-bit files, or are wider, or are no whole numbers, the scale is the user's to say.
    """
    ask = "Scale the images to 8 bits, or to 16, and store them anew."
    low, high = values.min(initial=0), values.max(initial=0)
    if values.dtype.kind == "f":
        if not 0 <= low <= high <= 1:
            raise ValueError(
                f"{name} holds floating-point numbers from {low:g} to {high:g}, where [0, 1] has "
                f"a meaning. {ask}"
            )
        return np.asarray((values * 255).round().astype(np.uint8))
    full = 2**bits - 1 if bits else 2**16 - 1
    if low < 0 or high > full:
        raise ValueError(f"{name} holds whole numbers from {low} to {high}, not 0 to {full}. {ask}")
    if not bits and 0 < high < 2**DEEPEST_ASKED:
        raise ValueError(
            f"{name} has 16 bits a pixel or more, and no number above {high}: it may be of "
            f"{DEEPEST_ASKED} bits or fewer, or dark, and does not say. {ask}"
        )
    return np.asarray((values.astype(np.int64) * 255 // full).astype(np.uint8))


def _failures() -> tuple[type[Exception], ...]:
    """What Pillow raises for a broken file, by format."""
    from PIL import Image

    return (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


def _no_image(name: str, error: Exception) -> ValueError:
    return ValueError(
        f"{name} is no image that Pillow can read ({error}): give a PNG, a JPEG or the like."
    )
