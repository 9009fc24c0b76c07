"""The kernels against the dense product, in both precisions, whatever way they take."""

import copy
import math
import pickle
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from homotopy_deq.acceleration import Convolution, DeltaConv2d, DeltaLinear
from homotopy_deq.acceleration.cost import ALWAYS, Costs, Line
from homotopy_deq.acceleration.kernels import Auto

FREE, DEAR = Line(0.0, 0.0), Line(math.inf, math.inf)
WAYS = {
    "gathered": ALWAYS,
    "in place": replace(ALWAYS, fresh=Line(1.0, 1.0), kept=Line(1.0, 1.0)),
    "dense": replace(ALWAYS, dense=0.0, look=1.0),
}
WORSE = 32
"""Units of eps that a product may differ by from another order of its sums, relative to the norms:
sums of at most 700 terms in vector registers, each far below its bound n eps."""


@pytest.fixture(autouse=True)
def ungraded() -> Iterator[None]:
    """Solve as solves are: what is differentiated through is dense."""
    with torch.no_grad():
        yield


def auto(costs: Costs | None) -> Auto:
    return Auto(costs=lambda *_: costs)


def random(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def close(found: Tensor, wanted: Tensor, size: float) -> bool:
    return float((found - wanted).abs().max()) <= WORSE * torch.finfo(wanted.dtype).eps * size


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    shape=st.sampled_from([(1, 7), (3, 65), (2, 5, 40), (17, 130)]),
    outputs=st.sampled_from([1, 33, 100]),
    shares=st.lists(st.floats(0, 1), min_size=1, max_size=4),
)
def test_changes_of_some_columns_add_up_to_the_dense_product(
    way: str,
    dtype: torch.dtype,
    seed: int,
    shape: tuple[int, ...],
    outputs: int,
    shares: list[float],
) -> None:
    g = torch.Generator().manual_seed(seed)
    weight = random(outputs, shape[-1], dtype=dtype, seed=seed)
    kernel = auto(WAYS[way]).linear(weight)
    r = random(*shape, dtype=dtype, seed=seed + 1)
    y = kernel.dense(r)
    for share in shares:
        columns = torch.rand(shape[-1], generator=g) < share
        change = torch.randn(shape, generator=g, dtype=dtype) * columns
        kept, old = (y.clone(), r.clone()), r
        r = r + change
        new, work = kernel.moved(y, old, r)
        assert torch.equal(y, kept[0]) and torch.equal(old, kept[1])
        told, same = kernel.moved(y, old, r, columns)  # what has changed need not be looked for
        assert same == work and close(told, new, float(r.norm() * weight.norm()))
        assert 0 <= work <= kernel.multiply_adds(r)
        assert (work == 0) == (not columns.any()) or way == "dense"
        y = new
    size = float(weight.norm(dim=1).max() * r.norm(dim=-1).max())
    assert close(y, r @ weight.mT, (1 + len(shares)) * max(1.0, size))


def test_neighbours_are_taken_in_place_and_counted_by_whole_blocks() -> None:
    weight, r = random(96, 96, dtype=torch.float64), random(4, 96, dtype=torch.float64)
    kernel = auto(WAYS["in place"]).linear(weight)
    change = torch.zeros_like(r)
    change[0, 30:34] = 1  # in the blocks 0 and 1
    new, work = kernel.moved(kernel.dense(r), r, r + change)
    assert work == 4 * 64 * 96
    assert torch.allclose(new, (r + change) @ weight.T, rtol=0, atol=1e-12)


def test_gathered_columns_are_kept_while_nothing_outside_of_them_changes() -> None:
    weight, r = random(8, 100, dtype=torch.float64), random(2, 100, dtype=torch.float64)
    kernel = auto(ALWAYS).linear(weight)
    y = kernel.dense(r)

    def step(*columns: int) -> int:
        change = torch.zeros_like(r)
        change[:, columns] = 1
        new, work = kernel.moved(y, r, r + change)
        assert torch.allclose(new, (r + change) @ weight.T, rtol=0, atol=1e-12)
        return work // (2 * 8)

    assert [step(1, 50, 99), step(50), step(1, 99), step(2, 99), step(99)] == [3, 3, 3, 2, 2]


def test_a_change_that_is_not_a_number_is_a_change() -> None:
    r = random(2, 40, dtype=torch.float32)
    change = torch.zeros_like(r)
    change[1, 3] = math.nan
    kernel = auto(ALWAYS).linear(torch.eye(40))
    new, _ = kernel.moved(kernel.dense(r), r, r + change)
    assert new[1].isnan().any() and not new[0].isnan().any()
    image, pixel = random(1, 2, 16, 16, dtype=torch.float32), torch.zeros(1, 2, 16, 16)
    pixel[0, 1, 9, 9] = math.nan
    tiles = auto(ALWAYS).convolution(Convolution(torch.ones(1, 2, 3, 3), padding=(1, 1, 1, 1)))
    new, _ = tiles.moved(tiles.dense(image), image, image + pixel)
    assert int(new.isnan().sum()) == 9


CONVOLUTIONS = {
    "3 x 3": (nn.Conv2d(5, 6, 3, padding=1), (16, 24)),
    "5 x 5, stride 2": (nn.Conv2d(3, 4, 5, stride=2, padding=2), (32, 16)),
    "1 x 1": (nn.Conv2d(4, 3, 1), (8, 8)),
    "circular": (nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular"), (24, 16)),
    "reflected": (nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"), (14, 14)),
    "same, even kernel": (nn.Conv2d(2, 3, 4, padding="same"), (16, 16)),
    "groups, dilated": (nn.Conv2d(4, 8, 3, padding=2, dilation=2, groups=2), (16, 16)),
    "no padding": (nn.Conv2d(3, 4, 3), (18, 18)),
    "no tile fits": (nn.Conv2d(3, 4, 3, padding=1), (17, 17)),
}


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_tiles_that_a_change_reaches_make_the_dense_convolution(
    name: str, dtype: torch.dtype, format: torch.memory_format
) -> None:
    layer, size = CONVOLUTIONS[name]
    convolution = Convolution.of(layer)
    convolution = replace(convolution, weight=convolution.weight.detach().to(dtype))
    g = torch.Generator().manual_seed(0)
    images = torch.randn(3, layer.in_channels, *size, generator=g, dtype=dtype)
    kernel = auto(ALWAYS).convolution(convolution)
    r = images.contiguous(memory_format=format)
    y, works = kernel.dense(r), []
    for share in (0.0, 0.002, 0.02, 1.0):
        moves = torch.rand(3, 1, *size, generator=g) < share
        moves[2] = False  # one sample is at rest
        change = torch.randn(r.shape, generator=g, dtype=dtype) * moves
        kept, old = (y.clone(), r.clone()), r
        r = (r + change).contiguous(memory_format=format)
        new, work = kernel.moved(y, old, r)
        assert torch.equal(y, kept[0]) and torch.equal(old, kept[1])
        told, same = kernel.moved(y, old, r, moves)  # what has changed need not be looked for
        assert same == work and torch.equal(told, new)
        y = new
        works.append(work)
    exact = convolution(r.to(dtype))
    assert close(y, exact, float(convolution.weight[0].numel()) ** 0.5 * float(r.abs().max()))
    if name != "no tile fits":
        assert works[0] == 0 <= works[1] <= works[3] == 2 * kernel.multiply_adds(r[:1])


def test_one_pixel_reaches_the_tiles_of_its_kernel_and_no_other() -> None:
    kernel = auto(ALWAYS).convolution(Convolution(torch.ones(1, 1, 3, 3), padding=(1, 1, 1, 1)))
    zero = torch.zeros(2, 1, 24, 24)
    for place, tiles in (((4, 4), 1), ((7, 4), 2), ((8, 8), 4), ((0, 0), 1), ((23, 12), 1)):
        change = zero.clone()
        change[1, 0, place[0], place[1]] = 1
        _, work = kernel.moved(kernel.dense(zero), zero, zero + change)
        assert work == tiles * 9 * 64


def test_a_product_waits_longer_each_time_a_look_was_in_vain() -> None:
    dear = Costs(1.0, 0.0, 0.1, Line(0.0, 0.1), Line(0.0, 0.1), DEAR)
    r = random(2, 64, dtype=torch.float64)
    kernel = auto(dear).linear(random(64, 64, dtype=torch.float64))
    y, one = kernel.dense(r), torch.zeros_like(r)
    one[:, 5] = 1
    full = torch.ones_like(r)
    # Everything changes: a look at steps 1, 3, 7 and 15. Then one column: seen at the next look.
    for _ in range(15):
        assert kernel.moved(y, r, r + full)[1] == kernel.multiply_adds(r)
    works = [kernel.moved(y, r, r + one)[1] for _ in range(17)]
    assert works.index(2 * 64) == 15 and works[15:] == [2 * 64] * 2


def test_where_nothing_is_known_of_a_size_every_step_is_dense() -> None:
    r = random(2, 64, dtype=torch.float64)
    kernel = auto(None).linear(random(64, 64, dtype=torch.float64))
    assert kernel.moved(kernel.dense(r), r, r)[1] == kernel.multiply_adds(r)


def test_weights_that_were_trained_on_are_turned_anew() -> None:
    kernels, weight = auto(ALWAYS), nn.Parameter(random(20, 20, dtype=torch.float64))
    r, change = random(3, 20, dtype=torch.float64), torch.zeros(3, 20, dtype=torch.float64)
    change[:, 4] = 1
    for _ in range(2):
        with torch.no_grad():
            kernel = kernels.linear(weight)
            new, _ = kernel.moved(kernel.dense(r), r, r + change)
            assert torch.allclose(new, (r + change) @ weight.T, rtol=0, atol=1e-12)
            weight.add_(1)


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_images_stay_as_they_lie_in_memory(format: torch.memory_format) -> None:
    kernel = auto(ALWAYS).convolution(Convolution(torch.ones(3, 4, 3, 3), padding=(1, 1, 1, 1)))
    r = random(2, 4, 16, 16, dtype=torch.float32).contiguous(memory_format=format)
    change = torch.zeros_like(r)
    change[0, 0, 0, 0] = 1
    y = kernel.dense(r)
    new, _ = kernel.moved(y, r, r + change)
    for each in (y, new):
        assert each.is_contiguous(memory_format=format)


@pytest.mark.parametrize("make", [Auto, lambda: auto(ALWAYS)])
def test_an_empty_batch_stays_empty(make: object) -> None:
    kernels: Auto = make()  # type: ignore[operator]
    matrix = kernels.linear(torch.eye(5))
    assert matrix.moved(torch.zeros(0, 5), torch.zeros(0, 5), torch.zeros(0, 5))[0].shape == (0, 5)
    image = torch.zeros(0, 2, 8, 8)
    tiles = kernels.convolution(Convolution(torch.ones(2, 2, 3, 3), padding=(1, 1, 1, 1)))
    assert tiles.moved(image, image, image)[0].shape == image.shape


@pytest.mark.parametrize("layer", [nn.Linear(8, 5), nn.Conv2d(2, 3, 3, padding=1)])
def test_a_step_that_is_differentiated_has_the_gradient_of_the_layer(layer: nn.Module) -> None:
    make = DeltaLinear if isinstance(layer, nn.Linear) else DeltaConv2d
    moving = make(layer, auto(ALWAYS))  # type: ignore[arg-type]
    x = torch.randn(2, 8) if isinstance(layer, nn.Linear) else torch.randn(2, 2, 8, 8)
    after = x.clone()
    after[0].view(-1)[0] += 1
    with torch.enable_grad():
        _, memory = moving.start(x)
        found = torch.autograd.grad(moving.move(memory, after, 0.0)[0].sum(), layer.weight)[0]
        wanted = torch.autograd.grad(layer(after).sum(), layer.weight)[0]
    torch.testing.assert_close(found, wanted)


def test_kernels_are_copied_and_pickled_without_what_they_keep() -> None:
    kernels = Auto(costs=nothing)
    kernels._turned(nn.Parameter(torch.eye(3)))
    for other in (copy.deepcopy(kernels), pickle.loads(pickle.dumps(kernels))):
        assert other == kernels and not other._transposed


def nothing(*_: object) -> None:
    """Know no costs."""


@pytest.mark.parametrize("write", ["through .data", "by a fused optimizer", "into its memory"])
def test_weights_are_turned_anew_whatever_wrote_into_them(write: str) -> None:
    kernels, weight = auto(ALWAYS), nn.Parameter(random(20, 20, dtype=torch.float64))
    optimizer = torch.optim.Adam([weight], lr=0.1, fused=True)  # it leaves the version as it is
    weight.grad = torch.ones_like(weight)
    r, change = random(3, 20, dtype=torch.float64), torch.zeros(3, 20, dtype=torch.float64)
    change[:, 4] = 1
    for _ in range(3):
        with torch.no_grad():
            kernel = kernels.linear(weight)
            new, work = kernel.moved(kernel.dense(r), r, r + change)
        assert work == 3 * 20  # by the column that has changed
        assert torch.allclose(new, (r + change) @ weight.T, rtol=0, atol=1e-12)
        if write == "through .data":
            weight.data.neg_()
        elif write == "by a fused optimizer":
            optimizer.step()
        else:
            weight.detach().numpy()[:] += 1


def test_weights_that_change_their_dtype_are_turned_anew() -> None:
    kernels, layer = auto(ALWAYS), nn.Linear(20, 20)
    kernels._turned(layer.weight)
    assert kernels._turned(layer.double().weight).dtype == torch.float64


def test_weights_made_in_inference_mode_are_turned_for_each_solve() -> None:
    with torch.inference_mode():
        weight, r = torch.randn(6, 40), torch.randn(2, 40)
        change = torch.zeros(2, 40)
        change[:, 3] = 1
        kernel = auto(ALWAYS).linear(weight)
        new, work = kernel.moved(kernel.dense(r), r, r + change)
        assert work == 12
        torch.testing.assert_close(new, (r + change) @ weight.T)
