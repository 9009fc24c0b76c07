"""What a batch holds is a function of (seed, epoch, number): a killed run resumes exactly."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader

from homotopy_deq.data import Augmentation, EpochSampler, loader, seek

Batch = tuple[Tensor, Tensor]
N = 50
LABELS = torch.arange(N)  # a label tells which image it came with
IMAGES = torch.arange(N, dtype=torch.uint8)[:, None, None, None].expand(N, 3, 8, 8) + (
    torch.arange(192, dtype=torch.uint8).reshape(3, 8, 8)
)
CHANGES = Augmentation(flip=0.5, pad=2)


def train_loader(
    batch_size: int = 8, workers: int = 0, drop_last: bool = False
) -> DataLoader[Batch]:
    return loader(
        IMAGES,
        LABELS,
        batch_size,
        shuffle=True,
        augment=CHANGES,
        seed=7,
        num_workers=workers,
        drop_last=drop_last,
    )


def same(ours: list[Batch], theirs: list[Batch]) -> bool:
    pairs = zip(ours, theirs, strict=True)
    return all(a[0].equal(b[0]) and a[1].equal(b[1]) for a, b in pairs)


def by_label(batches: list[Batch]) -> dict[int, Tensor]:
    return {int(y): x for xs, ys in batches for x, y in zip(xs, ys, strict=True)}


def test_images_are_floats_in_zero_to_one_beside_their_labels() -> None:
    for images, labels in loader(IMAGES, LABELS, 16, shuffle=True):
        assert images.dtype == torch.float32
        assert images.mul(255).round().to(torch.uint8).equal(IMAGES[labels])


def test_unshuffled_batches_keep_the_stored_order() -> None:
    batches = list(loader(IMAGES, LABELS, 16, shuffle=False))
    assert torch.cat([labels for _, labels in batches]).equal(LABELS)
    assert [len(labels) for _, labels in batches] == [16, 16, 16, 2]
    assert len(list(loader(IMAGES, LABELS, 16, shuffle=False, drop_last=True))) == 3


@given(st.integers(0, 100), st.integers(0, 100))
def test_epoch_visits_every_sample_once(seed: int, epoch: int) -> None:
    draws = torch.tensor(list(EpochSampler(N, seed, epoch)))
    assert (draws // N == epoch).all()
    assert (draws % N).sort().values.equal(torch.arange(N))


def test_order_differs_between_epochs_and_between_seeds() -> None:
    orders = {tuple(EpochSampler(N, seed, e).order().tolist()) for seed in (0, 1) for e in (0, 1)}
    assert len(orders) == 4  # (seed 0, epoch 1) is not (seed 1, epoch 0), as seed + epoch would be


@pytest.mark.parametrize("batch", [0, 1, 3, 6, 7])
def test_resumed_epoch_goes_on_where_it_was_killed(batch: int) -> None:
    whole = train_loader()
    seek(whole, 3)
    resumed = train_loader()
    seek(resumed, 3, batch)
    assert len(resumed) == 7 - batch
    assert same(list(whole)[batch:], list(resumed))


def test_epoch_after_a_resumed_one_is_whole() -> None:
    batches = train_loader()
    seek(batches, 3, 4)
    seek(batches, 4)
    assert len(list(batches)) == 7


def test_iterating_twice_gives_the_same_and_leaves_the_global_generator_alone() -> None:
    batches = train_loader()
    before = torch.get_rng_state()
    assert same(list(batches), list(batches))
    assert torch.get_rng_state().equal(before)


def test_workers_change_nothing() -> None:
    alone, helped = train_loader(), train_loader(workers=1)
    for batches in (alone, helped):
        seek(batches, 2, 1)
    assert same(list(alone), list(helped))


def test_augmentation_does_not_see_the_batch() -> None:
    small, large = by_label(list(train_loader(5))), by_label(list(train_loader(50)))
    assert all(small[key].equal(large[key]) for key in range(N))


def test_augmentation_differs_between_epochs() -> None:
    batches = train_loader()
    first = by_label(list(batches))
    seek(batches, 1)
    second = by_label(list(batches))
    # One of 2 mirrors and one of 25 crops: some images repeat by chance, most do not.
    assert sum(first[key].equal(second[key]) for key in range(N)) < N / 4


def test_augmentation_gives_mirrored_crops_of_the_padded_image() -> None:
    found = set()
    for label, image in by_label(list(train_loader())).items():
        padded = torch.nn.functional.pad(IMAGES[label].float() / 255, (2, 2, 2, 2))
        views = {
            (flip, y, x): window.flip(-1) if flip else window
            for y in range(5)
            for x in range(5)
            for flip, window in ((f, padded[:, y : y + 8, x : x + 8]) for f in (False, True))
        }
        matches = [key for key, view in views.items() if view.equal(image)]
        assert len(matches) == 1
        found.update(matches)
    assert {flip for flip, _, _ in found} == {False, True}
    assert {y for _, y, _ in found} == {x for _, _, x in found} == set(range(5))


def test_sure_flip_mirrors_all_and_no_change_changes_nothing() -> None:
    index = torch.arange(N)
    assert Augmentation(flip=1.0)(IMAGES, index, N, 0, 0).equal(IMAGES.flip(-1))
    assert Augmentation()(IMAGES, index, N, 0, 0).equal(IMAGES)


def test_flip_happens_at_its_probability() -> None:
    n = 10_000
    images = torch.tensor([0, 1], dtype=torch.uint8).expand(n, 1, 1, 2)
    flipped = Augmentation(flip=0.2)(images, torch.arange(n), n, 0, 0)[:, 0, 0, 0]
    # A binomial share has standard deviation (0.2 * 0.8 / n) ** 0.5 = 0.004; five of them.
    assert flipped.float().mean().item() == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("processes", [1, 2])
def test_accelerate_shares_the_batches_and_resumes_them(processes: int) -> None:
    from accelerate.data_loader import prepare_data_loader

    def shard(process: int, epoch: int, batch: int) -> list[Batch]:
        prepared = prepare_data_loader(
            train_loader(drop_last=True),
            num_processes=processes,
            process_index=process,
            put_on_device=False,
        )
        seek(prepared, epoch, batch)
        return list(prepared)

    single = train_loader(drop_last=True)
    seek(single, 5)
    batches = list(single)
    for process in range(processes):
        ours = shard(process, 5, 0)
        assert same(ours, batches[process::processes])
        assert same(shard(process, 5, 2), ours[2:])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Augmentation(flip=1.5), "probability in .0, 1.; got 1.5"),
        (lambda: Augmentation(pad=-1), "0 or more; got -1"),
        (lambda: loader(IMAGES, LABELS[:3], 4, shuffle=True), "needs a label; got 50 and 3"),
        (lambda: loader(IMAGES, LABELS, 0, shuffle=True), "at least 1; got 0"),
        (lambda: EpochSampler(N, start=51), r"start in \[0, 50\]; got 0 and 51"),
        (lambda: EpochSampler(N, epoch=-1), "0 or more"),
    ],
)
def test_setting_out_of_range_is_named(build: object, message: str) -> None:
    assert callable(build)
    with pytest.raises(ValueError, match=message):
        build()
