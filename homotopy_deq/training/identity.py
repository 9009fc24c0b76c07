"""What a run says of itself, by which one that goes on knows its own settings and images."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from ..data import ImageData
from ..settings import TrainConfig
from .checkpoint import Checkpoint
from .header import check_header

LATER = {k: v for k, v in asdict(TrainConfig()).items() if k in (
    "schedule", "beta1", "beta2", "clip", "offset", "temperature", "structure_penalty",
    "parts",
)}  # fmt: skip
"""What runs of version 0.1.0 do not say, as they had no other."""


def planned(about: Mapping[str, Any], epochs: int) -> dict[str, Any]:
    """Return what a run says of itself as if it had been started with so many epochs."""
    parts = {part: about[part] for part in ("training", "spec") if part in about}
    return {**about, **{name: {**part, "epochs": epochs} for name, part in parts.items()}}


def parts_of(checkpoint: Checkpoint) -> int:
    """Return in how many parts a run computes each step, which is what it began with.

    Raises:
        CheckpointError: it has not the header of a run.
    """
    check_header(checkpoint)
    about = checkpoint.meta["about"]
    parts = about.get("parts", about.get("processes", 1))  # what they were called
    if type(parts) is not int or parts < 1:
        raise checkpoint.fault(f"about.parts should be a whole number above 0, not {parts!r}")
    return parts


def fingerprint(data: ImageData) -> dict[str, Any]:
    """Return sizes and checksums, by which a resumed run knows its images."""
    columns = {
        "train_images": data.train_images,
        "train_labels": data.train_labels,
        "test_images": data.test_images,
        "test_labels": data.test_labels,
    }
    return {
        "name": data.name,
        "source": data.source,
        "train": len(data.train_labels),
        "test": len(data.test_labels),
        "crc32": {
            name: zlib.crc32(t.contiguous().numpy().tobytes()) for name, t in columns.items()
        },
    }


def weights_sha256(model: nn.Module) -> str:
    """Return a checksum of a module's state: the names, kinds, shapes and bytes of its tensors.

    Arguments:
        model: any; among the settings of a `Journal` it tells other weights from these.
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        plain = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
        digest.update(plain.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
