"""Studies: done part by part, and what the papers claim at the size of a test."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from experiments import nngp
from experiments.tables import wide
from homotopy_deq.plotting import save
from homotopy_deq.plotting.nngp import nngp_figures
from homotopy_deq.theory.studies import Claim, NNGPStudy, Part, carry_out, learning
from homotopy_deq.theory.studies.study import Advance, Result
from tests.data.stored import write_idx
from tests.test_cli import call, done


@contextmanager
def quiet(name: str, steps: int) -> Iterator[Advance]:
    yield lambda count: None


@dataclass(frozen=True)
class Counted:
    """Two parts that count how often they are done; the second may be killed."""

    name: ClassVar[str] = "counted"
    calls: ClassVar[list[str]] = []
    killed: ClassVar[bool] = False

    size: int = 1

    def parts(self) -> Mapping[str, Part]:
        return {name: Part(1, lambda advance, n=name: self._do(n)) for name in ("a", "b")}

    def _do(self, name: str) -> Result:
        self.calls.append(name)
        if name == "b" and Counted.killed:
            raise KeyboardInterrupt
        return {"value": self.size}

    def claims(self, found: Mapping[str, Result]) -> Sequence[Claim]:
        return [Claim("it is there", str(found["b"]["value"]), True)]


def test_a_study_that_was_stopped_goes_on_with_the_parts_that_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Counted, "calls", [])
    monkeypatch.setattr(Counted, "killed", True)
    with pytest.raises(KeyboardInterrupt):
        carry_out(Counted(), tmp_path, quiet)
    monkeypatch.setattr(Counted, "killed", False)
    found = carry_out(Counted(), tmp_path, quiet)
    assert Counted.calls == ["a", "b", "b"]
    assert found == carry_out(Counted(), tmp_path, quiet) == {"a": {"value": 1}, "b": {"value": 1}}
    assert Counted.calls == ["a", "b", "b"]
    whole = json.loads((tmp_path / "counted.json").read_text())
    assert whole["parts"] == found and whole["claims"][0]["holds"]
    with pytest.raises(FileExistsError, match="other settings"):
        carry_out(Counted(size=2), tmp_path, quiet)
    assert carry_out(Counted(size=2), tmp_path, quiet, overwrite=True)["a"] == {"value": 2}


def test_the_limit_of_width_is_studied_and_drawn_at_any_size(tmp_path: Path) -> None:
    study = NNGPStudy(
        images=120, networks=50, draws=20, widths=(16, 32), tangent_width=50, output_width=30,
        squares=(8, 16), profiled=20, trained=(16,), epochs=1,
    )  # fmt: skip
    found = carry_out(study, tmp_path, quiet)
    says = {claim.says: claim.holds for claim in study.claims(found)}
    assert says["distinct inputs have a positive definite kernel"]
    assert says["... unless phi is odd and two are antipodal"]
    assert found["kernels_0"]["nngp"]["rows"][0]["train"] == 1
    figures = nngp_figures(json.loads((tmp_path / "nngp.json").read_text())["parts"])
    assert list(figures) == ["limit", "eigenvalues", "exchange", "learning"]
    for name, figure in figures.items():
        assert save(figure, tmp_path / f"{name}.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_nngp_study_bears_the_claims_out_but_for_learning_from_wrong_classes(
    tmp_path: Path,
) -> None:
    done("theory", "nngp", "--out", tmp_path)
    claims = json.loads((tmp_path / "nngp.json").read_text())["claims"]
    assert all("20% wrong" in each["says"] for each in claims if not each["holds"])


@pytest.mark.slow
def test_the_flow_study_bears_the_claims_out_but_for_a_relu_that_starts_dead(
    tmp_path: Path,
) -> None:
    told = done("theory", "flow", "--out", tmp_path)
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "sphere.png", "descent.png", "training.png",
    }  # fmt: skip
    claims = json.loads((tmp_path / "flow.json").read_text())["claims"]
    assert [each["says"] for each in claims if not each["holds"]] == ["relu: the target is learnt"]
    assert "other settings" in call("theory", "flow", "--out", tmp_path, "--seed", 1).output
    assert "flow.json" in told


def test_the_experiment_learns_with_kernels_and_networks_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_idx(tmp_path, 60)
    config = nngp.Config(
        tmp_path, "cpu", tmp_path / "work", images=50, test_images=20, widths=(16,), runs=1,
        epochs=2, networks=50, draws=20, covariance_widths=(16, 32),
    )  # fmt: skip
    folders = tmp_path, tmp_path / "picture.png"
    first = nngp.main(config, *folders)
    assert [row["model"] for row in first["table"]] == [
        "nngp, no ridge", "ntk, no ridge", "DEQ of width 16, trained",
    ]  # fmt: skip
    assert first["table"][0]["0% wrong"]["train"] == first["table"][1]["20% wrong"]["train"] == 1
    begin = (tmp_path / "work" / "parts" / "width.json").stat().st_mtime_ns
    assert nngp.main(config, *folders) == first
    assert (tmp_path / "work" / "parts" / "width.json").stat().st_mtime_ns == begin
    assert (tmp_path / "picture.png").exists()
    for module in ("wide", "markdown"):
        monkeypatch.setattr(f"experiments.tables.{module}.RESULTS", tmp_path)
    said = wide.nngp()
    assert "| nngp, no ridge | 100.00% |" in said and "| DEQ of width 16, trained |" in said
    (tmp_path / "nngp.json").unlink()
    assert wide.nngp() == ""


def test_a_training_that_was_killed_goes_on_to_the_same_network(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(60, 12, generator=generator), torch.arange(60) % 3
    data = learning.Classes.of(images[:40], labels[:40], images[40:], labels[40:])
    settings = {"epochs": 4, "batch": 16, "seed": 0, "clock": lambda: 0.0}
    whole = learning.train(16, data, advance=lambda count: None, **settings)

    def killed(count: int) -> None:
        if (kept := tmp_path / "kept.safetensors").exists() and kept.stat().st_size:
            raise KeyboardInterrupt

    kept = tmp_path / "kept.safetensors"
    with pytest.raises(KeyboardInterrupt):
        learning.train(16, data, advance=killed, kept=kept, **settings)
    told: list[int] = []
    assert learning.train(16, data, advance=told.append, kept=kept, **settings) == whole
    assert told[0] == 1 and sum(told) == 4


def test_a_trained_network_fits_wrong_classes_and_keeps_the_bound_of_its_recursion() -> None:
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(60, 12, generator=generator), torch.arange(60) % 3
    data = learning.Classes.of(images[:40], labels[:40], images[40:], labels[40:]).flipped(0.2, 0)
    found = learning.train(64, data, epochs=200, batch=16, seed=0, advance=lambda count: None)
    assert found["ended by"] == "fitted" and found["train"] == 1
    assert found["norm of W"] < 1.2 * 1.02  # 2 sigma_w, and what the power iteration misses
