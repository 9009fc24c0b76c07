"""Margins as a loss, their schedule, and equilibria that are trained further."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner

from homotopy_deq.cli import app, load_model
from homotopy_deq.cli.finetune import _settings
from homotopy_deq.cli.options import Begun, Machine
from homotopy_deq.cli.resolve import images_of, put
from homotopy_deq.cli.train import Work
from homotopy_deq.cli.trained import Trained
from homotopy_deq.lipschitz import certify_lipschitz, departure
from homotopy_deq.models import ExplicitNetwork, LBENNetwork, SLLNetwork
from homotopy_deq.training import (
    CHECKPOINT,
    Checkpoint,
    Objective,
    load_checkpoint,
    save_checkpoint,
)
from homotopy_deq.training.identity import LATER
from homotopy_deq.training.objective import margin_loss
from homotopy_deq.training.optim import triangular
from tests.training import tiny
from tests.training.tiny import At

SIZES = {"channels": 2, "depth": 1, "kernel": 3, "features": 6, "dense-depth": 1, "limit": 100}
FLAGS = [str(word) for k, v in SIZES.items() for word in (f"--{k}", v)]
FLAGS += ["--test-limit", "40", "--batch", "30", "--epochs", "1", "--cpu"]
TUNED = ["--epochs", "2", "--batch", "30", "--lr", "0.01", "--cpu"]


def call(*words: object) -> tuple[int, str]:
    result = CliRunner(env={"COLUMNS": "160"}).invoke(app, [str(word) for word in words])
    return result.exit_code, result.output


def done(*words: object) -> str:
    code, output = call(*words)
    assert code == 0, output
    return output


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "sll"
    done("train", "--model", "sll", "--out", folder, *FLAGS)
    return folder


def test_the_margin_loss_is_the_cross_entropy_of_shifted_logits() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 3, 1, 2, 2])
    shifted = logits.clone()
    shifted[range(5), labels] -= 2**0.5
    wanted = 0.25 * F.nll_loss((shifted / 0.25).log_softmax(1), labels)
    assert torch.allclose(margin_loss(logits, labels, 2**0.5, 0.25), wanted, rtol=1e-14)
    # As tau falls to 0 it becomes the hinge max_j (f_j - f_y + offset), where that is above 0.
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    own = logits.gather(1, labels[:, None])[:, 0]
    hinge = (others - own + 2**0.5).clamp_min(0).mean()
    assert torch.allclose(margin_loss(logits, labels, 2**0.5, 1e-4), hinge, atol=1e-3)


def test_the_triangle_has_its_corners_at_two_and_four_fifths() -> None:
    rates = [triangular(step, 1000, 0.1, 0.0) for step in range(1000)]
    middle = [0.0, 0.1, 0.1 / 20, 0.0]
    found = [rates[0], max(rates), rates[800], rates[999]]
    # A step's rate is that of its middle, half a step (of 400 or 200) from the corner.
    assert found == pytest.approx(middle, abs=0.1 / 400)
    assert rates.index(max(rates)) in (399, 400)
    assert min(rates) > 0 and triangular(1000, 1000, 0.1, 1e-3) == pytest.approx(1e-3)


def test_penalties_of_one_implicit_layer_are_refused_for_a_stack() -> None:
    model = SLLNetwork((1, 8, 8), channels=2, kernel=3, features=4)
    with pytest.raises(ValueError, match="is a stack of layers"):
        Objective(model, jacobian_weight=0.1)


def test_finetuning_begins_with_the_logits_and_ends_with_a_constant_of_one(
    run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "lben"
    told = done("finetune", run, "--as", "lben", "--out", out, *TUNED)
    assert "2 equilibria with the network's logits to" in told
    explicit, lben = load_model(run), load_model(out)
    assert isinstance(explicit, ExplicitNetwork) and isinstance(lben, LBENNetwork)
    bounds = [certify_lipschitz(each.network()[:-1]).value for each in (explicit, lben)]
    assert bounds[1] == pytest.approx(bounds[0], rel=1e-5)  # of float32 weights
    with torch.no_grad():
        x = torch.rand(8, 1, 8, 8)
        first = explicit.to_lben()
        assert torch.allclose(first(x), explicit(x), atol=1e-4)  # the solver's tolerance
        assert not torch.allclose(lben(x), explicit(x), atol=1e-3)
        assert float(departure(lben)) > float(departure(first))
    told = done("plot", out, "--out", tmp_path / "plots")
    assert "No paths, residuals: a stack of layers has no one path." in told
    assert (tmp_path / "plots" / "training.png").exists()
    assert "made from" in done("info", out) and "peaceman-rachford" in done("evaluate", out)


def test_the_penalty_keeps_the_structure(run: Path, tmp_path: Path) -> None:
    apart = []
    for weight in (0, 10):
        out = tmp_path / str(weight)
        done("finetune", run, "--out", out, "--penalty", weight, *TUNED)
        apart.append(float(departure(load_model(out)).detach()))
    assert apart[1] < apart[0] / 2


def test_a_finetuning_that_crashed_ends_as_if_it_had_not(run: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    done("finetune", run, "--out", whole, *TUNED)
    trained = Trained.of(run)
    settings = _settings(trained.settings, {"epochs": 2, "batch": 30, "lr": 0.01})
    assert isinstance(trained.model, ExplicitNetwork)
    network = put(trained.model.to_lben(), settings).train()
    about = {"made_from": {"run": str(run), "model": "sll"}}

    def crash() -> None:
        raise MemoryError("as good as any")

    with pytest.raises(MemoryError):
        Work(network, settings, images_of(settings, None), broken, about).do(
            Machine(cpu=True), Begun(), At(4, crash)
        )
    done("finetune", run, "--out", broken, "--resume", "--cpu")
    assert (broken / CHECKPOINT).read_bytes() == (whole / CHECKPOINT).read_bytes()
    code, told = call("finetune", run, "--out", broken, "--resume", "--lr", 0.5)
    assert code == 2 and "the run has 0.01, got 0.5" in told


def test_what_is_no_explicit_run_is_refused_in_a_line(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "lben"
    done("finetune", run, "--out", out, *TUNED)
    for words, told in (
        ((out,), "is a lben, and only explicit networks"),
        ((run, "--as", "monotone"), "unknown form"),
        ((run, "--out", out), "already holds a run"),
        ((run, "--lr", 0), "lr must be above 0"),
        ((tmp_path / "none",), "There is no checkpoint"),
        ((out, "--out", out, "--resume"), f"was made from {run}, not from"),
        ((run, "--out", run, "--resume"), "was made by training alone"),
    ):
        code, output = call("finetune", *words)
        output = " ".join(output.split())
        assert code == 2 and told in output and "Traceback" not in output


def test_an_explicit_run_resumed_is_that_of_one_go(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "sll"
    done("train", "--model", "sll", "--out", out, *FLAGS)
    done("train", "--out", out, "--resume", "--cpu")
    assert (out / CHECKPOINT).read_bytes() == (run / CHECKPOINT).read_bytes()


def test_a_run_of_a_version_without_these_settings_goes_on(tmp_path: Path) -> None:
    def crash() -> None:
        raise MemoryError("as good as any")

    old, new = tmp_path / "old", tmp_path / "new"
    tiny.run(new)
    with pytest.raises(MemoryError):
        tiny.run(old, At(4, crash))
    checkpoint = load_checkpoint(old / CHECKPOINT)
    about = dict(checkpoint.meta["about"])
    about["training"] = {k: v for k, v in about["training"].items() if k not in LATER}
    assert len(about["training"]) == len(checkpoint.meta["about"]["training"]) - len(LATER)
    meta = {**checkpoint.meta, "about": about}
    save_checkpoint(old / CHECKPOINT, Checkpoint(checkpoint.tensors, meta))
    tiny.run(old, resume=True)
    assert (old / CHECKPOINT).read_bytes() == (new / CHECKPOINT).read_bytes()
