"""Train models by plain DistributedDataParallel, as a program for torchrun: see test_parallel.py.

Arguments: where to write, steps, and models as NAME:START. A start of "-" is the model's own.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from homotopy_deq.create import create_model, takes
from homotopy_deq.models import ImageModel
from homotopy_deq.training import Objective

SHAPE, CLASSES, BATCH = (1, 8, 8), 4, 8
SMALL = {
    "hidden": 4, "groups": 2, "head": 8, "dropout": 0.0, "channels": 2, "depth": 1, "features": 8,
    "dense_depth": 1,
}  # fmt: skip
Found = dict[str, dict[str, Tensor]]


def built(name: str, start: str) -> ImageModel:
    """Return a small model in double precision, its BatchNorms taken out."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {k: v for k, v in SMALL.items() if k in takes(name)}
    if start != "-":
        settings["start"] = start
    model = create_model(name, shape=SHAPE, num_classes=CLASSES, **settings)
    for part in list(model.modules()):
        for child, module in part.named_children():
            if isinstance(module, nn.BatchNorm2d):
                setattr(part, child, nn.GroupNorm(1, module.num_features))
    return model.double()


def trained(name: str, start: str, steps: int, rank: int, ranks: int) -> dict[str, Tensor]:
    """Return the parameters after some steps on global batches, of which each rank has a share."""
    model = built(name, start)
    net: nn.Module = Objective(model)
    if ranks > 1:
        net = DistributedDataParallel(net)  # find_unused_parameters is not needed
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    drawn = torch.Generator().manual_seed(1)
    for _ in range(steps):
        images = torch.rand(BATCH, *SHAPE, generator=drawn, dtype=torch.float64)
        labels = torch.randint(CLASSES, (BATCH,), generator=drawn)
        share = slice(rank * BATCH // ranks, (rank + 1) * BATCH // ranks)
        optimizer.zero_grad()
        net(images[share], labels[share], True).loss.backward()
        optimizer.step()
    return {k: v.detach() for k, v in model.named_parameters()}


def slopes(name: str, rank: int, ranks: int, backend: str | None) -> dict[str, Tensor]:
    """Return the gradients of one step, with the cell compiled by a backend or as it is."""
    torch._dynamo.reset()
    model = built(name, "-")
    if backend:
        model.layer.cell.compile(backend=backend)
    net: nn.Module = DistributedDataParallel(Objective(model)) if ranks > 1 else Objective(model)
    drawn = torch.Generator().manual_seed(1)
    images = torch.rand(BATCH, *SHAPE, generator=drawn, dtype=torch.float64)
    share = slice(rank * BATCH // ranks, (rank + 1) * BATCH // ranks)
    net(images[share], (torch.arange(BATCH) % CLASSES)[share], True).loss.backward()
    return {k: p.grad for k, p in model.named_parameters() if p.grad is not None}


def every(models: list[str], steps: int, rank: int = 0, ranks: int = 1) -> Found:
    """Return what each model's parameters are, and its gradients compiled and eager."""
    found: Found = {}
    for model in models:
        name, start = model.split(":")
        found[model] = trained(name, start, steps, rank, ranks)
    first = models[0].split(":")[0]
    found["eager"] = slopes(first, rank, ranks, None)
    found["compiled"] = slopes(first, rank, ranks, "aot_eager")
    return found


def main(out: str, steps: str, *models: str) -> None:
    """Write what rank 0 has."""
    dist.init_process_group("gloo")
    warnings.simplefilter("ignore")
    found = every(list(models), int(steps), dist.get_rank(), dist.get_world_size())
    if dist.get_rank() == 0:
        torch.save(found, Path(out))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
