"""Modules whose weights are functions of their parameters."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from .blocks import Grid


class Parametrised(nn.Module):
    """Weights that are functions of parameters: of matrices, or of circular convolutions.

    They are computed anew in every call while gradients are recorded, and kept between calls
    otherwise, beside a copy of the parameters: no counter of theirs sees every way to write to one
    (`.data`, fused optimisers).

    Arguments:
        grid: height and width of the images, for circular convolutions; None for vectors.
        kernel: side of the kernels, odd; of no meaning for vectors.
        sizes: numbers of entries or channels, to be checked.
        full: the kernels cover the whole grid instead; the first tap of one is in place, the others
            to the right of and below it.
    """

    def __init__(self, grid: Grid, kernel: int, *sizes: int, full: bool = False) -> None:
        super().__init__()
        if min(sizes) < 1:
            raise ValueError(f"sizes must be at least 1; got {', '.join(map(str, sizes))}.")
        if grid is not None and (len(grid) != 2 or min(grid) < 1):
            raise ValueError(f"grid must be (height, width) of the images, or None; got {grid}.")
        if grid is not None and (kernel % 2 == 0 or not 1 <= kernel <= min(grid)):
            raise ValueError(f"kernel must be odd and fit on the grid {tuple(grid)}; got {kernel}.")
        self.grid: Grid = None if grid is None else (grid[0], grid[1])
        self.kernel, self.full = kernel, full
        self.sizes = sizes
        self._kept: tuple[list[Tensor], tuple[Tensor, ...]] | None = None

    @abstractmethod
    def compute(self) -> tuple[Tensor, ...]:
        """Compute the weights from the parameters, in their precision."""

    def computed(self) -> tuple[Tensor, ...]:
        """Return what `compute` does, kept between calls where no gradient is recorded."""
        now = list(self.parameters())
        with torch.autocast(now[0].device.type, enabled=False):  # half precision loses the bound
            if torch.is_grad_enabled() and any(p.requires_grad for p in now):
                return self.compute()
            if torch.is_inference_mode_enabled() or _transforms_active():
                return self.compute()  # such tensors may not be used outside
            if self._kept is None or not all(map(_equal, self._kept[0], now)):
                self._kept = [p.detach().clone() for p in now], self.compute()
            return self._kept[1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": None}  # computed anew where it is copied to

    def check_input(self, x: Tensor, channels: int) -> None:
        """Raise ValueError unless x is a batch of the vectors or images that this maps."""
        wanted = (channels, *(self.grid or ()))
        if x.dim() < 2 or tuple(x.shape[1:]) != wanted:
            raise ValueError(
                f"{type(self).__name__} maps (B, {', '.join(map(str, wanted))}); "
                f"got {tuple(x.shape)}."
            )

    def extra_repr(self) -> str:
        """Show the sizes in `print(layer)`."""
        grid = "" if self.grid is None else f", grid={self.grid}, kernel={self.kernel}"
        return ", ".join(map(str, self.sizes)) + grid

    def raw(self, rows: int, columns: int, gain: float = 1.0) -> nn.Parameter:
        """Return a parameter of independent normal entries: a matrix or a kernel."""
        sides = self.grid if self.full else (self.kernel, self.kernel)
        size = (rows, columns) if self.grid is None else (rows, columns, *(sides or ()))
        return nn.Parameter(torch.randn(size) * (gain / math.sqrt(math.prod(size[1:]))))


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)


# Where torch's test is gone, vmap's error has to do.
_transforms_active = getattr(torch._C, "_are_functorch_transforms_active", bool)
