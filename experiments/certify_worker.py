"""Certify images of one model with whichever homotopy_deq is on the path.

`experiments.certify_speed` runs this text in a process of each version that it compares, so that
all it takes of the package is what both have. It is asked, and answers, in lines of JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from homotopy_deq.certification import Clean, Converged, Smoother, Smoothing, Tangent, Verified
from homotopy_deq.models import DEQ, MonotoneDEQ

POLICIES = {
    "cold": Converged(),
    "verified clean": Verified(Clean()),
    "verified tangent": Verified(Tangent()),
}


def serve(folder: str) -> None:
    """Answer one line for each line of the standard input."""
    about = json.loads((Path(folder) / "about.json").read_text())
    torch.set_num_threads(about["threads"])
    kind = MonotoneDEQ if "monotonicity" in about["model"] else DEQ
    model = kind(**about["model"])
    model.load_state_dict(load_file(Path(folder) / "weights.safetensors"))
    model.to(about["device"]).eval()
    given = load_file(Path(folder) / "images.safetensors", device=about["device"])
    images = given["images"].float() / 255
    labels, indices = given["labels"].tolist(), given["indices"].tolist()
    with torch.no_grad():
        say({"logits": model(images).tolist()})
    ready: dict[str, Smoother] = {}
    for line in sys.stdin:
        asked: dict[str, Any] = json.loads(line)
        key = json.dumps([asked["policy"], asked["smoothing"]])
        if key not in ready:
            smoothing = Smoothing(**asked["smoothing"])
            ready[key] = Smoother(model, POLICIES[asked["policy"]], smoothing)
        smoother = ready[key]
        rows = [(images[k], labels[k], indices[k]) for k in asked["places"]]
        wall, spent = time.perf_counter(), time.process_time()
        if asked["radius"] is None:
            found = [smoother.certify(*row) for row in rows]
        else:
            found = decided(smoother, rows, asked["radius"])
        spent, wall = time.process_time() - spent, time.perf_counter() - wall
        certificates = [told(each) for each in found]
        say({"seconds": wall, "CPU seconds": spent, "certificates": certificates})


def decided(smoother: Smoother, rows: list[Any], radius: float) -> list[Any]:
    """Decide for some images: side by side, where the version can."""
    if hasattr(smoother, "decide_all"):
        images, labels, indices = zip(*rows, strict=True)
        found = smoother.decide_all(torch.stack(images), labels, indices, radius)
        return sorted(found, key=lambda each: indices.index(each.index))
    return [smoother.decide(image, label, index, radius) for image, label, index in rows]


def told(certificate: Any) -> dict[str, Any]:
    """Return what either version says of an image."""
    counts = getattr(certificate, "evidence", certificate)  # they were one object
    return {
        "class": certificate.prediction,
        "radius": certificate.radius,
        "votes": counts.votes,
        "samples": counts.samples,
        "evaluations": certificate.evaluations,
    }


def say(answer: dict[str, Any]) -> None:
    """Write a line."""
    print(json.dumps(answer), flush=True)
