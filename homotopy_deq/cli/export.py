"""homotopy-deq export"""

from __future__ import annotations

from typing import Any

from .options import Export
from .train import say
from .trained import Trained, find_checkpoint


def command(chosen: Export) -> None:
    """Write a trained model and its card into a folder."""
    trained = Trained.of(chosen.run.path)
    folder = chosen.out or find_checkpoint(chosen.run.path).parent / "pretrained"
    trained.model.save_pretrained(folder, figures=figures(trained), classes=trained.classes)
    say(f"wrote {folder}: ImageModel.from_pretrained({str(folder)!r}) reads it")


def figures(trained: Trained) -> dict[str, dict[str, Any]]:
    """Return what a run's checkpoint knows, as tables by their titles."""
    meta = trained.checkpoint.meta
    images, test = meta["about"]["images"], meta["test"]
    chosen = {k: v for k, v in trained.settings.named().items() if v is not None}
    found = {
        "Trained on": {name: images[name] for name in ("name", "source", "train")},
        "Trained with": chosen,
    }
    if meta["best"] is not None:
        found["Validation, at the best epoch"] = dict(meta["best"])
    if test is not None:
        found["Test"] = dict(test)
    if meta.get("noisy_test") is not None:
        found["Test, under noise"] = dict(meta["noisy_test"])
    return found
