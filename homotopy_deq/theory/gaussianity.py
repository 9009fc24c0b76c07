"""Are the outputs of wide networks jointly Gaussian, with the predicted covariance?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Gaussianity:
    """Kolmogorov-Smirnov tests of samples against the predicted Gaussian.

    Arguments:
        marginal: the distance of each coordinate from its normal distribution, (D,).
        joint: the distance of s^T C^-1 s from the chi-squared distribution of D degrees.
        p_marginal: p-values of the former, (D,).
        p_joint: of the latter.
        correlation: the largest sample correlation of two whitened coordinates, which is about
            sqrt(2 log(D^2 / 2) / M) for M independent samples.
    """

    marginal: Tensor
    joint: float
    p_marginal: Tensor
    p_joint: float
    correlation: float


def gaussianity(samples: Tensor, covariance: Tensor) -> Gaussianity:
    """Test samples, one network each, against N(0, covariance).

    The variance is the predicted one and not the samples' own, which would hide an error in it.
    Several outputs are coordinates like several inputs: their covariance is block-diagonal
    (`torch.block_diag`), as outputs are independent.

    Arguments:
        samples: (M, D).
        covariance: (D, D), positive definite.
    """
    from scipy import stats

    drawn = samples.detach().double().cpu().numpy()
    c = covariance.detach().double().cpu().numpy()
    scale = np.sqrt(np.diag(c))
    one = [stats.kstest(column / s, "norm") for column, s in zip(drawn.T, scale, strict=True)]
    white = np.linalg.solve(np.linalg.cholesky(c), drawn.T)
    both = stats.kstest((white**2).sum(0), "chi2", args=(len(c),))
    off = np.corrcoef(white) - np.eye(len(c)) if len(c) > 1 else np.zeros((1, 1))
    return Gaussianity(
        torch.tensor([float(test.statistic) for test in one]),
        float(both.statistic),
        torch.tensor([float(test.pvalue) for test in one]),
        float(both.pvalue),
        float(np.abs(off).max()),
    )
