"""Every subset keeps the classes' shares and depends on the seed alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from homotopy_deq.data import ImageData, split_validation, stratified_order
from homotopy_deq.data.stratified import split, subset

labelled = st.lists(st.integers(0, 4), min_size=12, max_size=60).map(torch.tensor)


def with_train_labels(labels: torch.Tensor) -> ImageData:
    images = torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8)
    return ImageData("made", images, labels, images, labels, tuple("01234"))


@given(labelled, st.integers(0, 1000))
def test_order_is_a_permutation(labels: torch.Tensor, seed: int) -> None:
    assert stratified_order(labels, seed).sort().values.equal(torch.arange(len(labels)))


@given(labelled, st.integers(0, 1000), st.integers(1, 60))
def test_subset_holds_each_class_in_its_share(labels: torch.Tensor, seed: int, limit: int) -> None:
    limit = min(limit, len(labels))
    chosen = labels[subset(labels, limit, seed)].bincount(minlength=5)
    assert chosen.sum() == limit
    # A cut at position t keeps between t n and t n + 1 of a class of n. Summed over the K classes
    # of N samples, limit - K <= t N <= limit.
    sizes, total = labels.bincount(minlength=5), len(labels)
    present = labels.unique()
    assert (chosen * total <= sizes * limit + total).all()
    assert (chosen * total >= sizes * (limit - len(present))).all()
    assert limit < len(present) or (chosen[present] > 0).all()


def test_subset_of_balanced_classes_is_balanced() -> None:
    labels = torch.arange(10).repeat(50)
    assert labels[subset(labels, 70, 3)].bincount().tolist() == [7] * 10


@given(labelled, st.integers(0, 1000))
def test_smaller_subset_lies_in_a_larger_one(labels: torch.Tensor, seed: int) -> None:
    small, large = subset(labels, 5, seed), subset(labels, 9, seed)
    assert set(small.tolist()) < set(large.tolist())


def test_seed_chooses_the_subset() -> None:
    labels = torch.arange(10).repeat(50)
    assert subset(labels, 50, 1).equal(subset(labels, 50, 1))
    assert not subset(labels, 50, 1).equal(subset(labels, 50, 2))


def test_no_limit_keeps_all_and_a_limit_below_one_is_refused() -> None:
    labels = torch.arange(10)
    assert subset(labels, None, 0).equal(torch.arange(10))
    assert subset(labels, 99, 0).equal(torch.arange(10))
    with pytest.raises(ValueError, match="got 0"):
        subset(labels, 0, 0)


@given(labelled, st.integers(0, 1000))
def test_validation_and_train_parts_share_nothing_and_miss_nothing(
    labels: torch.Tensor, seed: int
) -> None:
    train, held = split_validation(with_train_labels(labels), 0.25, seed)
    assert len(held) == round(0.25 * len(labels))
    assert torch.cat([train, held]).sort().values.equal(torch.arange(len(labels)))
    assert set(labels[train].tolist()) == set(labels.tolist())  # every class can be learned


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 0.001, 0.999])
def test_split_that_leaves_a_part_empty_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match=f"got {fraction}"):
        split(torch.arange(10), fraction, 0)
