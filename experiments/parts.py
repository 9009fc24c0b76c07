"""Parts of a result, each kept as soon as it is measured: a killed experiment goes on there."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save
from torch import nn

from experiments.kept import OtherCommit
from experiments.results import commit
from homotopy_deq.training.checkpoint import replace_file, weights


class Parts:
    """A folder of parts that one commit made with one configuration.

        parts = Parts(Path("runs/inr"), config)
        rows = parts("china", lambda: measure(...))   # measured once, then read

    Arguments:
        folder: where the parts lie.
        config: the experiment's dataclass.

    Raises:
        OtherCommit: the folder holds parts of another commit or configuration.
    """

    def __init__(self, folder: Path, config: Any) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        of = {"commit": commit(), "config": json.loads(json.dumps(asdict(config), default=str))}
        note = folder / "of.json"
        if note.exists() and json.loads(note.read_text()) != of:
            raise OtherCommit(
                f"{folder} was made by another commit or configuration, and its parts would be "
                "published as this one's. Delete it, or choose another --work."
            )
        if not note.exists():
            replace_file(note, json.dumps(of).encode())

    def __call__(self, name: str, make: Callable[[], Any]) -> Any:
        """Return a part, measured now if it is not there yet. It must be JSON-able."""
        file = self.folder / f"{name}.json"
        if not file.exists():
            replace_file(file, json.dumps(make()).encode())
        return json.loads(file.read_text())

    def weights(self, name: str, model: nn.Module, train: Callable[[], Any]) -> None:
        """Train a model in place, or give it the weights that an earlier call trained."""
        file = self.folder / f"{name}.safetensors"
        if file.exists():
            model.load_state_dict(load_file(file))
            return
        train()
        replace_file(file, save({name: t.contiguous() for name, t in weights(model).items()}))
