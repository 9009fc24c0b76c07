"""Noise is a function of its place, not of the order in which it is drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest, norm

from homotopy_deq.certification import Noise, Phase
from homotopy_deq.certification.noise import BLOCK

SHAPE = (1, 3, 2)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 3 * BLOCK), st.integers(1, 3 * BLOCK))
def test_a_sample_is_the_same_in_whatever_range_it_is_drawn(start: int, count: int) -> None:
    noise = Noise(0.5, seed=3)
    whole = noise.draw(7, Phase.ESTIMATE, 0, 6 * BLOCK, SHAPE)
    part = noise.draw(7, Phase.ESTIMATE, start, start + count, SHAPE)
    assert torch.equal(part, whole[start : start + count])


def test_picked_samples_are_those_of_their_indices() -> None:
    noise = Noise(0.5)
    whole = noise.draw(7, Phase.ESTIMATE, 0, 500, SHAPE)
    index = np.array([0, 3, BLOCK - 1, BLOCK, 300, 499])
    assert torch.equal(noise.pick(7, Phase.ESTIMATE, index, SHAPE), whole[torch.from_numpy(index)])


def test_seed_image_phase_and_index_each_change_the_noise() -> None:
    drawn = [
        Noise(1.0, seed).draw(image, phase, start, start + 1, SHAPE)
        for seed in (0, 1)
        for image in (0, 1)
        for phase in (Phase.SELECT, Phase.ESTIMATE)
        for start in (0, 1, BLOCK)
    ]
    values = torch.stack(drawn).flatten().tolist()
    assert len(set(values)) == len(values)


def test_no_default_of_the_process_changes_the_noise() -> None:
    noise = Noise(0.5, seed=3)
    wanted = noise.draw(1, Phase.ESTIMATE, 0, 70, (2, 3))
    try:
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        found = noise.draw(1, Phase.ESTIMATE, 0, 70, (2, 3))
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert found.dtype == torch.float32 and torch.equal(found, wanted)


def test_noise_is_normal_with_the_stated_deviation_and_not_clipped() -> None:
    drawn = Noise(2.0).draw(0, Phase.ESTIMATE, 0, 4000, SHAPE).flatten().double().numpy()
    # At a level of 1e-6 this fixed draw passes unless the generator is wrong.
    assert kstest(drawn / 2.0, "norm").pvalue > 1e-6
    assert drawn.min() < -5 and drawn.max() > 5


def test_neighbours_and_images_are_uncorrelated() -> None:
    noise = Noise(1.0)
    first, second = (
        noise.draw(image, Phase.ESTIMATE, 0, 64 * BLOCK, (4,)).flatten().numpy() for image in (0, 1)
    )
    n = len(first)  # a correlation of n independent pairs is N(0, 1 / n); 5 deviations
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(n)
    assert abs(np.corrcoef(first[4:], first[:-4])[0, 1]) < 5 / np.sqrt(n)
    blocks = first.reshape(64, -1)
    assert abs(np.corrcoef(blocks[1:].ravel(), blocks[:-1].ravel())[0, 1]) < 5 / np.sqrt(n)


@pytest.mark.parametrize("sigma", (0.0, -1.0, float("nan"), float("inf"), 1e-60, 1e60))
@pytest.mark.parametrize("discrete", (False, True))
def test_a_deviation_that_is_none_is_refused(sigma: float, discrete: bool) -> None:
    with pytest.raises(ValueError, match="sigma must be above 0"):
        Noise(sigma, discrete=discrete)


def test_no_radius_is_computed_with_more_than_noise_was_scaled_by() -> None:
    unit = np.array([1], np.float32)
    smaller = 0
    for k in range(1, 2000):
        noise = Noise(k / 1000)
        scaled = float((unit * np.float32(noise.sigma))[0])  # as a draw of 1 is
        assert noise.deviation == min(scaled, noise.sigma)
        assert Noise(k / 1000, discrete=True).deviation == k / 1000
        smaller += scaled < noise.sigma
    assert smaller > 500  # else this test would show nothing


def test_discrete_noise_is_whole_steps_with_the_probabilities_of_rounded_normal_numbers() -> None:
    sigma = 0.01  # 2.55 steps
    drawn = Noise(sigma, discrete=True).draw(0, Phase.ESTIMATE, 0, 20_000, SHAPE)
    steps = drawn.flatten().numpy()
    assert drawn.dtype == torch.float32 and (steps == np.rint(steps)).all()
    edges = np.array([-np.inf, *np.arange(-7.5, 8), np.inf])
    counts, _ = np.histogram(steps, edges)
    wanted = np.diff(norm.cdf(edges, scale=255 * sigma)) * len(steps)
    assert chisquare(counts, wanted).pvalue > 1e-6  # a fixed draw, as above


def test_discrete_copies_of_an_8_bit_image_are_8_bit_numbers_that_were_moved_exactly() -> None:
    noise = Noise(0.25, discrete=True)
    drawn = noise.draw(3, Phase.ESTIMATE, 0, 100, SHAPE)
    levels = torch.arange(6).view(SHAPE) * 51
    noisy = noise.onto(levels.float() / 255, drawn)
    assert torch.equal(noisy, (levels + drawn.int()).float() / 255)
    assert torch.equal(noise.onto(levels.float() / 255, 0 * drawn)[0], levels.float() / 255)
    assert noisy.min() < 0 and noisy.max() > 1  # not clipped
    # The noise is the same whatever the image, bit for bit: nothing of it is lost in a sum.
    other = noise.onto((levels + 1).float() / 255, drawn)
    assert torch.equal((other * 255).round() - (noisy * 255).round(), torch.ones_like(noisy))
    index = np.array([0, 70, 99])
    assert torch.equal(noise.pick(3, Phase.ESTIMATE, index, SHAPE), drawn[index])


def test_a_stream_is_what_is_drawn_a_range_at_a_time() -> None:
    noise = Noise(0.5, seed=3)
    ranges = [(0, 10), (10, 200), (200, 201)]
    drawn = list(noise.stream(7, Phase.ESTIMATE, ranges, SHAPE))
    assert [len(part) for part in drawn] == [10, 190, 1]
    assert torch.equal(torch.cat(drawn), noise.draw(7, Phase.ESTIMATE, 0, 201, SHAPE))
    begun = noise.stream(7, Phase.ESTIMATE, ranges, SHAPE)
    assert torch.equal(next(begun), drawn[0])
    begun.close()  # a decision was made: what is drawn ahead is let go
