"""Tiny-ImageNet's own layout: labels of its validation images are in a text file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from homotopy_deq import create_model
from homotopy_deq.cli.resolve import resolve
from homotopy_deq.data import load
from tests.data.stored import below, pixels, png, write_files, write_zip

WNIDS = ("n03", "n01", "n02")  # numbered as listed, not as sorted


def jpeg(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "JPEG")
    return file.getvalue()


def files(each: int = 3) -> dict[str, bytes]:
    """Make the files: `each` train images a class, a grey JPEG first, and two validation images."""
    images = pixels(len(WNIDS) * each + 2, 64, 64, 3)
    found = {"wnids.txt": "\n".join(WNIDS).encode(), "words.txt": b"n01\tgoldfish"}
    for c, wnid in enumerate(WNIDS):
        found[f"train/{wnid}/{wnid}_boxes.txt"] = b"none"
        for i in range(each):
            image = images[c * each + i]
            data = jpeg(image[:, :, 0]) if i == 0 else png(image)
            found[f"train/{wnid}/images/{wnid}_{i}.JPEG"] = data
    lines = []
    for i, wnid in enumerate(("n02", "n03")):
        found[f"val/images/val_{i}.JPEG"] = png(images[-2 + i])
        lines.append(f"val_{i}.JPEG\t{wnid}\t0\t0\t63\t63")
    found["test/images/test_0.JPEG"] = png(images[0])
    return {**found, "val/val_annotations.txt": "\n".join(lines).encode()}


@pytest.mark.parametrize("place", ["", "tiny-imagenet-200", "tiny-imagenet", "zip", "file"])
def test_it_is_read_where_it_lies(tmp_path: Path, place: str) -> None:
    root = tmp_path
    if place in ("zip", "file"):
        path = write_zip(tmp_path / "tiny-imagenet-200.zip", below("tiny-imagenet-200", files()))
        root = path if place == "file" else tmp_path
    else:
        write_files(tmp_path / place, files())
    data = load("tiny-imagenet", root)
    assert data.classes == WNIDS and data.shape == (3, 64, 64)
    assert data.train_labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert data.test_labels.tolist() == [0, 2]  # val_1 is an n03, val_0 an n02
    images = pixels(11, 64, 64, 3).transpose(0, 3, 1, 2)
    assert (data.train_images[1].numpy() == images[1]).all()
    assert (data.test_images.numpy() == images[[10, 9]]).all()
    grey = data.train_images[0]
    assert grey[0].equal(grey[1])  # a JPEG without colour has three equal channels


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("val/val_annotations.txt", b"val_9.JPEG\tn01\t0", "names val_9.JPEG of n01"),
        ("val/val_annotations.txt", b"val_0.JPEG\tn77\t0", "names val_0.JPEG of n77"),
        ("val/val_annotations.txt", b"val_0.JPEG", "names val_0.JPEG of no class"),
        ("wnids.txt", b"n02 n03", "disagree|of n01"),
        ("wnids.txt", b"n01 n02 n03 n04", "disagree on n04"),
        ("val/images/val_0.JPEG", png(pixels(1, 32, 32, 3)[0]), "is 32x32; the images"),
    ],
)
def test_what_does_not_fit_together_is_told(
    tmp_path: Path, name: str, text: bytes, told: str
) -> None:
    write_files(tmp_path, {**files(), name: text})
    with pytest.raises(ValueError, match=told):
        load("tiny-imagenet", tmp_path)


def test_the_places_are_named_where_there_is_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="tiny-imagenet-200.*val_annotations.txt"):
        load("tiny-imagenet", tmp_path)


@pytest.mark.parametrize("name", ["homoode", "deq", "mdeq", "residual", "neural-ode", "monotone"])
def test_its_recipe_gives_the_releases_stem_and_state(name: str) -> None:
    """64 x 64 images, stride 2 twice: a state of 16 x 16, as in the release of Ding et al."""
    settings = resolve({"dataset": "tiny-imagenet", "model": name})
    assert settings.model.stride == 4 and settings.model.hidden == 128
    model = create_model(name, shape=(3, 64, 64), hidden=4, stride=settings.model.stride)
    strides = [part.stride for part in model.stem if hasattr(part, "stride")]  # type: ignore[union-attr]
    assert strides == [(2, 2), (2, 2)]
    state = model.layer.initial(model.condition(torch.zeros(1, 3, 64, 64))).shape
    assert state == (1, 4, 16, 16) or (name == "mdeq" and state == (1, 4 * (256 + 64 + 16)))


@pytest.mark.parametrize(("stride", "side"), [(1, 9), (2, 5), (4, 3)])
def test_stride_divides_the_state(stride: int, side: int) -> None:
    model = create_model("deq", shape=(1, 9, 9), hidden=4, stride=stride).eval()
    assert model.condition(torch.rand(1, 1, 9, 9)).shape[-1] == side
    assert create_model("deq", **model.config).config["stride"] == stride


def test_stride_that_is_none_is_refused() -> None:
    for name in ("deq", "mdeq", "monotone"):
        with pytest.raises(ValueError, match="stride must be one of 1, 2, 4; got 0"):
            create_model(name, stride=0)
