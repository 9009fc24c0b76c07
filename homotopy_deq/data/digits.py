"""The digits that ship with scikit-learn: real images with no download."""

from __future__ import annotations

import numpy as np

from .source import Found, in_memory

SOURCE = "scikit-learn's load_digits"


def digits() -> Found:
    """Read the 1,797 grey 8x8 digits, whose 17 levels 0..16 are spread over 0..255.

    References:
        E. Alpaydin and C. Kaynak (1998). Optical recognition of handwritten digits. UCI.
    """
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = np.rint(pixels.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    return Found(in_memory(images, labels), None, tuple("0123456789"), SOURCE)
