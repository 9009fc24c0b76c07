"""The column step by Triton: on a GPU where there is one, by Triton's interpreter elsewhere."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from homotopy_deq.acceleration import Auto
from homotopy_deq.acceleration.kernels.matrix import Gathering, MatrixProduct

CHECK = """
import torch
from homotopy_deq.acceleration.kernels import triton_columns as step

device = "cuda" if torch.cuda.is_available() else "cpu"
g = torch.Generator().manual_seed(0)
cases = (1, 40, 40, 1), (5, 70, 90, 33), (70, 64, 33, 64), (3, 8, 8, 0)
for batch, inputs, outputs, count in cases:
    index = torch.randperm(inputs, generator=g)[:count].sort().values
    mask = torch.zeros(inputs).index_fill_(0, index, 1)
    y, d = torch.randn(batch, outputs, generator=g), torch.randn(batch, inputs, generator=g) * mask
    weight = torch.randn(outputs, inputs, generator=g)
    exact = (y.double() + d.double() @ weight.double().T)
    given = [each.to(device) for each in (y, d, weight.T.contiguous(), index.int())]
    tile = step.tile(batch)
    # A sum of 70 products of normal numbers, each rounded once to 2^-24: far below 70 * 2^-24 * 9.
    for tf32, allowed in ((False, 5e-5), (True, 5e-2)):
        found = step.column_step(*given, tf32, *tile).double().cpu()
        assert (found - exact).abs().max() < allowed, (batch, inputs, outputs, tf32)
if device == "cuda":  # the interpreter runs no fake tensors
    torch.library.opcheck(step.column_step, (*given, False, *tile), test_utils="test_faketensor")
"""


def test_triton_step_is_the_product_with_a_change_of_some_columns() -> None:
    pytest.importorskip("triton")
    # The interpreter is chosen when a kernel is defined, so it takes a process of its own.
    interpreted = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}
    run = subprocess.run(
        [sys.executable, "-c", CHECK],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, **interpreted},
    )
    assert run.returncode == 0, run.stderr


def test_tf32_is_used_where_torch_may_use_it() -> None:
    pytest.importorskip("triton")
    from homotopy_deq.acceleration.kernels.triton_columns import tf32

    before = torch.backends.cuda.matmul.allow_tf32
    try:
        for allowed in (True, False):
            torch.backends.cuda.matmul.allow_tf32 = allowed
            assert tf32() is allowed
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def test_triton_is_taken_on_a_gpu_alone() -> None:
    weight = torch.eye(4)
    product = Auto(triton=True).linear(weight)
    assert isinstance(product, MatrixProduct) and isinstance(product.columns, Gathering)
