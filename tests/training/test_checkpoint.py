from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from homotopy_deq.training import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from homotopy_deq.training.checkpoint import differences

NUMBERS = Checkpoint(
    {"a.x": torch.randn(3), "a.y": torch.arange(2), "b.x": torch.tensor(True)},
    {"place": {"epoch": 1}, "sum": 0.1 + 0.2},
)


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", NUMBERS)
    found = load_checkpoint(tmp_path / "c")
    assert found.meta["place"] == {"epoch": 1}
    assert found.meta["sum"] == 0.1 + 0.2  # to the last bit
    assert found.tensors.keys() == NUMBERS.tensors.keys()
    assert all(torch.equal(found.tensors[k], v) for k, v in NUMBERS.tensors.items())
    assert found.under("a").keys() == {"x", "y"}


def test_tensors_that_share_memory_or_are_views_can_be_saved(tmp_path: Path) -> None:
    square = torch.randn(3, 3)
    save_checkpoint(tmp_path / "c", Checkpoint({"t": square.T, "row": square[0]}, {}))
    assert torch.equal(load_checkpoint(tmp_path / "c").tensors["t"], square.T)


def test_equal_checkpoints_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_checkpoint(tmp_path / name, NUMBERS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_what_a_killed_save_leaves_behind_disturbs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "c"
    save_checkpoint(path, NUMBERS)
    (tmp_path / "c.tmp").write_bytes(b"half of a")
    assert torch.equal(load_checkpoint(path).tensors["a.y"], torch.arange(2))
    save_checkpoint(path, Checkpoint({"z": torch.ones(1)}, {}))
    assert load_checkpoint(path).tensors.keys() == {"z"}
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_any_safetensors_reader_can_open_it(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", NUMBERS)
    with safe_open(tmp_path / "c", framework="pt") as file:
        assert json.loads(file.metadata()["homotopy-deq"])["format"] == 2


def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "nowhere")
    (tmp_path / "text").write_text("hello, this is no checkpoint at all")
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "text")
    save_file({"w": torch.ones(1)}, tmp_path / "other")
    with pytest.raises(CheckpointError, match="other is not a checkpoint"):
        load_checkpoint(tmp_path / "other")


def test_a_cut_short_file_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", NUMBERS)
    (tmp_path / "c").write_bytes((tmp_path / "c").read_bytes()[:-1])
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "c")


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "harm",)  # type: ignore[return-value]

    torch.save(Harm(), tmp_path / "c")
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "c")
    assert not (tmp_path / "harm").exists()


def test_differences_name_the_field_and_both_values() -> None:
    old = {"a": 1, "deep": {"lr": 0.1, "same": [1, 2]}}
    new = {"a": 1, "deep": {"lr": 0.2, "same": [1, 2]}, "more": None}
    assert differences(old, new) == ["deep.lr: 0.1 in the run, 0.2 given"]
