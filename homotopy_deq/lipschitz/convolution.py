"""Norms of convolutions with zero or circular padding and any stride, for images of any size."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..cells.bounds import SLACK, UNIT

FINE = 32
"""Frequencies a side, for each pixel that a kernel spans: the bound is then 0.5% above the least
that holds for images of any size."""


def convolution_norm(module: nn.Conv2d) -> float | str:
    """Return an upper bound of the norm of a convolution, or why there is none.

    With zeros around it an image is one of the whole plane, where a convolution K has the norm
    sup ||K(a, b)||, K(a, b) = sum_pq K_pq exp(i (p a + q b)); what is padded circularly sees some
    of these frequencies. With a stride s the s x s pixels that go on together are channels of one.
    The supremum is bounded by N x N frequencies: |<u, K(., b) v>|^2 is a real trigonometric
    polynomial, of degree d if K spans d + 1 pixels, so that its largest value is no more than
    1 / cos(pi d / N) times the largest at N equidistant points, in each direction.

    References:
        H. Sedghi, V. Gupta, P. Long (2019), The singular values of convolutional layers.
        H. Ehlich, K. Zeller (1964), Schwankung von Polynomen zwischen Gitterpunkten.
    """
    if module.groups != 1 or module.padding_mode not in ("zeros", "circular"):
        return "only convolutions of one group, padded by zeros or circularly, are bounded here"
    weight = module.weight.detach().double()
    if not bool(weight.isfinite().all()):
        return "its weight is not finite"
    stride: tuple[int, ...] = tuple(module.stride)
    if module.padding_mode == "circular":
        stride = (1, 1)  # leaves out rows; the images' sides need be no multiples of it
        if not isinstance(module.padding, str):
            sides = zip(module.padding, module.dilation, module.kernel_size, strict=True)
            if any(2 * p > d * (k - 1) for p, d, k in sides):
                return "circular padding to more than the images' size repeats pixels"
    return _supremum(_polyphase(weight, stride, tuple(module.dilation)))


def _polyphase(weight: Tensor, stride: tuple[int, ...], dilation: tuple[int, ...]) -> Tensor:
    """Return the kernel of stride 1, (m, n * s * s, k', k'), on the grid of the strides."""
    rows, columns = ([d * t for t in range(k)]
                     for d, k in zip(dilation, weight.shape[2:], strict=True))  # fmt: skip
    down, along = stride
    found = weight.new_zeros(
        *weight.shape[:2], down, along, rows[-1] // down + 1, columns[-1] // along + 1
    )
    for p, at in enumerate(rows):
        for q, beside in enumerate(columns):
            place = at % down, beside % along, at // down, beside // along
            found[:, :, place[0], place[1], place[2], place[3]] = weight[:, :, p, q]
    return found.flatten(1, 3)


def _supremum(kernel: Tensor) -> float:
    """Return a bound of the symbol's largest norm, over all frequencies."""
    sides = [FINE * (k - 1) or 1 for k in kernel.shape[2:]]
    rows, columns = (
        torch.fft.fft(torch.eye(n, k, dtype=torch.complex128, device=kernel.device), dim=0).conj()
        for n, k in zip(sides, kernel.shape[2:], strict=True)
    )  # exp(2 pi i t a / n)
    columns = columns[: sides[1] // 2 + 1]  # at the others the symbol is conjugate
    complex_kernel = kernel.to(torch.complex128)
    largest = 0.0
    for row in rows:  # a row at a time, as all symbols together may be large
        blocks = torch.einsum("i,bj,opij->bop", row, columns, complex_kernel)
        largest = max(largest, float(torch.linalg.matrix_norm(blocks, 2).amax()))
    taps = float(kernel.square().sum((0, 1)).sqrt().sum())
    rounding = SLACK * max(len(kernel), kernel[0].numel()) * UNIT * taps
    factor = math.prod(math.cos(math.pi * (k - 1) / n) ** -0.5
                       for n, k in zip(sides, kernel.shape[2:], strict=True))  # fmt: skip
    return float((largest + rounding) * factor * (1 + 16 * UNIT))
