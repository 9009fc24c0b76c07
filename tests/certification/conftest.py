"""Runs that several files of tests certify."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.test_cli import done

SMALL = ["--limit", 400, "--hidden", 4, "--head", 16, "--groups", 2, "--epochs", 3, "--batch", 32,
         "--jacobian-penalty", 1, "--cpu"]  # fmt: skip


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny DEQ trained under noise on the digits."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("runs") / "deq"
    done("train", "--model", "deq", "--noise", 0.25, "--out", folder, *SMALL)
    return folder


@pytest.fixture(scope="session")
def monotone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose votes can be verified."""
    folder = tmp_path_factory.mktemp("runs") / "monotone"
    flags = ["--limit", 100, "--hidden", 4, "--epochs", 1, "--noise", 0.25, "--cpu"]
    done("train", "--model", "monotone", "--out", folder, *flags)
    return folder
