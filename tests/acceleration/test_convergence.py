from __future__ import annotations

import pytest
import torch

from homotopy_deq.acceleration.convergence import dimension, displacement, settled


def geometric(rates: torch.Tensor, steps: int) -> torch.Tensor:
    """z_k = rate^k, and 0 at the end, for one sample."""
    k = torch.arange(steps, dtype=torch.float64)[:, None]
    return torch.cat([rates**k, torch.zeros(1, len(rates))])[:, None]


def test_an_entry_rests_from_the_step_at_which_its_distance_stays_below_the_tolerance() -> None:
    path = geometric(torch.tensor([0.5, 0.1], dtype=torch.float64), 40)
    # .5^k <= 1e-3 from k = 10 (2^-10 = 9.8e-4), .1^k from k = 3 (a hair above 1e-3 or not: 4)
    assert settled(path, 1.01e-3).steps.tolist() == [[10, 3]]


def test_an_entry_that_only_passes_its_answer_is_not_at_rest() -> None:
    path = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0])[:, None, None]
    assert settled(path, 1e-6).steps.item() == 3


def test_an_entry_at_its_answer_from_the_start_rests_at_step_0() -> None:
    assert settled(torch.ones(5, 2, 3), 1e-6).steps.max() == 0


def test_share_that_moves_is_that_of_the_entries_not_yet_at_rest() -> None:
    path = geometric(torch.tensor([0.5, 0.1], dtype=torch.float64), 40)
    moving = settled(path, 1.01e-3).moving()
    assert moving.tolist() == [1.0] * 3 + [0.5] * 7 + [0.0] * 31


def test_a_tolerance_of_0_is_refused() -> None:
    with pytest.raises(ValueError, match="tolerance must be above 0; got 0"):
        settled(torch.zeros(3, 1, 1), 0.0)


@pytest.mark.parametrize("points", [4, 400])  # either way round, the Gram matrix is the smaller
def test_dimension_of_a_cloud_is_that_of_the_subspace_it_lies_in(points: int) -> None:
    basis = torch.linalg.qr(torch.randn(50, 3, dtype=torch.float64))[0]
    signs = torch.tensor([[1.0, 1, 1], [-1, -1, 1], [-1, 1, -1], [1, -1, -1]]).double()
    cloud = signs.repeat(points // 4, 1) @ basis.T + 7  # equal variances, and a centre
    found = dimension(cloud)
    assert found.components == 3 and found.state == 50
    assert found.participation == pytest.approx(3, abs=1e-9)  # float64


def test_participation_weighs_components_by_their_variance() -> None:
    line = torch.linspace(-1, 1, 101, dtype=torch.float64)
    grid = torch.cartesian_prod(line, 0.1 * line)  # variances 1 : 1/100
    assert dimension(grid).participation == pytest.approx(1.01**2 / 1.0001, rel=1e-9)
    assert dimension(grid, 0.9).components == 1 and dimension(grid, 0.999).components == 2


def test_what_does_not_move_has_no_dimension() -> None:
    assert dimension(torch.ones(6, 4)).components == 0


def test_answers_that_differ_are_no_movement() -> None:
    rate = 0.5 ** torch.arange(8.0)[:, None, None]
    answers, way = torch.randn(1, 5, 6), torch.randn(1, 1, 6)
    path = torch.cat([answers + rate * way, answers])
    assert dimension(displacement(path), 0.999).components == 1
