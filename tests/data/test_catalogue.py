"""Each data set is found by name in its usual layouts, and is never fetched unasked."""

from __future__ import annotations

import gzip
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from homotopy_deq.data import ImageData, load
from homotopy_deq.data.idx import read_idx
from tests.data.stored import below, pixels, tree, write_cifar10, write_idx


def test_digits_are_the_default_and_the_same_in_every_run() -> None:
    data, again = load(), load(seed=3)
    assert (data.name, data.shape, data.num_classes) == ("digits", (1, 8, 8), 10)
    assert len(data.train_labels) + len(data.test_labels) == 1797
    assert len(data.test_labels) == round(0.2 * 1797)
    assert data.test_images.equal(again.test_images)
    assert data.train_images.equal(again.train_images)
    assert (data.train_images.min(), data.train_images.max()) == (0, 255)


def test_digits_need_no_torchvision() -> None:
    code = (
        "import sys\nsys.modules['torchvision'] = None\n"
        "from homotopy_deq.data import load, loader\n"
        "data = load()\n"
        "next(iter(loader(data.train_images, data.train_labels, 8, shuffle=True)))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_mean_and_std_are_those_of_the_train_images() -> None:
    data = load("digits")
    scaled = data.train_images.double() / 255
    # The moments differ by rounding in float64 alone.
    assert data.mean == pytest.approx([scaled.mean().item()], rel=1e-12)
    assert data.std == pytest.approx([scaled.std(correction=0).item()], rel=1e-12)
    images = torch.from_numpy(pixels(5, 3, 4, 4))
    labels = torch.zeros(5, dtype=torch.long)
    colour = ImageData("made", images, labels, images[:0], labels[:0], ("only",))
    per_channel = images.double().div(255).mean((0, 2, 3)).tolist()
    assert colour.mean == pytest.approx(per_channel, rel=1e-12)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("folder", ["FashionMNIST/raw", "fashion-mnist", "FashionMNIST", "raw", ""])
def test_idx_files_are_read_where_they_lie(tmp_path: Path, folder: str, zipped: bool) -> None:
    written = write_idx(tmp_path / folder, zipped=zipped)
    before = sorted(tmp_path.rglob("*"))
    data = load("fashion-mnist", tmp_path)
    assert (data.train_images[:, 0].numpy() == written["train-images-idx3"]).all()
    assert (data.test_labels.numpy() == written["t10k-labels-idx1"]).all()
    assert data.classes[9] == "Ankle boot"
    assert sorted(tmp_path.rglob("*")) == before


def test_folder_named_after_one_set_does_not_hold_the_other(tmp_path: Path) -> None:
    write_idx(tmp_path / "fashion-mnist")
    load("fashion-mnist", tmp_path / "fashion-mnist")
    with pytest.raises(FileNotFoundError):
        load("mnist", tmp_path / "fashion-mnist")
    write_idx(tmp_path / "MNIST" / "raw")
    assert load("mnist", tmp_path).classes[9] == "9"
    assert load("mnist", tmp_path / "MNIST").num_classes == 10


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw[: len(raw) // 2], "cannot be read"),
        (lambda raw: gzip.compress(gzip.decompress(raw)[:-1]), "cut short"),
        (lambda raw: gzip.compress(gzip.decompress(raw)[:6]), "cut short"),
        (lambda raw: gzip.compress(b"<html>"), "no idx file"),
        (lambda raw: b"", "no idx file|cannot be read"),
        (lambda raw: raw[:30] + b"\xff" * 30 + raw[60:], "cannot be read"),
    ],
)
def test_damaged_idx_file_is_named(tmp_path: Path, damage: Any, message: str) -> None:
    write_idx(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=message) as caught:
        load("mnist", tmp_path)
    assert path.name in str(caught.value)


def test_idx_files_that_do_not_match_are_refused(tmp_path: Path) -> None:
    write_idx(tmp_path / "a", 20)
    write_idx(tmp_path / "b", 40)
    name = "train-labels-idx1-ubyte.gz"
    (tmp_path / "a" / name).write_bytes((tmp_path / "b" / name).read_bytes())
    with pytest.raises(ValueError, match="20 images"):
        load("mnist", tmp_path / "a")
    assert read_idx(tmp_path / "a" / name).shape == (40,)


@pytest.mark.parametrize("below", ["", "cifar10", "CIFAR10"])
def test_cifar_is_read_in_torchvision_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str
) -> None:
    from torchvision.datasets import CIFAR10

    attributes, images = write_cifar10(tmp_path / below)
    for name, value in attributes.items():
        monkeypatch.setattr(CIFAR10, name, value)
    data = load("cifar10", tmp_path)
    assert (data.train_images.numpy() == images).all()
    assert data.train_labels.tolist() == [*range(10)] * 2
    assert (data.num_classes, data.source) == (10, "torchvision's CIFAR10")


def test_changed_cifar_files_are_refused(tmp_path: Path) -> None:
    write_cifar10(tmp_path)  # whose checksums are not those of the release
    with pytest.raises(ValueError, match="changed"):
        load("cifar10", tmp_path)


def test_svhn_is_read_in_torchvision_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hashlib

    from scipy.io import savemat
    from torchvision.datasets import SVHN

    images = pixels(10, 3, 32, 32)
    sums = {}
    for part in ("train", "test"):
        path = tmp_path / "svhn" / f"{part}_32x32.mat"
        path.parent.mkdir(exist_ok=True)
        # SVHN stores height, width, channel, number, and writes 10 for the digit 0.
        savemat(path, {"X": images.transpose(2, 3, 1, 0), "y": np.arange(1, 11)[:, None]})
        sums[part] = ["", path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    monkeypatch.setattr(SVHN, "split_list", sums)
    data = load("svhn", tmp_path)
    assert (data.train_images.numpy() == images).all()
    assert data.test_labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "cifar100", "svhn"])
def test_missing_set_names_the_places_and_the_remedy(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        load(name, tmp_path)
    message = str(caught.value)
    assert f"{tmp_path}/{name}-train.zip" in message
    assert "--download" in message
    assert len(message.splitlines()) >= 6
    assert list(tmp_path.iterdir()) == []  # nothing was fetched


def test_download_is_torchvisions_and_only_for_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import datasets

    asked = []

    def fetch(root: Path, *, train: bool, download: bool) -> None:
        asked.append((train, download))
        write_idx(root / "FashionMNIST" / "raw")

    monkeypatch.setattr(datasets, "FashionMNIST", fetch)
    assert len(load("fashion-mnist", tmp_path, download=True).train_labels) == 20
    assert asked == [(True, True), (False, True)]
    load("fashion-mnist", tmp_path, download=True)
    assert len(asked) == 2


def test_failed_download_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    def fail(root: Path, **_: bool) -> None:
        raise RuntimeError("no route")

    monkeypatch.setattr(datasets, "MNIST", fail)
    with pytest.raises(OSError, match="no route"):
        load("mnist", tmp_path, download=True)


def test_unknown_name_lists_the_valid_ones() -> None:
    with pytest.raises(ValueError, match="digits, mnist"):
        load("minst")


def test_image_size_for_a_set_of_one_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="image_size"):
        load("digits", image_size=16)


def test_limits_take_balanced_subsets(tmp_path: Path) -> None:
    write_idx(tmp_path, 100)
    data = load("mnist", tmp_path, limit=30, test_limit=20)
    assert data.train_labels.bincount().tolist() == [3] * 10
    assert data.test_labels.bincount().tolist() == [2] * 10


def test_one_zip_that_holds_train_and_test_is_a_data_set(tmp_path: Path) -> None:
    names = [str(k) for k in range(10)]
    parts = {**below("train", tree(names, 2)), **below("test", tree(names, 1, seed=1))}
    for path, files in (
        (tmp_path / "cifar-of-mine.zip", parts),
        (tmp_path / "wrapped.zip", below("cifar", parts)),
    ):
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        for found in (load("cifar10", path), load("imagefolder", path)):
            assert (len(found.train_labels), len(found.test_labels)) == (20, 10)
            assert found.shape == (3, 32, 32) and found.root == path
    (tmp_path / "cifar10.zip").write_bytes((tmp_path / "wrapped.zip").read_bytes())
    assert len(load("cifar10", tmp_path).test_labels) == 10


def test_a_zip_of_another_layout_says_which_folder_to_give(tmp_path: Path) -> None:
    path = tmp_path / "cifar10-train.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in tree([str(k) for k in range(10)], 1).items():
            archive.writestr(name, data)
    for name in ("cifar10", "mnist", "svhn"):
        with pytest.raises(FileNotFoundError, match=f"Give the folder .* --data {tmp_path}"):
            load(name, path)
