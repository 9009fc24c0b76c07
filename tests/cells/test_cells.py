from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from homotopy_deq.cells import (
    AttentionCell,
    ConvCell,
    ConvField,
    DenseCell,
    Joined,
    MultiscaleCell,
    dropout_mask,
    group_norm,
)

IMAGE = (3, 8, 4, 4)
PARTS = [(8, 4, 4), (8, 2, 2)]


def cells() -> list[tuple[nn.Module, Tensor]]:
    return [
        (DenseCell(5, 7, gain=0.3), torch.randn(3, 5)),
        (ConvCell(8, groups=4, dropout=0.5), torch.randn(IMAGE)),
        (AttentionCell(8, causal=True, dropout=0.5), torch.randn(3, 5, 8)),
        (ConvField(8, groups=4, dropout=0.5), torch.randn(IMAGE)),
        (ConvField(8, augment=4, groups=4, dropout=0.5), torch.randn(IMAGE)),
        (Joined(MultiscaleCell(8, 2, groups=4, dropout=0.5), PARTS), torch.randn(IMAGE)),
    ]


def start(cell: nn.Module, x: Tensor) -> Tensor:
    z0: Tensor = cell.initial(x) if hasattr(cell, "initial") else torch.zeros_like(x)
    return z0


@pytest.mark.parametrize("case", cells(), ids=lambda case: type(case[0]).__name__)
def test_condition_only_precomputes_what_the_cell_does_with_x(
    case: tuple[nn.Module, Tensor],
) -> None:
    cell, x = case
    cell.eval()
    z = torch.randn_like(start(cell, x))
    assert cell(z, x).shape == z.shape
    assert torch.equal(cell(z, *cell.condition(x)), cell(z, x))


@pytest.mark.parametrize("case", cells(), ids=lambda case: type(case[0]).__name__)
def test_every_condition_has_the_batch_first_and_acts_row_by_row(
    case: tuple[nn.Module, Tensor],
) -> None:
    cell, x = case
    cell.train()
    z, condition = torch.randn_like(start(cell, x)), cell.condition(x)
    assert all(tensor.shape[0] == x.shape[0] for tensor in condition)
    row = cell(z[1:2], *(tensor[1:2] for tensor in condition))
    torch.testing.assert_close(cell(z, *condition)[1:2], row)


@pytest.mark.parametrize("case", cells(), ids=lambda case: type(case[0]).__name__)
def test_training_changes_nothing_but_weights(case: tuple[nn.Module, Tensor]) -> None:
    cell, x = case
    before = {k: v.clone() for k, v in cell.state_dict().items()}
    z = start(cell, x)
    for _ in range(3):
        z = cell(z, *cell.train().condition(x))
    for name, value in cell.state_dict().items():
        assert torch.equal(value, before[name]), name  # no running statistics, no counters


def test_mask_drops_whole_channels_and_keeps_the_mean() -> None:
    mask = dropout_mask(torch.randn(200, 3, 5, 5), 100, 0.3)
    assert mask.shape == (200, 100, 1, 1)
    assert mask.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert float(mask.mean()) == pytest.approx(1, abs=0.02)  # 4 sd of 20,000 draws


def test_one_mask_serves_a_whole_solve_and_the_next_solve_has_another() -> None:
    cell, x = ConvCell(8, groups=4, dropout=0.5), torch.randn(IMAGE)
    z, condition = torch.randn(IMAGE), cell.condition(x)
    assert torch.equal(cell(z, *condition), cell(z, *condition))
    assert not torch.equal(condition[1], cell.condition(x)[1])
    assert len(cell.eval().condition(x)) == 1


def test_conv_cell_is_the_published_formula() -> None:
    cell = ConvCell(4, groups=2)
    z, x = torch.randn(2, 2, 4, 3, 3)
    mask = dropout_mask(x, 4, 0.5)
    inner = nn.functional.group_norm(cell.conv1(z), 2).relu() + x
    wanted = nn.functional.group_norm(cell.conv2(inner) * mask, 2)
    torch.testing.assert_close(cell(z, x, mask), wanted)


def test_a_smaller_gain_makes_the_conv_cell_more_contractive() -> None:
    z, x = torch.randn(2, 2, 8, 4, 4)
    slopes = []
    for gain in (1.0, 0.5, 0.25):
        torch.manual_seed(0)
        cell = ConvCell(8, groups=4, gain=gain)
        jacobian = torch.func.jacrev(lambda z, cell=cell: cell(z, x[:1]))(z[:1])
        slopes.append(float(torch.linalg.matrix_norm(jacobian.detach().reshape(128, 128), 2)))
    assert slopes[2] < slopes[1] < slopes[0]


def test_field_starts_at_x_with_the_added_channels_at_zero() -> None:
    x = torch.randn(IMAGE)
    assert ConvField(8).initial(x) is x
    z0 = ConvField(8, augment=3).initial(x)
    assert torch.equal(z0[:, :8], x)
    assert z0.shape[1] == 11 and not bool(z0[:, 8:].any())


def test_group_norm_takes_the_most_groups_that_divide() -> None:
    found = [group_norm(c, g).num_groups for c, g in ((64, 32), (48, 32), (7, 4), (16, 99))]
    assert found == [32, 24, 1, 16]


@pytest.mark.parametrize(
    ("named", "wrong"),
    [
        ("dropout", lambda: ConvCell(4, dropout=1)),
        ("augment", lambda: ConvField(4, augment=-1)),
        ("groups", lambda: group_norm(4, 0)),
    ],
)
def test_wrong_settings_are_named(named: str, wrong: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=named):
        wrong()
