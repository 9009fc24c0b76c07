"""Subsets in which every class keeps its share."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .image_data import ImageData


def stratified_order(labels: Tensor, seed: int) -> Tensor:
    """Order the samples so that every prefix holds each class in its share.

    The sample of rank r among the n of its class, in a seeded order, goes to position r / n. So
    the first of each class come first, a prefix as long as the number of classes holds them all,
    and a shorter prefix is a subset of a longer one. No class exceeds its share by more than one;
    where classes are of one size, and the prefix a multiple of their number, all are equal.

    Arguments:
        labels: int64, shape (N,).
        seed: chooses the order within each class; 0 or more.

    Returns:
        A permutation of 0..N-1, int64, shape (N,).
    """
    # NumPy keeps the stream of RandomState the same for good, so a split made today stays.
    shuffled = np.random.RandomState(seed).permutation(len(labels))
    classes = labels.numpy()[shuffled]
    position = np.empty(len(labels))
    for value in np.unique(classes):
        (members,) = np.nonzero(classes == value)
        position[members] = np.arange(len(members)) / len(members)
    return torch.from_numpy(shuffled[np.argsort(position, kind="stable")])


def subset(labels: Tensor, limit: int | None, seed: int) -> Tensor:
    """Choose `limit` samples, each class in its share; all of them for None.

    Returns:
        The indices in ascending order, int64, shape (min(limit, N),).
    """
    if limit is None or limit >= len(labels):
        return torch.arange(len(labels))
    if limit < 1:
        raise ValueError(f"limit and test_limit must be at least 1, or None for all; got {limit}.")
    return stratified_order(labels, seed)[:limit].sort().values


def split(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Part the samples in two, each class in its share.

    Returns:
        The indices of the larger part and of the `fraction` held out, both ascending.
    """
    held = round(fraction * len(labels))
    if not 0 < fraction < 1 or not 0 < held < len(labels):
        raise ValueError(
            f"the fraction to hold out must be in (0, 1) and leave both parts at least one of "
            f"the {len(labels)} images; got {fraction}. Take more images, or another fraction (for "
            "training --validation)."
        )
    order = stratified_order(labels, seed)
    return order[:-held].sort().values, order[-held:].sort().values


def split_validation(
    data: ImageData, fraction: float = 0.1, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Hold out part of the train images to choose settings by, so the test set chooses nothing.

    Arguments:
        data: the data set; only its train labels are read.
        fraction: the part to hold out, in (0, 1).
        seed: chooses which; 0 or more.

    Returns:
        (train_idx, val_idx): indices into `data.train_images`, each class in its share.
    """
    return split(data.train_labels, fraction, seed)
