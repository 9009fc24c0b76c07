"""The processes that share a run, and what each of them does of a step."""

from __future__ import annotations

import os

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]

from ..settings import TrainConfig


def accelerator_for(config: TrainConfig, *, cpu: bool = False) -> Accelerator:
    """Return accelerate's view of the devices and processes: torchrun's, or the machine's.

    Arguments:
        config: says the precision.
        cpu: leave the GPUs alone.

    Raises:
        ValueError: torchrun started more processes here than there are GPUs.
    """
    check_started(cpu=cpu)
    return Accelerator(mixed_precision=config.precision, cpu=cpu)


def check_started(*, cpu: bool = False) -> None:
    """Raise ValueError if torchrun started more processes here than there are GPUs."""
    if not cpu:
        check_devices(int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count())


def check_devices(processes: int, gpus: int) -> None:
    """Raise ValueError if processes of one machine, which need a GPU each, are more than its GPUs.

    NCCL would say so later, in a traceback of each. Without a GPU they all use the CPU.
    """
    if 0 < gpus < processes:
        raise ValueError(
            f"torchrun started {processes} processes on a machine with {gpus} GPU"
            f"{'s' * (gpus > 1)}, and each needs its own: start it with --nproc-per-node {gpus}, "
            "or use the CPU (--cpu)."
        )


def turns_of(parts: int, processes: int) -> int:
    """Return how many parts of a step each process computes, one after the other.

    Raises:
        ValueError: the processes cannot share the parts equally.
    """
    if parts % processes:
        raise ValueError(
            f"each step of the run is the mean over {parts} part{'s' * (parts > 1)}, which "
            f"{processes} processes cannot share equally: start a number of processes that divides "
            f"{parts}. (A new run with --parts {processes} can be shared by {processes}.)"
        )
    return parts // processes
