"""A model saved in a folder is loaded as it was: weights, solver, gradient, and what is known."""

from __future__ import annotations

import builtins
import json
import os
import pickle
import re
import shutil
from dataclasses import replace
from pathlib import Path
from stat import S_ISDIR
from threading import Thread
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import nn
from typer.testing import CliRunner

import solvers
import solvers.homotopy
from homotopy_deq import DEQ, HomoODE
from homotopy_deq.card import card
from homotopy_deq.cells import ConvCell
from homotopy_deq.cli import app, load_model
from homotopy_deq.create import create_model, list_models
from homotopy_deq.described import described, made
from homotopy_deq.layers import ImplicitLayer
from homotopy_deq.models import ImageModel, LinearHead, configured
from homotopy_deq.training import CheckpointError, load_checkpoint, save_checkpoint
from solvers import (
    DOPRI5,
    RK4,
    Adjoint,
    Anderson,
    ArcLength,
    BySize,
    Continuation,
    DeltaPicard,
    Flow,
    Implicit,
    NewtonKrylov,
    Phantom,
    Robust,
    RungeKutta,
    Solver,
    Then,
    Unroll,
)
from solvers.homotopy import Convex, Hermite, StepControl

SHAPE = (1, 8, 8)
SMALL = {"hidden": 8, "groups": 4, "head": 16, "features": 16}


def model(name: str = "deq", **settings: Any) -> ImageModel:
    from homotopy_deq.create import takes

    torch.manual_seed(0)
    sizes = {k: v for k, v in SMALL.items() if k in takes(name)}
    return create_model(name, shape=SHAPE, num_classes=4, **sizes, **settings).eval()


def images() -> torch.Tensor:
    return torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def logits(one: ImageModel) -> torch.Tensor:
    return one.solve(images()).logits


PATHS: list[Any] = [
    Then(Flow(RK4), Anderson(rtol=1e-5, memory=3)),
    Robust(),
    ArcLength(predictor=Hermite(), linear=BySize(krylov=7), control=StepControl(ds=0.2)),
    Continuation(corrector=NewtonKrylov()),
    RungeKutta(DOPRI5, rtol=1e-4),
    DeltaPicard(tau=0.1, norm=float("inf")),
    Implicit(NewtonKrylov(rtol=1e-7)),
    Phantom(3),
    Adjoint(),
    Unroll(),
]


@pytest.mark.parametrize("value", PATHS, ids=lambda v: type(v).__name__)
def test_a_solver_or_gradient_is_the_same_through_json_and_through_pickle(value: Any) -> None:
    text = json.dumps(described(value), allow_nan=False)
    assert made(json.loads(text)) == value
    assert pickle.loads(pickle.dumps(value)) == value


def test_every_solver_and_gradient_of_the_library_can_be_described() -> None:
    told = []
    for package in (solvers, solvers.gradient, solvers.homotopy):
        for kind in (getattr(package, name) for name in package.__all__):
            try:
                value: Any = kind()
            except (TypeError, ValueError):
                continue  # it needs arguments, or is no class
            if isinstance(value, Solver) or hasattr(value, "apply"):
                assert made(described(value)) == value
                told.append(kind.__name__)
    assert {"Anderson", "Robust", "Davidenko", "ODE", "Implicit", "Unroll", "Adjoint"} <= {*told}


@pytest.mark.parametrize("name", list_models())
def test_a_saved_model_answers_as_it_did(name: str, tmp_path: Path) -> None:
    one = model(name)
    one.save_pretrained(tmp_path)
    other = ImageModel.from_pretrained(tmp_path)
    assert type(other) is type(one) and not other.training
    assert torch.equal(logits(other), logits(one))
    assert other.config == one.config
    assert {p.name for p in tmp_path.iterdir()} == {"model.safetensors", "config.json", "README.md"}


def test_solver_gradient_end_and_what_is_done_about_failures_are_rebuilt(tmp_path: Path) -> None:
    one = model().with_solver(
        Then(Flow(RK4), Anderson(rtol=1e-5)), Implicit(NewtonKrylov()), t1=3.0
    )
    one.layer.on_failure = "raise"
    one.save_pretrained(tmp_path / "root")
    flow = model("homoode", rest_point=False).with_solver(RungeKutta(DOPRI5, rtol=1e-5), t1=2.0)
    flow.save_pretrained(tmp_path / "flow")
    for name, before in (("root", one), ("flow", flow)):
        after = ImageModel.from_pretrained(tmp_path / name)
        for each in ("solver", "gradient", "t1", "on_failure", "rest_point"):
            assert getattr(after.layer, each) == getattr(before.layer, each)
        assert type(after.layer) is type(before.layer)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_weights_keep_their_precision(tmp_path: Path, dtype: torch.dtype) -> None:
    one = model().to(dtype)
    one.save_pretrained(tmp_path)
    for a, b in zip(one.parameters(), DEQ.from_pretrained(tmp_path).parameters(), strict=True):
        assert torch.equal(a, b) and a.dtype == b.dtype


class Own(ImageModel):
    """A model of a user."""

    @configured
    def __init__(self, width: int = 4) -> None:
        stem, layer = nn.Conv2d(1, width, 3, padding=1), ImplicitLayer(ConvCell(width, groups=2))
        super().__init__(SHAPE, stem, layer, LinearHead(width, 2, 4))


def test_a_model_of_a_users_own_is_rebuilt_by_its_class(tmp_path: Path) -> None:
    one = Own(6).eval()
    one.save_pretrained(tmp_path)
    assert torch.equal(logits(Own.from_pretrained(tmp_path)), logits(one))
    with pytest.raises(CheckpointError, match="holds a Own, no HomoODE"):
        HomoODE.from_pretrained(tmp_path)


class Mine(Anderson):
    """A solver of a user."""


def test_what_could_not_be_rebuilt_is_not_saved_and_said_in_one_line(tmp_path: Path) -> None:
    parts = Own()
    bare = ImageModel(SHAPE, parts.stem, parts.layer, parts.head)
    changed = Own()
    changed.head = nn.Flatten()
    cases: list[tuple[ImageModel, str]] = [
        (bare, "`configured`"),
        (changed, "parts were changed"),
        (model().with_solver(Mine()), "Mine is no solver.*put yours in after loading"),
        (model().with_solver(Continuation(Convex(torch.tanh))), "save the model with one"),
    ]
    for one, said in cases:
        with pytest.raises(ValueError, match=said) as refused:
            one.save_pretrained(tmp_path / "nothing")
        assert "\n" not in str(refused.value) and not (tmp_path / "nothing").exists()


def test_files_that_were_changed_are_refused_in_one_line(tmp_path: Path) -> None:
    model().save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"rtol": 0.0001', '"rtol": 0.1'))
    with pytest.raises(CheckpointError, match=r"config\.json.*rtol.*with_solver") as refused:
        DEQ.from_pretrained(tmp_path)
    assert "\n" not in str(refused.value)
    config.unlink()
    DEQ.from_pretrained(tmp_path)  # it is a copy
    with pytest.raises(FileNotFoundError, match="load_model"):
        DEQ.from_pretrained(tmp_path.parent)


@pytest.mark.parametrize(
    "text",
    [b"[]", b"3", b"{", b"\xff", b"[" * 100_000, b"{}"],
    ids=["array", "number", "cut", "bytes", "deep", "empty"],
)
def test_a_copy_of_the_header_that_is_something_else_is_refused(
    tmp_path: Path, text: bytes
) -> None:
    model().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(CheckpointError, match=r"config\.json, a copy") as refused:
        DEQ.from_pretrained(tmp_path)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 600


def test_what_is_done_about_failures_is_one_of_what_there_is(tmp_path: Path) -> None:
    model().save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    file = tmp_path / "model.safetensors"
    stored = load_checkpoint(file)
    about = stored.meta["about"]
    path = {**about["path"], "on_failure": "hide"}
    save_checkpoint(file, replace(stored, meta={**stored.meta, "about": {**about, "path": path}}))
    with pytest.raises(CheckpointError, match="on_failure must be one of .*'hide'"):
        DEQ.from_pretrained(tmp_path)


def test_a_figure_that_is_no_number_is_kept_and_the_model_loaded(tmp_path: Path) -> None:
    figures: Any = {"Test": {"loss": float("nan"), 1: 0.5}}
    model().save_pretrained(tmp_path, figures=figures)
    DEQ.from_pretrained(tmp_path)
    assert "| loss | nan |\n| 1 | 0.5 |" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("name", ["README.md", "config.json", "model.safetensors"])
def test_files_of_something_else_are_not_replaced(name: str, tmp_path: Path) -> None:
    data = save({"weight": torch.zeros(2)}) if name == "model.safetensors" else b"of a project"
    (tmp_path / name).write_bytes(data)
    with pytest.raises(FileExistsError, match=rf"{re.escape(name)} of something else"):
        model().save_pretrained(tmp_path)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [(name, data)]


def test_a_file_in_the_place_of_the_folder_is_told_in_one_line(tmp_path: Path) -> None:
    (place := tmp_path / "model").write_text("of something else")
    with pytest.raises(NotADirectoryError, match="model is a file, where.*needs a folder"):
        model().save_pretrained(place)


def told(folder: Path) -> tuple[str, str]:
    """The class of which config.json and the card tell."""
    named = json.loads((folder / "config.json").read_text())["about"]["model"]["name"]
    return named, (folder / "README.md").read_text().split("\n# ")[1].splitlines()[0]


def test_another_model_saved_in_the_same_folder_takes_the_place_of_all_of_the_first(
    tmp_path: Path,
) -> None:
    (tmp_path / "notes").write_text("of the user")
    model().save_pretrained(tmp_path)
    assert told(tmp_path) == ("DEQ", "DEQ")
    Own().save_pretrained(tmp_path)
    assert told(tmp_path) == ("Own", "Own")
    assert type(Own.from_pretrained(tmp_path)) is Own
    with pytest.raises(CheckpointError, match="holds a Own, no DEQ"):
        DEQ.from_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "README.md", "config.json", "model.safetensors", "notes"
    ]  # fmt: skip


def test_two_that_save_in_one_folder_do_so_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second begins when the first has written its weights, and not the rest."""
    real, second = os.fsync, Thread(target=lambda: Own().save_pretrained(tmp_path))

    def fsync(place: int) -> None:
        real(place)
        if S_ISDIR(os.fstat(place).st_mode) and second.ident is None:
            second.start()
            second.join(1.0)  # it would end by then, if it did not wait

    monkeypatch.setattr(os, "fsync", fsync)
    model().save_pretrained(tmp_path)
    second.join()
    assert told(tmp_path) == ("Own", "Own") and type(Own.from_pretrained(tmp_path)) is Own


def test_saving_again_can_be_killed_between_any_two_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = model().with_solver(Anderson(rtol=1e-6))
    real, left = os.replace, 0

    def killed(old: Path, new: Path) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        real(old, new)

    for count in range(3):
        monkeypatch.undo()
        model().save_pretrained(tmp_path)
        monkeypatch.setattr(os, "replace", killed)
        left = count
        with pytest.raises(KeyboardInterrupt):
            other.save_pretrained(tmp_path)
        assert DEQ.from_pretrained(tmp_path).layer.solver.rtol == (1e-6 if count else 1e-4)
        telling = [name for name in ("config.json", "README.md") if (tmp_path / name).exists()]
        assert telling == ["config.json"] * (count > 1)  # and none of another model


def test_what_was_asked_for_goes_before_another_class_of_its_name(tmp_path: Path) -> None:
    kind = type("Own", (ImageModel,), {})  # as a notebook's cell run again makes
    Own().save_pretrained(tmp_path)
    assert type(Own.from_pretrained(tmp_path)) is Own is not kind


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"is": "os.system"}, "os.system is no solver"),
        ({"is": "Anderson", "x": 1}, "Anderson: .*x"),
    ],
)
def test_a_header_names_nothing_but_the_librarys_own(value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        made(value)


def test_the_card_says_what_is_known_and_no_more(tmp_path: Path) -> None:
    one = model()
    one.save_pretrained(tmp_path, figures={"Test": {"accuracy": 0.5}}, classes=["a|b", "c"])
    page = (tmp_path / "README.md").read_text()
    count = sum(p.numel() for p in one.parameters())
    assert page.startswith("---\nlibrary_name: homotopy-deq\n") and f"{count:,} parameters" in page
    assert "| accuracy | 0.5 |" in page and "Anderson(rtol=0.0001" in page
    bare = card({**load_checkpoint(tmp_path / "model.safetensors").meta, "figures": {}}, count)
    assert "accuracy" not in bare and "None" not in bare


def test_the_hub_is_asked_for_what_is_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hub in a folder stands in for the one in the network: its client is not what is tested."""
    hub = pytest.importorskip("huggingface_hub")

    class Address(str):
        repo_id = "me/mine"

    class Api:
        def create_repo(self, name: str, private: bool, exist_ok: bool) -> Address:
            return Address(f"https://hub/{name}")

        def upload_folder(self, repo_id: str, folder_path: str) -> None:
            shutil.copytree(folder_path, tmp_path / repo_id)

    def download(name: str, file: str, revision: str | None) -> str:
        if not (tmp_path / name / file).exists():
            raise OSError("404\nsecond line")
        return str(tmp_path / name / file)

    monkeypatch.setattr(hub, "HfApi", Api)
    monkeypatch.setattr(hub, "hf_hub_download", download)
    one = model()
    assert one.push_to_hub("me/mine") == "https://hub/me/mine"
    assert torch.equal(logits(DEQ.from_pretrained("me/mine")), logits(one))
    with pytest.raises(FileNotFoundError, match=r"no/such is no folder here.*\(404\)\.$"):
        DEQ.from_pretrained("no/such")


def test_without_huggingface_hub_folders_work_and_repositories_say_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def missing(name: str, *more: Any, **how: Any) -> Any:
        if name == "huggingface_hub":
            raise ImportError(name)
        return real(name, *more, **how)

    monkeypatch.setattr(builtins, "__import__", missing)
    model().save_pretrained(tmp_path)
    DEQ.from_pretrained(tmp_path)
    for call in (lambda: DEQ.from_pretrained("me/mine"), lambda: model().push_to_hub("me/mine")):
        with pytest.raises(ImportError, match=r"pip install 'homotopy-deq\[hub\]'"):
            call()


def test_a_run_is_exported_with_its_settings_and_figures(tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = "train --limit 60 --test-limit 20 --epochs 1 --hidden 4 --groups 2 --head 8 --cpu --out"
    assert CliRunner().invoke(app, [*words.split(), str(run)]).exit_code == 0
    done = CliRunner().invoke(app, ["export", str(run)])
    assert done.exit_code == 0, done.output
    one = ImageModel.from_pretrained(run / "pretrained")
    assert torch.equal(logits(one), logits(load_model(run)))
    page = (run / "pretrained" / "README.md").read_text()
    accuracy = load_checkpoint(run / "checkpoint.safetensors").meta["test"]["accuracy"]
    assert f"| accuracy | {accuracy:.6g} |" in page and "| epochs | 1 |" in page


def test_a_file_is_told_from_a_name_on_the_hub(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.safetensors"
    file.touch()

    with pytest.raises(NotADirectoryError, match="is a file: name the folder"):
        ImageModel.from_pretrained(file)
