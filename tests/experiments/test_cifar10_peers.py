"""The same network by this library and by its peers, and what their trainings found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from experiments import cifar10_peers, cifar_step
from experiments.cifar10_peers import FLOW, TRAININGS, Config, by_torchdiffeq


def test_torchdiffeq_alone_gives_the_logits_of_the_model_from_zero() -> None:
    torch.manual_seed(0)
    model = cifar_step.build(cifar_step.Config(), FLOW).eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        start = model.start(model.condition(images))
        ours = model.solve(images, torch.zeros_like(start))
        logits, evaluations = by_torchdiffeq(model)(images)
    torch.testing.assert_close(logits, ours.logits, rtol=1e-4, atol=1e-4)
    # torchdiffeq takes the steps that the batch needs; ours are each sample's own.
    assert 14 <= evaluations <= 1.5 * float(ours.solution.evals.max())


def test_every_training_differs_in_who_solves_alone() -> None:
    models = {name: cifar_step.build(cifar_step.Config(), TRAININGS[name]) for name in TRAININGS}
    counts = {sum(p.numel() for p in m.task_parameters()) for m in models.values()}
    assert counts == {132_938}


def test_trainings_that_were_ended_are_told_of_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    epoch = {
        "validation accuracy": 0.5, "evaluations": 20.0, "seconds": 3.0, "images a second": 15.0,
        "peak memory, MiB": 1.0,
    }  # fmt: skip
    row = {"started": "2026-01-01", "parameters": 1, "test accuracy": None, "epochs": [epoch]}
    (tmp_path / "HomoODE.json").write_text(json.dumps(row))
    written: list[Path] = []
    record = cifar10_peers.Record.write
    monkeypatch.setattr(
        cifar10_peers.Record,
        "write",
        lambda self, result, **more: (
            written.append(record(self, result, tmp_path / "out", **more)) or written[-1]
        ),
    )
    cifar10_peers.main(Config(tmp_path, tmp_path, minutes=0, cpu=True))
    body = json.loads(written[0].read_text())
    assert body["result"]["trainings"] == {"HomoODE": row}
    assert (body["started"], body["seconds"]) == ("2026-01-01", 3.0)
    assert "1 epochs, validation 0.5000, test None" in " ".join(capsys.readouterr().out.split())
