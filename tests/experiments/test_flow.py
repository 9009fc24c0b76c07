"""The flows between warped views are exact, and the experiment on them runs from end to end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from experiments.flow import Config, main
from experiments.flow_model import FlowCell, averaged, errors, looked_up, offsets, patches
from experiments.lucas_kanade import lucas_kanade
from experiments.warping import pairs, sequence

SMALL = Config(
    width=8, view=24, reach=1.5, steps=2, batch=2, pairs=2, frames=2, sequences=2,
    iterations=6, taus=(1e-2, 2e-2), rtols=(1e-2,), device="cpu",
)  # fmt: skip


def ramps() -> torch.Tensor:
    """A photograph whose colours are linear in its coordinates: bilinear sampling is exact."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 300), torch.linspace(0, 1, 400), indexing="ij")
    return torch.stack([x, y, x + y])


def assert_second_seen_along_the_flow_is_first(views: torch.Tensor, flow: torch.Tensor) -> None:
    size = views.shape[-1]
    first, second = views.chunk(2, 1)
    line = torch.arange(size, dtype=torch.float32)
    y, x = torch.meshgrid(line, line, indexing="ij")
    at = 2 * (torch.stack([x, y]) + flow) / (size - 1) - 1
    seen = F.grid_sample(second, at.permute(0, 2, 3, 1), align_corners=True)
    inside = (at.abs() <= 1).all(1, keepdim=True).expand_as(first)
    assert inside.float().mean() > 0.5
    # A pixel is about 5e-3 of the ramps; between pixels a smooth warp bends by some 1e-2 of one.
    assert torch.allclose(seen[inside], first[inside], atol=5e-4)


def test_second_view_seen_along_the_flow_is_the_first() -> None:
    assert_second_seen_along_the_flow_is_first(*pairs(ramps(), 4, 32, 3.0))


@pytest.mark.parametrize("local", [True, False])
def test_flows_of_a_sequence_lead_from_frame_to_frame(local: bool) -> None:
    clip = sequence(ramps(), 3, 32, 2.0, 4, local=local)
    for views, flow in clip:
        assert_second_seen_along_the_flow_is_first(views, flow)
    (_, first), (second, _) = clip[0][0].chunk(2, 1), clip[1][0].chunk(2, 1)
    assert torch.equal(first, second)  # the later view of a pair is the earlier of the next


def test_a_part_that_moves_leaves_the_border_of_its_view_still() -> None:
    (_, flow), *_ = sequence(ramps(), 3, 32, 2.0, 1, local=True)
    assert flow[:, :, 0].abs().max() < 0.3 * flow.abs().max()


def test_correlations_are_looked_up_around_where_the_flow_points() -> None:
    volume = torch.randn(1, 8 * 8, 15 * 15)  # places are half a cell apart
    w = torch.zeros(1, 2, 8, 8)
    w[:, 0] = 1.5  # cells to the right
    seen, there = looked_up(volume, w), offsets(w)
    for k in (there == 0).all(1).nonzero().flatten().tolist():
        here, target = 3 * 8 + 2, 6 * 15 + 7
        assert seen[0, k, 3, 2].item() == pytest.approx(volume[0, here, target].item(), abs=1e-5)


def test_a_shifted_view_is_most_alike_where_it_was_shifted_to() -> None:
    whole = torch.rand(1, 3, 40, 40)
    one, other = whole[:, :, 4:36, 4:36], whole[:, :, 4:36, 2:34]  # w = 2 pixels to the right
    volume = patches(one, 2).mT @ patches(other, 1)
    at = offsets(volume)[looked_up(volume, torch.zeros(1, 2, 8, 8)).argmax(1)[0, 2:6, 2:6]]
    assert torch.equal(at, torch.tensor([0.5, 0.0]).expand(4, 4, 2))  # cells


def test_flows_are_averaged_by_their_weights() -> None:
    t, weights = torch.zeros(1, 4, 6, 6), torch.zeros(1, 50, 6, 6)
    t[0, 2, 2, 3] = 8.0  # x of the second flow
    weights[:, 12], weights[:, 25 + 13] = 0.5, 0.5  # of the cell itself, and of its right neighbour
    found = averaged(t, weights)
    assert found[0, 0, 2, 2] == 4.0 and found.abs().sum() == 4.0


def test_a_known_shift_is_found_by_lucas_and_kanade() -> None:
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(50.0), indexing="ij")
    whole = torch.stack([(x / 5).sin(), (y / 6).cos(), ((x + y) / 7).sin()])[None]
    views = torch.cat([whole[..., :48], whole[..., 2:50]], 1)  # the second moved left by 2
    found = lucas_kanade(views)[:, :, 8:40, 8:40]
    assert (found[:, 0] + 2).abs().max() < 0.1 and found[:, 1].abs().max() < 0.1


def test_a_pixel_is_wrong_beyond_three_pixels_and_five_percent() -> None:
    true = torch.zeros(1, 2, 1, 3)
    true[0, 0, 0] = torch.tensor([0.0, 0.0, 100.0])
    found = true.clone()
    found[0, 1, 0] += torch.tensor([2.0, 4.0, 4.0])  # the last is off by 4%
    assert errors(found, true)["F1"].item() == pytest.approx(100 / 3)
    assert errors(found, true)["EPE"].item() == pytest.approx(10 / 3)


def test_rows_of_the_cell_are_independent() -> None:
    cell = FlowCell(8).eval()
    x = torch.rand(3, 6, 16, 16)
    condition, z = cell.condition(x), torch.randn(3, 10, 4, 4)
    alone = cell(z[1:2], *(part[1:2] for part in condition))
    assert torch.allclose(cell(z, *condition)[1:2], alone, atol=1e-5)  # float32


def test_experiment_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    config = replace(SMALL, work=tmp_path / "work")
    main(config, tmp_path, tmp_path)
    before = (tmp_path / "work" / "pairs.json").stat().st_mtime_ns
    body = json.loads((tmp_path / "flow.json").read_text())["result"]
    row = body["pairs"]["rows"]["delta, tau 0.01"]
    assert {"EPE", "F1", "cut", "encoder", "gru", "head", "cut in tiles"} <= row.keys()
    assert "Sintel and KITTI" in body["not here"]
    assert all((tmp_path / name).stat().st_size > 1000 for name in body["figures"])
    main(config, tmp_path, tmp_path)
    assert (tmp_path / "work" / "pairs.json").stat().st_mtime_ns == before
