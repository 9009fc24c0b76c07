"""A user's own images are found in folders and zip files, and mean the same in both."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from homotopy_deq.data import ImageData, load
from tests.data.stored import below, pixels, png, tree, write_files, write_zip

TRAIN = below("train", tree(["cat", "ant", "bee"], 6, seed=1))
TEST = below("test", tree(["cat", "ant", "bee"], 2, seed=2))


def same(ours: ImageData, theirs: ImageData) -> bool:
    return (
        ours.train_images.equal(theirs.train_images)
        and ours.train_labels.equal(theirs.train_labels)
        and ours.test_images.equal(theirs.test_images)
        and ours.test_labels.equal(theirs.test_labels)
        and ours.classes == theirs.classes
    )


@pytest.fixture
def expected(tmp_path: Path) -> ImageData:
    return load("imagefolder", write_files(tmp_path / "expected", {**TRAIN, **TEST}))


def test_folders_give_labels_by_sorted_class(expected: ImageData) -> None:
    assert expected.classes == ("ant", "bee", "cat")
    assert expected.shape == (3, 32, 32)
    assert expected.train_labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert expected.test_labels.tolist() == [0, 0, 1, 1, 2, 2]
    first_cat = pixels(18, 32, 32, 3, seed=1)[0]  # `tree` makes the cats first
    assert (expected.train_images[12].numpy() == first_cat.transpose(2, 0, 1)).all()


def test_zip_files_mean_the_same_as_folders(tmp_path: Path, expected: ImageData) -> None:
    both = write_zip(tmp_path / "both.zip", {**TRAIN, **TEST})
    wrapped = write_zip(tmp_path / "wrapped.zip", below("my images", {**TRAIN, **TEST}))
    pair, plain, bare = tmp_path / "pair", tmp_path / "plain", tmp_path / "bare"
    write_zip(pair / "mine-train.zip", TRAIN)
    write_zip(pair / "mine-test.zip", TEST)
    write_zip(plain / "train.zip", TRAIN)
    write_zip(plain / "test.zip", TEST)
    write_zip(bare / "train.zip", {name.split("/", 1)[1]: data for name, data in TRAIN.items()})
    write_zip(bare / "test.zip", {name.split("/", 1)[1]: data for name, data in TEST.items()})
    for root in (both, wrapped, pair, plain, bare):
        assert same(load("imagefolder", root), expected), root


def test_val_folder_is_the_test_set_where_there_is_no_test_folder(
    tmp_path: Path, expected: ImageData
) -> None:
    files = {**TRAIN, **{name.replace("test/", "val/"): data for name, data in TEST.items()}}
    assert same(load("imagefolder", write_files(tmp_path / "d", files)), expected)


def test_stray_files_belong_to_no_class(tmp_path: Path, expected: ImageData) -> None:
    stray = {"readme.txt": b"", "train/.hidden/a.png": b"", "__MACOSX/train/cat/0.png": b""}
    stray |= {"train/cat/Thumbs.db": b"", "train/cover.png": b"", "cover.png": b""}
    assert same(load("imagefolder", write_files(tmp_path / "d", TRAIN | TEST | stray)), expected)


def test_missing_test_set_is_split_off_and_said(tmp_path: Path) -> None:
    for name, files in (("flat", tree("abc", 10)), ("train only", below("train", tree("abc", 10)))):
        root = write_files(tmp_path / name, files)
        with pytest.warns(UserWarning, match="6 of its 30"):
            data = load("imagefolder", root)
        assert data.train_labels.bincount().tolist() == [8, 8, 8]
        assert data.test_labels.bincount().tolist() == [2, 2, 2]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            again = load("imagefolder", root, seed=5)
        assert same(data, again)  # runs with different seeds are judged on the same images


def test_small_images_of_one_size_stay_as_they_are(tmp_path: Path) -> None:
    files = below("train", tree("ab", 2, (20, 24))) | below("test", tree("ab", 1, (20, 24)))
    assert load("imagefolder", write_files(tmp_path / "d", files)).shape == (1, 20, 24)


def test_images_of_several_sizes_or_large_ones_become_squares(tmp_path: Path) -> None:
    mixed = below("train", tree("ab", 2)) | below("test", tree("ab", 1, (40, 20, 3)))
    large = below("train", tree("ab", 2, (90, 70))) | below("test", tree("ab", 1, (90, 70)))
    roots = [write_files(tmp_path / "mixed", mixed), write_files(tmp_path / "large", large)]
    assert load("imagefolder", roots[0]).shape == (3, 64, 64)
    assert load("imagefolder", roots[1]).shape == (1, 64, 64)
    assert load("imagefolder", roots[1], image_size=16).shape == (1, 16, 16)


def test_limit_reads_no_more_than_it_chose(tmp_path: Path) -> None:
    files = below("train", tree("ab", 4)) | below("test", tree("ab", 1))
    data = load("imagefolder", write_files(tmp_path / "d", files), limit=4)
    assert data.train_labels.tolist() == [0, 0, 1, 1]
    assert len(data.train_images) == 4


def test_what_is_wrong_with_a_folder_is_said(tmp_path: Path) -> None:
    one = write_files(tmp_path / "one", below("train", tree("a", 3)))
    with pytest.raises(ValueError, match="only a"):
        load("imagefolder", one)
    odd = below("train", tree("ab", 3)) | below("test", tree("abc", 3))
    with pytest.raises(ValueError, match="lack: c"):
        load("imagefolder", write_files(tmp_path / "odd", odd))
    broken = below("train", tree("ab", 3)) | {"train/a/0001.png": b"no image"}
    with pytest.raises(ValueError, match="0001.png"):
        load("imagefolder", write_files(tmp_path / "broken", broken))
    two = tmp_path / "two"
    for name in ("x-train.zip", "y-train.zip"):
        write_zip(two / name, TRAIN)
    with pytest.raises(ValueError, match="x-train.zip, y-train.zip"):
        load("imagefolder", two)
    (tmp_path / "bad.zip").write_bytes(b"no zip")
    with pytest.raises(ValueError, match="bad.zip"):
        load("imagefolder", tmp_path / "bad.zip")
    with pytest.raises(FileNotFoundError):
        load("imagefolder", tmp_path / "nowhere")


def test_known_set_is_read_from_zip_files_and_folders(tmp_path: Path) -> None:
    classes = [f"class {i}" for i in range(10)]
    train, test = below("train", tree(classes, 3)), below("test", tree(classes, 1))
    pair, whole, folder = tmp_path / "pair", tmp_path / "whole", tmp_path / "folder"
    write_zip(pair / "cifar10-train.zip", train)
    write_zip(pair / "cifar10-test.zip", test)
    write_zip(pair / "svhn-train.zip", test)  # another set beside it
    write_zip(whole / "cifar10.zip", train | test)
    write_files(folder / "cifar10", train | test)
    write_files(tmp_path / "unpacked", train | test)
    data = load("cifar10", pair)
    assert (data.shape, data.classes) == ((3, 32, 32), tuple(classes))
    for root in (whole, folder, tmp_path / "unpacked"):
        assert same(load("cifar10", root), data)
    with pytest.raises(FileNotFoundError):
        load("cifar100", tmp_path / "unpacked")  # ten classes are not a hundred


def test_known_set_refuses_images_of_another_size(tmp_path: Path) -> None:
    files = tree([str(i) for i in range(10)], 1)
    files["3/0000.png"] = png(pixels(1, 40, 30, 3)[0])
    write_zip(tmp_path / "cifar10.zip", below("train", files) | below("test", files))
    with pytest.raises(ValueError, match="3/0000.png is 30x40"):
        load("cifar10", tmp_path)
