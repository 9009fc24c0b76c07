"""Lipschitz constants of the differences of two logits, pair by pair."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from enum import Enum

import torch
from torch import Tensor, nn

from ..cells.bounds import SLACK, UNIT
from .form import Form
from .lipsdp import lipsdp
from .network import ROUND, certify_lipschitz, form_of

NEURONS = 2048
"""The most of which matrices are factorised, some 80 times."""


class Margin(Enum):
    """How the constant of a difference of logits is bounded; each one takes the one before, too.

    `GLOBAL`: gamma ||w_i - w_j||, gamma that of all before the last linear map, of rows w.
    `PAIRWISE`: `Form.pairwise` of the last layers of vectors, where there are such, times gamma of
    what is before them.
    `LIPSDP`: the same with the metric of `lipsdp`.
    """

    GLOBAL = "global"
    PAIRWISE = "pairwise"
    LIPSDP = "lipsdp"


def pair_gains(body: Sequence[tuple[str, nn.Module]], weight: Tensor | None, how: Margin
               ) -> Tensor | None:  # fmt: skip
    """Return a constant of each difference of two logits, (K, K), or None where none is better.

    What proves it is checked in double precision, on the CPU: of the composed layers, and of the
    program's metric anew.

    Arguments:
        body: names and parts of all before the last linear map, in double precision.
        weight: of that map, (K, k), in double precision; None for unit vectors.
        how: which bounds; of `GLOBAL` there is nothing to be done.

    Raises:
        ImportError: a program is asked for, and cvxpy is not installed.
        ValueError: a program is asked for of what it does not take.
    """
    if how is Margin.GLOBAL:
        return None
    before = [copy.deepcopy(part).cpu() for _, part in body]
    form: Form | None = None
    while before and (own := form_of(before[-1])) is not None and own.grid is None:
        form = own if form is None else own.then(form)
        before.pop()
    if form is None or len(form.b) > NEURONS:
        if how is Margin.LIPSDP:
            raise ValueError(
                "a semidefinite program needs a layer of vectors from homotopy_deq.lipschitz, such "
                "as LBEN, before the last linear map. Take the margin by pairs, or the global one."
            )
        return None
    ahead = torch.eye(form.v.shape[1], dtype=torch.float64) if weight is None else weight.cpu()
    first, second = torch.triu_indices(len(ahead), len(ahead), 1)
    rows = ahead[first] - ahead[second]
    found = _proved(form, rows, how)
    size = torch.linalg.vector_norm(rows, dim=1)
    lost = form.gamma * (SLACK * (rows.shape[1] + 4) * UNIT * size + torch.finfo(size.dtype).tiny)
    gains = ahead.new_zeros(len(ahead), len(ahead))
    gains[first, second] = gains[second, first] = (
        (found + lost) * certify_lipschitz(nn.Sequential(*before)).value * ROUND
    )
    return gains


def _proved(form: Form, rows: Tensor, how: Margin) -> Tensor:
    best = form.pairwise(rows)
    if how is Margin.LIPSDP:
        best = torch.minimum(best, lipsdp(form).pairwise(rows))
    return best
