"""Images of any kind become uint8 tensors of the shape asked for."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, TiffImagePlugin

from homotopy_deq.data import read_images
from tests.data.stored import pixels


def saved(path: Path, array: np.ndarray, **settings: object) -> Path:
    Image.fromarray(array).save(path, **settings)  # type: ignore[arg-type]
    return path


def test_image_of_the_right_shape_is_read_unchanged(tmp_path: Path) -> None:
    colour, grey = pixels(1, 6, 5, 3)[0], pixels(1, 6, 5)[0]
    read = read_images([saved(tmp_path / "a.png", colour)], (3, 6, 5))
    assert read.dtype == torch.uint8
    assert (read[0].numpy() == colour.transpose(2, 0, 1)).all()
    assert (read_images([saved(tmp_path / "b.png", grey)], (1, 6, 5))[0, 0].numpy() == grey).all()


def test_grey_becomes_three_equal_channels_and_colour_its_luma(tmp_path: Path) -> None:
    grey = saved(tmp_path / "grey.png", pixels(1, 4, 4)[0])
    red, green, blue = read_images([grey], (3, 4, 4))[0]
    assert red.equal(green) and green.equal(blue)
    pure = np.zeros((4, 4, 3), np.uint8)
    pure[..., 1] = 200
    luma = read_images([saved(tmp_path / "green.png", pure)], (1, 4, 4))
    # ITU-R 601 weighs green with 0.587; Pillow rounds to one level.
    assert (luma.float() - 0.587 * 200).abs().max() <= 1


def test_longer_side_is_cropped_about_the_centre(tmp_path: Path) -> None:
    wide = np.zeros((10, 30), np.uint8)
    wide[:, 10:20] = 255
    assert (read_images([saved(tmp_path / "wide.png", wide)], (1, 10, 10)) == 255).all()
    assert (read_images([saved(tmp_path / "tall.png", wide.T.copy())], (1, 10, 10)) == 255).all()


def test_sixteen_bits_keep_their_range(tmp_path: Path) -> None:
    deep = np.array([[0, 257 * 100], [257 * 200, 65535]], np.uint16)
    read = read_images([saved(tmp_path / "deep.png", deep)], (1, 2, 2))
    assert read.flatten().tolist() == [0, 100, 200, 255]


def test_photo_is_turned_as_the_camera_was_held(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right to see it upright
    stored = np.array([[0, 0], [255, 255]], np.uint8)
    read = read_images([saved(tmp_path / "a.png", stored, exif=exif)], (1, 2, 2))
    assert read[0, 0].tolist() == [[255, 0], [255, 0]]


def test_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    text, cut = tmp_path / "notes.txt", tmp_path / "cut.png"
    text.write_text("no image")
    whole = saved(tmp_path / "whole.png", pixels(1, 30, 30)[0]).read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    for path in (text, cut):
        with pytest.raises(ValueError, match=path.name):
            read_images([path], (1, 8, 8))
    with pytest.raises(FileNotFoundError):
        read_images([tmp_path / "absent.png"], (1, 8, 8))


def test_shape_of_two_channels_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", pixels(1, 4, 4)[0])
    with pytest.raises(ValueError, match="channel"):
        read_images([path], (2, 4, 4))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_a_file_of_16_bits_that_says_how_many_it_uses_is_scaled_by_them(tmp_path: Path) -> None:
    twelve = np.array([[0, 819], [2457, 4095]], np.uint16)
    plain = saved(tmp_path / "plain.png", twelve).read_bytes()
    # The signature and the header take 33 bytes; the chunk of significant bits follows them.
    (tmp_path / "said.png").write_bytes(plain[:33] + chunk(b"sBIT", b"\x0c") + plain[33:])
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[281] = 4095
    tiff = saved(tmp_path / "said.tif", twelve, tiffinfo=tags)
    for path in (tmp_path / "said.png", tiff):
        assert read_images([path], (1, 2, 2)).flatten().tolist() == [0, 51, 153, 255]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (np.array([[0, 4095]], np.uint16), "no number above 4095"),
        (np.array([[0, 255]], np.int32), "no number above 255"),
        (np.array([[0, 70_000]], np.int32), "from 0 to 70000, not 0 to 65535"),
        (np.array([[-1, 60_000]], np.int32), "from -1 to 60000"),
        (np.array([[0, 255]], np.float32), "floating-point numbers from 0 to 255"),
        (np.array([[0, np.nan]], np.float32), "floating-point numbers"),
    ],
)
def test_pixels_of_an_unknown_scale_are_asked_about_not_made_black(
    values: np.ndarray, told: str, tmp_path: Path
) -> None:
    path = saved(tmp_path / "deep.tif", values)
    with pytest.raises(ValueError, match=told) as caught:
        read_images([path], (1, 1, 2))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_floats_from_0_to_1_and_whole_numbers_of_16_bits_fill_the_range(tmp_path: Path) -> None:
    unit = saved(tmp_path / "unit.tif", np.array([[0, 0.2], [0.6, 1]], np.float32))
    wide = saved(tmp_path / "wide.tif", np.array([[0, 13107], [39321, 65535]], np.int32))
    for path in (unit, wide):
        assert read_images([path], (1, 2, 2)).flatten().tolist() == [0, 51, 153, 255]
