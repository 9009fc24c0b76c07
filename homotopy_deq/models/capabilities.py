"""What a part of a model may be able to do: asked of its methods, never of its class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from ..cells import Bounds


@runtime_checkable
class ProvableCell(Protocol):
    """A cell relu(W z + x) of whose weight it is proved that there is one equilibrium.

    Attributes:
        shape: of a sample's state.
    """

    shape: tuple[int, ...]

    def bounds(self) -> Bounds:
        """Return what is proved of W, from W itself in double precision."""
        ...

    def fixed(self) -> nn.Module:
        """Return the cell with its W as a constant."""
        ...


@runtime_checkable
class AffineHead(Protocol):
    """A head that is one affine map of the answer."""

    def affine(self, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return C and d of logits = C z.flatten() + d, in double precision."""
        ...
