"""The branches of roots that lead to the answers of a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from ...models import ImageModel
from ...page import traced
from ...plotting import branch_figure, rms

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def branches(model: ImageModel, images: Tensor, names: Sequence[str]) -> Figure:
    """Draw the roots of z = z0 + lambda (f(z) - z0) for each image, lambda from 0 to 1.

    Arguments:
        model: with a rest point.
        images: (B, C, H, W), in [0, 1].
        names: of the images.
    """
    labels = [f"{k + 1}: {name}" for k, name in enumerate(names)]
    found = dict(zip(labels, traced(model, images), strict=True))
    return branch_figure(found, rms, ylabel="root mean square of z")
