"""What changes need is counted right: against counts of single entries, and of dense products."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from experiments.entries import Entries
from homotopy_deq.acceleration import Convolution


def kernel(layer: nn.Conv2d, tile: int | None = None):  # type: ignore[no-untyped-def]
    return Entries(tile).convolution(Convolution.of(layer))


def test_an_entry_of_a_vector_costs_a_column() -> None:
    product = Entries().linear(torch.randn(7, 5))
    change = torch.zeros(4, 5)
    change[1, 2] = change[3, 0] = change[3, 4] = 1.0
    x = torch.randn(4, 5)
    found, count = product.moved(product.dense(x - change), change, x)
    assert count == 3 * 7
    assert torch.allclose(found, product.dense(x))


@pytest.mark.parametrize(
    ("size", "stride", "padding", "groups"),
    [(3, 1, 1, 1), (7, 1, 3, 1), (3, 2, 1, 1), (3, 1, 0, 2)],
)
def test_an_entry_of_an_image_costs_what_lies_under_the_kernel(
    size: int, stride: int, padding: int, groups: int
) -> None:
    layer = nn.Conv2d(2, 4, size, stride=stride, padding=padding, groups=groups)
    nn.init.ones_(layer.weight)
    product = kernel(layer)
    for place in ((0, 0), (3, 4), (8, 9)):
        change = torch.zeros(1, 2, 9, 10)
        change[(0, 1, *place)] = 1.0
        reached = int(product.dense(change).count_nonzero())  # outputs that a one goes into
        assert product.moved(product.dense(change), change, change)[1] == reached


def test_entries_that_all_change_cost_what_is_dense_but_for_the_border() -> None:
    product = kernel(nn.Conv2d(3, 5, 3))  # no padding: every input of an output is an entry
    x = torch.randn(2, 3, 8, 9)
    assert product.moved(product.dense(x), x, x)[1] == product.multiply_adds(x)


def test_tiles_that_are_all_touched_cost_what_is_dense() -> None:
    product = kernel(nn.Conv2d(3, 5, 3, padding=1), tile=4)
    x = torch.randn(2, 3, 10, 9)  # no multiple of the tile
    assert product.moved(product.dense(x), x, x)[1] == product.multiply_adds(x)


@pytest.mark.parametrize(("place", "tiles"), [((1, 1), 1), ((3, 1), 2), ((4, 3), 4)])
def test_an_entry_costs_the_tiles_that_its_halo_touches(place: tuple[int, int], tiles: int) -> None:
    layer = nn.Conv2d(3, 5, 3, padding=1)
    change = torch.zeros(2, 3, 12, 12)
    change[(1, 2, *place)] = 1.0
    product = kernel(layer, tile=4)
    count = product.moved(product.dense(change), change, change)[1]
    assert count == tiles * 16 * layer.weight.numel()
