"""Training for certification: noise, and what makes its predictions robust and consistent."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from solvers.gradient.rows import BackwardWarning

from ..adversary import ascend, frozen, project, slope, smoothed
from ..models import ImageModel
from ..settings import SmoothTraining

HELD = 3  # tells the noise of validation and test from other random numbers; a part's adds to it
VALIDATION, TEST = 0, 1


def noisy(model: ImageModel, images: Tensor, labels: Tensor, smoothing: SmoothTraining) -> Tensor:
    """Return what a step learns from: the images under M draws of noise, (M * B, C, H, W).

    The B images of the first draw come first. The noise is drawn from torch's global generator on
    the images' device; the adversary, if there is one, attacks under the noise that is returned.

    Arguments:
        model: the classifier; attacked in eval mode.
        images: (B, C, H, W).
        labels: (B,).
        smoothing: how.
    """
    many = images.repeat(smoothing.samples, 1, 1, 1)
    noise = torch.randn_like(many) * smoothing.noise
    if smoothing.adversary_steps:
        many = adversary(model, images, labels, noise, smoothing).repeat(smoothing.samples, 1, 1, 1)
    return many + noise


def adversary(
    model: ImageModel, images: Tensor, labels: Tensor, noise: Tensor, smoothing: SmoothTraining
) -> Tensor:
    """Return the images moved to raise -log of the smoothed probability of their label:

        x <- P(x + 2 (eps / K) g / ||g||),   g = grad -log (1/M) sum_i softmax(model(x + e_i))_y,

    for K steps from the image itself, P being the projection to the l2 ball around it.

    Arguments:
        model: the classifier.
        images: (B, C, H, W).
        labels: (B,).
        noise: the draws e, (M * B, C, H, W).
        smoothing: gives K, eps and M.

    References:
        H. Salman et al. (2019), as in `SmoothTraining`: SmoothAdv-PGD. As in the authors' release,
        the model is in eval mode, the start is the image, and the step is 2 eps / K.
    """
    draws = smoothing.samples

    def loss(points: Tensor) -> Tensor:
        logits = model.solve(points.repeat(draws, 1, 1, 1) + noise).logits
        return F.nll_loss(smoothed(logits, draws), labels, reduction="none")

    radius = torch.full((len(images),), smoothing.adversary_radius, device=images.device).double()
    points = images
    with frozen(model), warnings.catch_warnings():
        # An approximate gradient makes a weaker attack, not a wrong step of the training.
        warnings.simplefilter("ignore", BackwardWarning)
        for _ in range(smoothing.adversary_steps):
            _, gradient = slope(loss, points)
            step = 2 * radius / smoothing.adversary_steps
            points = project(ascend(points, gradient, step), images, radius)
    return points


def consistency_loss(logits: Tensor, draws: int, weight: float, entropy: float) -> Tensor:
    """Return how far the predictions under the draws are from agreement, a mean over the images:

        lambda (1/M) sum_i KL(p || p_i) + eta H(p),   p = (1/M) sum_i p_i,  p_i = softmax(draw i).

    Arguments:
        logits: (M * B, classes), the B images of the first draw first.
        draws: M.
        weight: lambda.
        entropy: eta.

    References:
        J. Jeong, J. Shin (2020), Consistency regularization for certified robustness of smoothed
        classifiers, equation 9.
    """
    each = logits.float().log_softmax(1).reshape(draws, -1, logits.shape[1])
    mean = smoothed(logits, draws)
    apart = (mean.exp() * (mean - each)).sum(2).mean(0)
    return (weight * apart - entropy * (mean.exp() * mean).sum(1)).mean()


def held_noise(images: Tensor, sigma: float, seed: int, part: int) -> Tensor:
    """Return images under one fixed draw of noise, float, in the units of the stored ones.

    The noise is a function of (seed, part, place in the set): the same in every epoch, batch and
    process, so that epochs are compared on the same noisy images.

    Arguments:
        images: (N, C, H, W), 0 to 255, as `loader` takes them.
        sigma: standard deviation of the noise, in units of images in [0, 1].
        seed: of the run.
        part: VALIDATION or TEST.
    """
    draws = np.random.default_rng([seed, HELD, part]).standard_normal(images.shape, np.float32)
    return images.float().add_(torch.from_numpy(draws), alpha=255 * sigma)
