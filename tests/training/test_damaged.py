"""Checkpoints that are not what train wrote: each is one line that names the file and the fault."""

from __future__ import annotations

import builtins
import json
import math
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from homotopy_deq.cli import load_model
from homotopy_deq.training import (
    CHECKPOINT,
    Checkpoint,
    CheckpointError,
    Diverged,
    load_checkpoint,
    save_checkpoint,
    train,
)
from tests.test_cli import done, refused
from tests.training.tiny import CONFIG, At, data, model

KEY = "homotopy-deq"
DEEP = "[" * 100_000 + "]" * 100_000


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("run")
    sizes = ["--hidden", 4, "--head", 8, "--groups", 2, "--limit", 100, "--epochs", 1, "--cpu"]
    done("train", "--out", folder, *sizes)
    return load_checkpoint(folder / CHECKPOINT)


def sized(value: object) -> Callable[[Any], None]:
    """Say another `hidden`, in all places alike."""

    def change(about: Any) -> None:
        about["model"]["config"]["hidden"] = about["spec"]["hidden"] = value

    return change


def put(*path: Any) -> Callable[[Any], None]:
    """Put the last of the words at the place that the others name, below `about`."""
    *way, last, value = path

    def change(about: Any) -> None:
        for name in way:
            about = about[name]
        about[last] = value

    return change


HEADERS: dict[str, tuple[Callable[[Any], None], str]] = {
    "a size that needs 10^18 numbers": (sized(10**9), "describes no model"),
    "a size that fits the address space alone": (sized(10**6), "shape (1000000,"),
    "a negative size": (sized(-3), "describes no model"),
    "no size": (sized("many"), "spec.hidden should be int, not 'many'"),
    "a size in one place": (put("spec", "hidden", 8), "hidden = 4 of the model and 8"),
    "another size": (sized(8), "shape (8,"),
    "an unknown model": (put("spec", "model", "os.system"), "unknown model 'os.system'"),
    "an unknown solver": (put("spec", "solver", "rm"), "unknown solver 'rm'"),
    "a solver that is no name": (put("spec", "solver", 3), "spec.solver should be str"),
    "a solver's setting that is no number": (put("spec", "rtol", math.nan), "spec.rtol is nan"),
    "a setting that nobody knows": (put("spec", "shell", "rm"), "shell"),
    "an argument that nobody knows": (put("model", "config", "x", 1), "describes no model"),
    "a mean that is infinite": (put("model", "config", "mean", [math.inf]), "config.mean.0 is inf"),
    "a table for a list": (put("classes", {}), "classes should be an array"),
    "a number for an object": (put("spec", 3), "spec should be dict, not 3"),
    "a number for the model": (put("model", 3), "about.model should be an object, not 3"),
}


def check(folder: Path, told: str) -> None:
    """Ask for the fault in all that reads a checkpoint."""
    file = str(folder / CHECKPOINT)
    with pytest.raises(CheckpointError) as caught:
        load_model(folder)
    assert file in str(caught.value) and told in str(caught.value)
    assert "\n" not in str(caught.value)
    for words in (("info", folder), ("train", "--resume", "--out", folder)):
        assert file in refused(*words).replace("\n", "")


@pytest.mark.parametrize(("change", "told"), HEADERS.values(), ids=HEADERS)
def test_a_header_that_is_wrong_is_found_before_anything_is_built(
    change: Callable[[Any], None], told: str, stored: Checkpoint, tmp_path: Path
) -> None:
    meta = json.loads(json.dumps(stored.meta))
    change(meta["about"])
    save_checkpoint(tmp_path / CHECKPOINT, replace(stored, meta=meta))
    check(tmp_path, told)


@pytest.mark.parametrize("group", ["model", "best"])
@pytest.mark.parametrize(
    ("put", "told"),
    [
        (lambda t: {}, "lacks the tensor {}.stem.0.weight"),
        (lambda t: {"{}.stem.0.wieght": t}, "lacks the tensor {}.stem.0.weight"),
        (lambda t: {"{}.stem.0.weight": t, "{}.more": t}, "the tensor {}.more"),
        (lambda t: {"{}.stem.0.weight": t[:2]}, "{}.stem.0.weight of shape (4, 1, 3, 3)"),
        (lambda t: {"{}.stem.0.weight": t.long()}, "{}.stem.0.weight is torch.int64"),
        (lambda t: {"{}.stem.0.weight": t * math.nan}, "the tensor {}.stem.0.weight holds NaN"),
        (lambda t: {"{}.stem.0.weight": t * math.inf}, "{}.stem.0.weight"),
    ],
    ids=["removed", "renamed", "extra", "other shape", "other type", "NaN", "infinite"],
)
def test_tensors_that_are_not_the_models_are_named(
    put: Callable[[torch.Tensor], dict[str, torch.Tensor]],
    told: str,
    group: str,
    stored: Checkpoint,
    tmp_path: Path,
) -> None:
    at = f"{group}.stem.0.weight"
    others = {name: tensor for name, tensor in stored.tensors.items() if name != at}
    new = {name.format(group): tensor for name, tensor in put(stored.tensors[at]).items()}
    save_checkpoint(tmp_path / CHECKPOINT, replace(stored, tensors={**others, **new}))
    check(tmp_path, told.format(group))


@pytest.mark.parametrize("name", ["task.0.exp_avg", "task.0.step"])
def test_an_optimiser_without_its_state_is_refused(
    name: str, stored: Checkpoint, tmp_path: Path
) -> None:
    tensors = {each: tensor for each, tensor in stored.tensors.items() if each != name}
    save_checkpoint(tmp_path / CHECKPOINT, replace(stored, tensors=tensors))
    told = refused("train", "--resume", "--out", tmp_path)
    assert CHECKPOINT in told and name.removeprefix("task.") in told


@pytest.mark.parametrize(
    "text",
    [DEEP, '{"format": 1, "about": ' + DEEP + "}", "not JSON", "[1, 2]", "3", "9" * 5000, "{}"]
    + ['{"format": 1}', '{"format": 1, "about": 3}', '{"format": "new"}', '{"format": 2}'],
    ids=lambda text: str(text[:24]),
)
def test_json_that_is_no_header_is_refused(text: str, stored: Checkpoint, tmp_path: Path) -> None:
    save_file(dict(stored.tensors), tmp_path / CHECKPOINT, {KEY: text})
    check(tmp_path, CHECKPOINT)


@pytest.mark.parametrize("length", [0, 4, 8, 100, -1])
def test_a_file_that_was_cut_short_is_refused(
    length: int, stored: Checkpoint, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / CHECKPOINT, stored)
    (tmp_path / CHECKPOINT).write_bytes((tmp_path / CHECKPOINT).read_bytes()[:length])
    check(tmp_path, "not a checkpoint")


def test_no_bit_can_change_unnoticed(tmp_path: Path) -> None:
    small = Checkpoint({"w": torch.ones(2), "n": torch.arange(2)}, {"place": [1, 2]})
    save_checkpoint(tmp_path / "c", small)
    written = (tmp_path / "c").read_bytes()
    for at in range(len(written)):
        for bit in range(8):
            changed = bytearray(written)
            changed[at] ^= 1 << bit
            (tmp_path / "c").write_bytes(changed)
            try:
                found = load_checkpoint(tmp_path / "c")
            except CheckpointError:
                continue
            # Such as blanks that become tabs between the parts of the header.
            assert found.meta == small.meta
            assert all(torch.equal(found.tensors[k], t) for k, t in small.tensors.items())


def test_a_checkpoint_of_before_there_were_checksums_is_read(
    stored: Checkpoint, tmp_path: Path
) -> None:
    text = json.dumps({"format": 1, **stored.meta})
    save_file(dict(stored.tensors), tmp_path / CHECKPOINT, {KEY: text})
    image = torch.rand(1, 1, 8, 8)
    assert stored.file is not None
    assert torch.equal(load_model(tmp_path)(image), load_model(stored.file)(image))


def test_nothing_in_a_file_is_ever_executed(
    stored: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harm = f"__import__('pathlib').Path({str(tmp_path / 'harm')!r}).touch()"
    meta = json.loads(json.dumps(stored.meta))
    for name in ("model", "solver", "gradient", "dataset"):
        meta["about"]["spec"][name] = harm
    meta["about"]["model"]["config"]["solver"] = harm
    save_checkpoint(tmp_path / CHECKPOINT, replace(stored, meta=meta))
    assert stored.file is not None
    load_model(stored.file)  # all that is imported late is imported now
    ran: list[str] = []
    with monkeypatch.context() as patch:
        for module, name in (
            (builtins, "eval"), (builtins, "exec"), (builtins, "__import__"), (os, "system"),
            (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load"),
        ):  # fmt: skip
            kept = getattr(module, name)

            def noted(*words: Any, kept: Any = kept, name: str = name, **more: Any) -> Any:
                if name != "__import__" or words[0] in ("pathlib", "os.path", "subprocess"):
                    ran.append(name)
                return kept(*words, **more)

            patch.setattr(module, name, noted)
        with pytest.raises(CheckpointError):
            load_model(tmp_path)
    assert ran == []
    assert not (tmp_path / "harm").exists()


def test_weights_that_are_no_numbers_are_never_saved(tmp_path: Path) -> None:
    images = data()
    network = model(images)
    poison = At(3, lambda: next(network.parameters()).data.fill_(math.nan))
    with pytest.raises(Diverged, match="not finite after step 3"):
        train(network, images, CONFIG, tmp_path, observers=[poison])
    assert load_checkpoint(tmp_path / CHECKPOINT).meta["place"]["batch"] == 2
