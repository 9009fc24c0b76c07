"""The bound of a plain convolution: above the norm of its matrix, and close to it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from homotopy_deq.lipschitz import certify_lipschitz


def convolution(seed: int, inputs: int, outputs: int, kernel: Any, **given: Any) -> nn.Conv2d:
    torch.manual_seed(seed)
    return nn.Conv2d(inputs, outputs, kernel, bias=False, **given).double()


def matrix(module: nn.Conv2d, height: int, width: int) -> Tensor:
    """The matrix of the map of images of a size, by its columns."""
    inputs = module.in_channels * height * width
    pixels = torch.eye(inputs, dtype=torch.float64)
    with torch.no_grad():
        return module(pixels.view(inputs, -1, height, width)).flatten(1)


def bound(module: nn.Module) -> float:
    return certify_lipschitz(module).value


@settings(max_examples=60)
@given(
    seed=st.integers(0, 99),
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.integers(1, 2),
    padding=st.integers(0, 3),
    grid=st.tuples(st.integers(7, 10), st.integers(7, 10)),
    mode=st.sampled_from(["zeros", "circular"]),
)
def test_a_bound_is_above_the_norm_of_the_matrix(
    seed: int, sizes: Any, kernel: Any, stride: Any, dilation: int, padding: int, grid: Any,
    mode: str,
) -> None:  # fmt: skip
    if mode == "circular":
        padding = min(padding, *(dilation * (k - 1) // 2 for k in kernel))
    module = convolution(seed, *sizes, kernel, stride=stride, dilation=dilation,
                         padding=padding, padding_mode=mode)  # fmt: skip
    exact = float(torch.linalg.matrix_norm(matrix(module, *grid), 2))
    assert exact <= bound(module)


@pytest.mark.parametrize(
    ("kernel", "stride", "grid", "mode"),
    [(3, 1, 16, "zeros"), (3, 1, 16, "circular"), (3, 2, 18, "zeros"), (4, 2, 20, "zeros")],
)
def test_a_bound_is_close_to_the_norm(kernel: int, stride: int, grid: int, mode: str) -> None:
    module = convolution(0, 3, 4, kernel, stride=stride, padding=1, padding_mode=mode)
    exact = float(torch.linalg.matrix_norm(matrix(module, grid, grid), 2))
    # 0.5% by the frequencies, the rest the border of so small an image.
    assert exact <= bound(module) <= 1.08 * exact
    taps = module.weight.detach().flatten(2).permute(2, 0, 1)
    assert bound(module) < 0.7 * float(torch.linalg.matrix_norm(taps, 2).sum())


def test_patches_that_do_not_overlap_have_the_norm_of_the_matrix_of_one() -> None:
    module = convolution(1, 3, 5, 4, stride=4)
    exact = float(torch.linalg.matrix_norm(module.weight.flatten(1), 2))
    assert bound(module) == pytest.approx(exact, rel=1e-12)


def test_a_shift_keeps_its_norm_of_one() -> None:
    module = convolution(0, 1, 1, 3, padding=1)
    with torch.no_grad():
        module.weight.zero_()[0, 0, 0, 2] = 1.0
    # cos(pi / 32)^(-1/2) in each direction: 64 frequencies for a span of 2.
    assert 1 <= bound(module) <= 1.005
