from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch

from homotopy_deq import plotting
from solvers import Anderson, Equilibrium, Picard, Trajectory, solve


@pytest.fixture
def paths() -> dict[str, Trajectory[torch.Tensor]]:
    matrix = 0.8 * torch.eye(5)
    problem = Equilibrium(lambda z, x: z @ matrix + x, (torch.randn(3, 5),))
    found = {}
    for name, solver in (("picard", Picard()), ("anderson", Anderson())):
        path = solve(problem, solver, torch.zeros(3, 5), record=True).trajectory
        assert path is not None
        found[name] = path
    return found


def test_a_projection_keeps_distances_within_a_plane() -> None:
    flat = torch.randn(6, 4, 2).double() @ torch.linalg.qr(torch.randn(9, 2).double())[0].T
    (seen,) = plotting.project([flat])
    assert torch.allclose(
        torch.cdist(seen.flatten(0, 1), seen.flatten(0, 1)),
        torch.cdist(flat.flatten(0, 1), flat.flatten(0, 1)),
        atol=1e-10,  # float64
    )


def test_a_wild_iterate_does_not_choose_the_plane_of_the_others() -> None:
    calm = torch.linspace(0, 1, 5)[:, None, None] * torch.randn(1, 3, 8)
    wild = calm.clone()
    wild[2] += 1e3
    alone = plotting.project([calm])[0]
    beside = plotting.project([calm, wild])[0]
    # Signs and order of the axes are free, and the tame points are seen twice: compare lengths.
    assert torch.allclose(alone.norm(dim=2), beside.norm(dim=2), rtol=0.05, atol=0.05)


def test_each_solver_has_a_line_that_ends_at_its_last_residual(
    paths: dict[str, Trajectory[torch.Tensor]],
) -> None:
    axes = plotting.residual_figure(paths, 1e-4).axes[0]
    lines = {line.get_label(): line.get_ydata() for line in axes.get_lines()}
    for name, path in paths.items():
        assert lines[name][-1] == pytest.approx(float(path.residual[-1].median()), rel=1e-5)


def test_each_sample_has_a_line_in_each_panel(
    paths: dict[str, Trajectory[torch.Tensor]],
) -> None:
    figure = plotting.path_figure({k: p.z for k, p in paths.items()}, ["a", "b", "c"])
    assert [axes.get_title() for axes in figure.axes] == ["picard", "anderson"]
    assert all(len(axes.get_lines()) == 3 * 3 for axes in figure.axes)  # path, end and start


def test_residuals_that_are_not_finite_can_be_drawn(tmp_path: Path) -> None:
    residual = torch.tensor([[1.0, 1.0], [float("nan"), 0.1], [float("inf"), 0.0]])
    path = Trajectory(torch.zeros(3, 2, 4), residual, torch.arange(3))
    plotting.save(plotting.residual_figure({"x": path}, 1e-4), tmp_path / "r.png")


def test_curves_show_what_was_measured() -> None:
    figures = {"loss": 1.0, "accuracy": 0.5, "nfe": 20.0, "converged": 1.0}
    records = [{"epoch": k, "train": figures, "validation": figures} for k in (1, 2)]
    figure = plotting.training_figure(records)
    assert figure.axes[1].get_lines()[0].get_ydata().tolist() == [50.0, 50.0]


def test_no_figure_is_left_in_pyplot(tmp_path: Path) -> None:
    test = plotting.path_figure({"x": torch.randn(3, 2, 4)})
    plotting.save(test, tmp_path / "new" / "x.png")
    assert (tmp_path / "new" / "x.png").stat().st_size > 1000
    assert plt.get_fignums() == []


def test_a_path_that_runs_out_of_the_axes_is_marked_at_their_border() -> None:
    calm = torch.linspace(0, 1, 60)[:, None, None] * torch.randn(1, 2, 8)
    wild = calm.clone()
    wild[30, 1] += 1e3
    quiet, marked = plotting.path_figure({"calm": calm, "wild": wild}, ["a", "b"]).axes
    assert not quiet.collections
    assert len(marked.collections) == 2  # it leaves, and comes back
    for mark in marked.collections:
        ((x, y),) = mark.get_offsets().tolist()  # type: ignore[attr-defined]
        borders = (*marked.get_xlim(), *marked.get_ylim())
        assert min(abs(at - border) for at in (x, y) for border in borders) < 1e-9


def test_of_two_equal_curves_the_one_below_can_be_seen(
    paths: dict[str, Trajectory[torch.Tensor]],
) -> None:
    same = {"one": paths["picard"], "two": paths["picard"]}
    axes = plotting.residual_figure(same, 1e-4).axes[0]
    width = {line.get_label(): line.get_linewidth() for line in axes.get_lines()}
    assert width["one"] >= width["two"] + 2  # points: a border on both sides
    legend = axes.get_legend()
    assert legend is not None and legend.get_title().get_text() == "solver"


def test_share_that_moves_is_drawn_in_percent_and_a_long_path_on_a_logarithmic_axis() -> None:
    maps = {"steps": torch.arange(6.0).view(2, 3)}
    short = plotting.convergence_figure({"a": ([0, 1, 2], [1.0, 0.5, 0.0])}, maps)
    assert short.axes[0].get_lines()[0].get_ydata().tolist() == [100, 50, 0]
    assert short.axes[1].images[0].get_array().tolist() == [[0, 1, 2], [3, 4, 5]]
    long = plotting.convergence_figure({"a": ([0, 100, 500], [1.0, 0.5, 0.0])}, {})
    assert (short.axes[0].get_xscale(), long.axes[0].get_xscale()) == ("linear", "symlog")


def test_what_is_saved_is_a_bar_for_each_way_and_figure() -> None:
    saved = {"40 iterations": {"time": 1.0, "work": 1.0}, "Anderson": {"time": 0.5, "work": 0.25}}
    axes = plotting.convergence_figure({"a": ([0, 1], [1.0, 0.0])}, {}, saved=saved).axes[-1]
    assert sorted(bar.get_width() for bar in axes.patches) == [0.25, 0.5, 1, 1]  # type: ignore[attr-defined]
    assert axes.get_title() == "cost, in parts of 40 iterations"


def test_panels_with_the_same_ways_share_a_legend() -> None:
    ways = {"delta": ([80.0, 90.0], [0.01, 0.2]), "Picard": ([70.0, 80.0], [0.0, 0.1])}
    figure = plotting.tradeoff_figure(
        {"one": ways, "two": ways, "three": {"warm": ([1.0], [2.0])}}, x="cut", y="loss", limit=0.1
    )
    assert [axes.get_legend() is not None for axes in figure.axes] == [True, False, True]
    assert figure.axes[0].get_ylim() == (-0.1, 0.4)
