"""One file that holds a whole run, replaced in one step, and loaded without running any code."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor

FORMAT = 1
_KEY = "homotopy-deq"  # of the JSON text in the safetensors header; the format of both is public


class CheckpointError(ValueError):
    """A file that is no checkpoint, or not of the run that it was asked to continue."""


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on: its tensors by dotted name, and the rest as JSON.

    The file is one safetensors file whose header carries the JSON, so tensors and counters cannot
    be of different moments. Equal runs write equal bytes: nothing in it tells the time.

    Arguments:
        tensors: name -> tensor on the CPU, such as "model.head.weight".
        meta: anything that JSON can write.
    """

    tensors: Mapping[str, Tensor]
    meta: Mapping[str, Any]

    def under(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors named "prefix.x" as {"x": tensor}."""
        start = prefix + "."
        return {k.removeprefix(start): v for k, v in self.tensors.items() if k.startswith(start)}


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint so that a kill at any instant leaves the old one or the new one.

    The bytes go to a temporary file beside it, are forced to the disk, and the file takes the
    place of the old one by a rename, which POSIX makes atomic.
    """
    text = json.dumps({"format": FORMAT, **checkpoint.meta})
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in checkpoint.tensors.items()}
    replace_file(path, to_bytes(tensors, metadata={_KEY: text}))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint. No code in the file is run: safetensors and JSON hold data alone.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is no checkpoint of ours, or from a newer version.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint {path}: name the file that train wrote.")
    try:
        # Opened once: safe_open does so twice, and a run may replace the file in between.
        data = path.read_bytes()
        tensors = from_bytes(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        meta = json.loads(header.get("__metadata__", {})[_KEY])
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"{path} is not a checkpoint of homotopy-deq train (a safetensors file whose header "
            f"has a {_KEY!r} entry): {error}."
        ) from error
    if meta.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has checkpoint format {meta.get('format')!r}; this version reads {FORMAT}."
        )
    return Checkpoint(tensors, meta)


def replace_file(path: Path, data: bytes) -> None:
    """Give a file new contents in one step, and return once they are on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")  # one name, so a killed run leaves one at most
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself
    finally:
        os.close(folder)


def differences(stored: Mapping[str, Any], given: Mapping[str, Any], at: str = "") -> list[str]:
    """List "field: stored, not given" for each entry of two nested JSON objects that differs."""
    found = []
    for key in sorted({*stored, *given}):
        old, new = stored.get(key), given.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{at}{key}.")
        elif old != new:
            found.append(f"{at}{key}: {json.dumps(old)} in the run, {json.dumps(new)} given")
    return found
