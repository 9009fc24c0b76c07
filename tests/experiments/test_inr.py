from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from experiments.inr import Config, allowed, main
from experiments.representation import NORM, Fourier, Representation, Siren, decibel, fit
from experiments.signals import image, photograph, sound


@pytest.mark.parametrize("kind", [Siren, Fourier])
def test_a_trained_cell_contracts(kind: type[Siren]) -> None:
    x, y = image("china", 8)
    model = Representation(kind(2, 12, 10.0), 3)
    fit(model, x, y, steps=5, lr=0.1)  # so large that W would outgrow its bound
    weight = model.layer.cell.recurrent.weight
    assert torch.linalg.matrix_norm(weight, 2) <= NORM * (1 + 1e-5)  # float32
    a, b = torch.randn(2, 64, 12)
    f = model.layer.equation(model.layer.condition(x))
    assert ((f(a) - f(b)).norm(dim=1) <= NORM * (1 + 1e-5) * (a - b).norm(dim=1)).all()


def test_decibels_are_those_of_the_mean_square_error_under_the_range() -> None:
    model = Representation(Siren(1, 4, 1.0), 1)
    z = torch.randn(50, 4)
    with torch.no_grad():
        off = model.read(z).round() + torch.tensor([0.0, 1.0]).repeat(25)[:, None]
    off[0], off[1] = 10.0, 0.0
    error = (model.read(z) - off).square().mean().item()
    peak = float(off.max() - off.min())
    expected = 10 * torch.log10(torch.tensor(peak**2 / error)).item()
    assert decibel(model, z, off) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", ["china", "flower", "hopper"])
def test_photographs_are_shipped_and_in_range(name: str) -> None:
    pixels = photograph(name)
    assert pixels.shape[0] == 3 and min(pixels.shape[1:]) >= 400
    assert 0 <= pixels.min() < 0.1 < 0.9 < pixels.max() <= 1


def test_an_image_keeps_the_mean_of_the_square_it_is_cut_from() -> None:
    x, y = image("china", 61)  # 427 = 7 x 61
    square = photograph("china")[:, :, 106 : 106 + 427]
    assert torch.allclose(y.mean(0), square.mean((1, 2)), atol=1e-5)
    assert x.shape == (61 * 61, 2) and x.abs().max() < 1


def test_the_sound_begins_with_its_first_string_alone() -> None:
    _, y = sound(8000)
    early = torch.fft.rfft(y[:1600, 0])  # a fifth of a second: 5 Hz a bin
    assert abs(int(early.abs().argmax()) * 5 - 196) <= 5


def test_a_cut_counts_only_where_the_loss_is_allowed() -> None:
    rows = [{"loss, dB": 0.02, "cut": 0.8}, {"loss, dB": 0.2, "cut": 0.95}]
    assert allowed(rows) == rows[0]
    assert allowed(rows[1:]) is None


def test_experiment_compares_every_way(tmp_path: Path) -> None:
    config = Config(
        size=8, samples=64, hidden=12, steps=2, taus=(1e-3, 1e-1), rtols=(1e-3,),
        signals=("china", "sound"), device="cpu", work=tmp_path / "work",
    )  # fmt: skip
    main(config, tmp_path, tmp_path)
    rows = json.loads((tmp_path / "inr.json").read_text())["result"]["rows"]
    assert len(rows) == 4
    for row in rows.values():
        ways = row["ways"]
        assert len(ways) == 4
        fine, coarse = ways["delta"]
        assert coarse["cut"] > fine["cut"] > 0  # the more is left out, the less is computed
        assert abs(fine["loss, dB"]) < 0.05
        assert fine["cut"] >= fine["cut, as computed"]
