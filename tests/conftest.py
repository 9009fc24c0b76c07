"""What every test can rely on: one thread, a seed of its own, no display, no GPU."""

from __future__ import annotations

import os
import tempfile

os.environ.setdefault("MPLBACKEND", "Agg")  # before anything imports matplotlib
# Kernels are chosen by costs that are measured once: not in a user's own file, nor by it.
os.environ.setdefault("HOMOTOPY_DEQ_CACHE", f"{tempfile.gettempdir()}/homotopy-deq-tests")
if "TEST_CUDA" not in os.environ:  # equal bytes, and two ranks, are asked of the CPU alone
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import pytest
import torch
from hypothesis import settings

# Several workers share the cores, and a first call that compiles is no failure. The examples are
# the same in every run: a test that fails once fails until it is mended.
settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("repeatable")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Give each test the same random numbers whichever tests ran before it."""
    torch.manual_seed(0)
