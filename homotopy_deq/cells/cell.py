"""What a cell is, and what it may define beside `forward`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from os.path import commonprefix
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from solvers import Equilibrium
from solvers.solver import named

from .bounds import Bounds


class Cell(Protocol):
    """A module `cell(z, x)` that maps a state and a condition to the next state or a velocity.

    Nothing but `forward` has to be there. A name that is one slip away from one of the others is
    refused when a layer is built, for it would never be called.

    Attributes:
        rowwise: a class attribute beside `forward`; True promises that row i of the output depends
            on row i of the inputs alone, and that `forward` draws no random numbers and writes into
            none of its arguments. A solve is then spared the evaluation that checks it
            (`Solution.checks`) and a copy of its inputs.
    """

    rowwise: ClassVar[bool] = False

    def forward(self, z: Tensor, *condition: Tensor) -> Tensor:
        """Evaluate f(z; x), of z's shape, (B, ...)."""
        ...

    def condition(self, x: Any) -> tuple[Tensor, ...]:
        """Return the tensors, batch first, with which `cell(z, *condition)` is iterated: (x,).

        Called once per solve, so what depends on x alone is computed here once, and a dropout mask
        that is drawn here stays the same.
        """
        ...

    def initial(self, x: Any) -> Tensor:
        """Return the start of a solve, (B, ...): zero of x's shape."""
        ...

    def equation(self, condition: tuple[Tensor, ...]) -> Equilibrium:
        """Return the equation that is solved: `Equilibrium(cell, condition)`.

        Called once per solve, so what depends on the parameters alone is computed here once
        (gradients reach them through it), and the problem can offer the structure that some solvers
        need: `ContractiveCell` and `MonotoneCell` return a `MonotoneInclusion`, and are annotated
        to, which is how a layer knows before it solves.
        """
        ...

    def velocity(self, t: Tensor, z: Tensor, *condition: Tensor) -> Tensor:
        """Evaluate dz/dt = f(t, z; x), of z's shape, in the place of `forward`: a `FlowLayer`'s.

        t has z's dtype; it is 0-d where all samples share it, else (B, 1, ..., 1).
        """
        ...


@runtime_checkable
class ProvableCell(Protocol):
    """A cell relu(W z + x), of whose W it can be proved that it has one equilibrium.

    Attributes:
        shape: of a sample's state, (n,) or (C, H, W).
    """

    shape: tuple[int, ...]

    def weight(self) -> Tensor:
        """Return W, (n, n), or (C, C, k, k) of a circular convolution."""
        ...

    def bounds(self, weight: Tensor | None = None) -> Bounds:
        """Return what is proved of a W, the present one by default, in double precision."""
        ...


HOOKS = ("condition", "initial", "equation", "velocity")


def hook(cell: nn.Module, name: str) -> Callable[..., Any] | None:
    """Return a method of `Cell` that a cell defines, or None."""
    found: Callable[..., Any] | None = getattr(cell, name, None)
    return found


def check_cell(cell: object) -> None:
    """Raise TypeError unless an object is a module of z, whose hooks are spelt right and called.

    A slip is a letter too many, too few, another, or two turned round: nothing else is certain.
    `conditions` and `precondition` hold the word and are names of their own, as is `_initial`.
    """
    if not isinstance(cell, nn.Module):
        raise TypeError(f"cell must be a torch.nn.Module, cell(z, x); got {named(cell)}.")
    kind, names = type(cell).__name__, [n for n in dir(cell) if not n.startswith("_")]
    for word in HOOKS:
        if not callable(getattr(cell, word, print)):
            raise TypeError(
                f"{word} of {kind} must be a method, see homotopy_deq.cells.Cell; got "
                f"a {type(getattr(cell, word)).__name__}. Give it another name."
            )
    for word in (*HOOKS, "rowwise"):
        if word not in names and (wrong := next((n for n in names if _slipped(n, word)), None)):
            raise TypeError(
                f"{kind} defines {wrong}, which nothing calls; did you mean {word}? "
                "See homotopy_deq.cells.Cell; if not, give it another name."
            )
    first = _first_argument(cell)
    if first in ("t", "time", "times") and "velocity" not in names:
        raise TypeError(
            f"{kind}.forward takes {first} first, as a field of torchdiffeq does, and a cell is "
            "cell(z, x): rename it velocity(t, z, x), for a FlowLayer; see docs/times.md."
        )


def _first_argument(cell: nn.Module) -> str:
    """Return the name of what `forward` takes first, "" where nothing says it."""
    try:
        return next(iter(inspect.signature(cell.forward).parameters), "")
    except ValueError:  # of a script
        return ""


def _slipped(name: str, word: str) -> bool:
    """Say whether one slip of the finger makes `name` of `word`, and no word of its own."""
    same = len(commonprefix([name, word]))
    a, b = name[same:], word[same:]
    slips = (a[1:] == b, a == b[1:], a[1:] == b[1:], a[2:] == b[2:] and a[:2] == b[1::-1])
    return word not in name and any(slips)


def check_dropout(p: float) -> float:
    """Return p, or raise ValueError unless it is in [0, 1)."""
    if not 0 <= p < 1:
        raise ValueError(f"dropout must be in [0, 1); got {p}.")
    return p


def dropout_mask(x: Tensor, channels: int, p: float) -> Tensor:
    """Draw a mask that drops whole channels: 0 with probability p, else 1 / (1 - p).

    A cell draws it in `condition`, once per solve. A mask drawn anew at each evaluation would
    change the equation from one step to the next, and there would be no answer to converge to.

    Arguments:
        x: what the cell is conditioned on, (B, ...): gives batch, dtype and device.
        channels: number C of channels of the masked state.
        p: probability of dropping a channel of a sample, in [0, 1).

    Returns:
        (B, C, 1, ...) with the dimensions of x.

    References:
        Y. Gal, Z. Ghahramani (2016), A theoretically grounded application of dropout in
        recurrent neural networks.
    """
    return drawn_mask(x, (x.shape[0], channels, *(1,) * (x.dim() - 2)), p)


def drawn_mask(x: Tensor, shape: Sequence[int], p: float) -> Tensor:
    """Draw a mask of a shape, of x's dtype and device: 0 with probability p, else 1 / (1 - p)."""
    return x.new_empty(shape).bernoulli_(1 - p).div_(1 - p)
