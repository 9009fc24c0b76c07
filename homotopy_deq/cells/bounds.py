"""What is proved of a weight W and of the answers of z = relu(W z + x)."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import torch
from torch import Tensor

SLACK = 16.0
"""Times n u ||W||_F: outward rounding of singular values and eigenvalues in double precision.

LAPACK bounds their error by p(n) u ||W||_2 with a modest p (Anderson et al., LAPACK Users' Guide,
4.7 and 4.9), of which n is a generous estimate.
"""
UNIT = 2.0**-53


@dataclass(frozen=True)
class Bounds:
    """Numbers in double precision that hold for the weight of a cell as it is stored.

    Arguments:
        norm: an upper bound of ||W||.
        monotonicity: a lower bound m > 0 of the least eigenvalue of the symmetric part of I - W.
        absolute: an upper bound of || |W| ||, W with the absolute value of each entry.
        terms: products that are summed for one entry of W z.
    """

    norm: float
    monotonicity: float
    absolute: float
    terms: int

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.norm, self.monotonicity, self.absolute))):
            raise ValueError(f"nothing is proved of a weight that is not finite; got {self}.")
        if not self.monotonicity > 0:
            raise ValueError(
                "I - W is not proved to be strongly monotone: the least eigenvalue of its "
                f"symmetric part is {self.monotonicity:.3g} or more, where above 0 is needed."
            )


def error_bound(z: Tensor, fz: Tensor, x: Tensor, bounds: Bounds) -> Tensor:
    """Bound how far an evaluation fz of relu(W z + x) is from the equilibrium z*:

        ||fz - z*|| <= (||W|| ||fz - z|| + eta) / m.

    z* is that of exact arithmetic for W and x as they are stored, and eta covers the rounding in
    computing fz, whatever z is and whoever found it. Derivation: let p be W z + x as computed,
    p = W z + x + d, and fz = relu(p), which rounds nothing. A dot product of k terms and the sum
    with x, in any order and with or without fused products, round to

        |d| <= g (|W| |z| + |x|),  g = (k + 2) u / (1 - (k + 2) u)   (Higham 2002, 3.1),

    in each entry (and what underflows adds less than (k + 2) times the least normal number), so
    that ||d|| <= eta := g (|| |W| || ||z|| + ||x||) + underflow. p - fz is normal to the
    nonnegative orthant at fz, and W z* + x - z* is at z*. Normals are monotone: with e = fz - z*

        0 <= <p - fz - (W z* + x - z*), e> = <W (z - fz) + d - (I - W) e, e>,
        m ||e||^2 <= <(I - W) e, e> <= (||W|| ||fz - z|| + ||d||) ||e||.

    Arguments:
        z: any state, (B, ...), of finite numbers.
        fz: the cell's value there as computed in z's dtype u = 2^-24 (float32) or 2^-53 (float64)
            by sums of products, as matrix products and oneDNN's convolutions on a CPU are.
            TensorFloat-32, half precision (autocast), and convolutions by Winograd's or Fourier's
            transform, among which cuDNN chooses, are not: see `uncovered`.
        x: the condition that fz was computed with, (B, ...).
        bounds: of the weight that fz was computed with.

    Returns:
        The bound for each sample, float64 (B,); NaN or infinite where z, fz or x is.

    Raises:
        ValueError: fz is of another precision, or of float32 on a GPU and an image, or TF32 is
            allowed there: evaluate in float64 (`model.double()`).

    References:
        N. Higham (2002), Accuracy and stability of numerical algorithms.
    """
    gap = _size(fz.detach().double().flatten(1) - z.detach().double().flatten(1))
    eta = rounding(z, fz, x, bounds)
    # Ten roundings of positive numbers in double precision, outward.
    return (bounds.norm * gap + eta) / bounds.monotonicity * (1 + 16 * UNIT)


def rounding(z: Tensor, fz: Tensor, x: Tensor, bounds: Bounds) -> Tensor:
    """Return eta of `error_bound`, which bounds the rounding in computing fz, float64 (B,)."""
    if (reason := uncovered(fz)) is not None:
        raise ValueError(reason)
    numbers = torch.finfo(fz.dtype)
    k = bounds.terms + 2
    g = k * numbers.eps / 2 / (1 - k * numbers.eps / 2)
    size, given = (_size(t.detach().flatten(1)) for t in (z, x))
    floor = k * numbers.tiny * math.sqrt(z[0].numel())
    return (g * (bounds.absolute * size + given) + floor) * (1 + 16 * UNIT)


def uncovered(fz: Tensor) -> str | None:
    """Say why the rounding of a cell's value is not covered by `rounding`, or None if it is.

    Arguments:
        fz: the cell's value, or anything of its shape, dtype and device.
    """
    if fz.dtype not in (torch.float32, torch.float64):
        return f"fz must have been computed in float32 or float64; got {fz.dtype}."
    if fz.dtype == torch.float64:
        return None
    way = "Evaluate in float64 (model.double())"
    if torch.is_autocast_enabled(fz.device.type):  # which may leave fz itself in float32
        return f"under autocast products are of half precision. {way}, or without it."
    if torch.get_float32_matmul_precision() != "highest":
        return (
            "torch.get_float32_matmul_precision() is not 'highest', so products round their "
            f"inputs to fewer digits than float32 has. {way}, or set it."
        )
    if fz.device.type == "cpu":
        return _reduced(fz, way)
    if fz.device.type != "cuda" or fz.dim() > 2:
        return (
            "on this device not every way to convolve or multiply in float32 rounds as a sum of "
            f"products does. {way}, or on the CPU."
        )
    return None


def _reduced(fz: Tensor, way: str) -> str | None:
    """Say what makes oneDNN's arithmetic on the CPU, or what stands in for it, not covered."""
    mode = os.environ.get("ONEDNN_DEFAULT_FPMATH_MODE", "STRICT").upper()
    mode = os.environ.get("DNNL_DEFAULT_FPMATH_MODE", mode).upper()
    if mode != "STRICT":
        return f"ONEDNN_DEFAULT_FPMATH_MODE is {mode}, where STRICT is wanted. {way}."
    mkldnn = torch.backends.mkldnn
    for part in (mkldnn, getattr(mkldnn, "conv", None), getattr(mkldnn, "matmul", None)):
        precision = getattr(part, "fp32_precision", "ieee")
        if precision not in ("ieee", "none"):
            return f"torch.backends.mkldnn computes in {precision}, where ieee is wanted. {way}."
    there = bool(mkldnn.is_available())  # type: ignore[no-untyped-call]
    if fz.dim() > 2 and not (there and getattr(mkldnn, "enabled", True)):
        return f"without oneDNN convolutions on the CPU may be by Winograd's transform. {way}."
    return None


def _size(rows: Tensor) -> Tensor:
    """Return an upper bound of the 2-norm of each row, float64 (B,)."""
    unit = torch.finfo(rows.dtype).eps / 2
    size: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return size.double() * (1 + (rows.shape[1] + 4) * unit)


def gram_norm(matrices: Tensor, steps: int = 6) -> Tensor:
    """Return a differentiable upper bound of the largest 2-norm of matrices (..., m, n), 0-d:

        ||K|| <= ||K_t||_F^(2^-t),   K_0 = K,   K_{t+1} = K_t^H K_t.

    It holds at every t, and is at most n^(2^-(t+1)) too large. Each K_t is scaled to norm 1 so
    that no power overflows.

    References:
        B. Delattre, Q. Barthelemy, A. Araujo, A. Allauzen (2023), Efficient bound of Lipschitz
        constant for convolutional layers by Gram iteration.
    """
    if matrices.shape[-2] < matrices.shape[-1]:
        matrices = matrices.mH
    tiny = torch.finfo(matrices.dtype).tiny
    log = matrices.real.new_zeros(matrices.shape[:-2])
    for t in range(steps + 1):
        size = torch.linalg.matrix_norm(matrices).clamp_min(tiny)
        log = log + size.log() / 2**t
        if t < steps:
            matrices = matrices / size[..., None, None]
            matrices = matrices.mH @ matrices
    return log.amax().exp()


def symbol(kernel: Tensor, height: int, width: int) -> Tensor:
    """Return the blocks of a circular convolution in the Fourier basis:

        w(a, b) = sum_pq K_pq exp(2 pi i ((p - r) a / height + (q - r) b / width)),

    r = (k - 1) / 2, for the frequencies of `torch.fft.rfft2`; the others are their conjugates.

    Arguments:
        kernel: (m, n, k, k), k odd, as `torch.nn.functional.conv2d` takes it.

    Returns:
        (height, width // 2 + 1, m, n), complex.
    """
    k = kernel.shape[-1]
    offsets = torch.arange(k, dtype=torch.float64, device=kernel.device) - (k - 1) // 2
    down = torch.fft.fftfreq(height, dtype=torch.float64, device=kernel.device)
    along = torch.fft.rfftfreq(width, dtype=torch.float64, device=kernel.device)
    complex_type = torch.complex128 if kernel.dtype == torch.float64 else torch.complex64
    rows, columns = (
        torch.polar(torch.ones_like(angle), angle).to(complex_type)
        for angle in (2 * math.pi * torch.outer(f, offsets) for f in (down, along))
    )
    return torch.einsum("ai,bj,opij->abop", rows, columns, kernel.to(complex_type))
