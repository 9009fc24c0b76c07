"""Linear layers that remember what they last propagated, and propagate only what has changed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

from solvers.delta import Entries, Together
from solvers.delta.together import Limit, replaced
from solvers.structure import Threshold

from .products import Convolution, Gathered, Product, Products

ENTRIES = Entries()
L = TypeVar("L", nn.Linear, nn.Conv2d)


@dataclass(frozen=True)
class Memory:
    """What a layer keeps: r, what it last propagated, and W r, its product with that.

    Arguments:
        reference: r, of the input's shape.
        product: W r, without the bias.
    """

    reference: Tensor
    product: Tensor


def started(product: Product, x: Tensor) -> tuple[Memory, int]:
    """Return what is kept after x was propagated densely, and the multiply-adds."""
    return Memory(x, product.dense(x)), product.multiply_adds(x)


def moved(
    product: Product,
    last: Memory,
    x: Tensor,
    within: Threshold | None,
    ratio: float = 1.0,
    active: Tensor | None = None,
) -> tuple[Memory, int]:
    """Return what is kept after the changes above a threshold were propagated, with the count.

        r_i <- x_i  where |x - r|_i > tau.

    Arguments:
        product: with the layer's W.
        last: what was kept.
        x: the input, (B, ...).
        within: the threshold; None propagates every change.
        ratio: by which it is multiplied.
        active: which entries of x may have changed, where that is known and all are propagated.
    """
    if x is last.reference:
        return last, 0
    reference = x
    if within is not None:
        active = within.far((x - last.reference).detach(), ratio)
        reference = replaced(active, x, last.reference)
    result, work = product.moved(last.product, last.reference, reference, active)
    return Memory(reference, result), work


class Tape:
    """One evaluation of a cell: what its layers kept of the last one, and what they keep now.

    Arguments:
        last: by the layer's name; one that is not there is evaluated densely.
        within: the threshold of the layers that are not free; None propagates every change.
        free: the layers that propagate every change: they are fed by the state, whose changes the
            solver has thresholded, or by what no step changes.
        copies: whether the cell writes into what its layers are given or return.
        batch: samples of the evaluation.
        state: what the cell is evaluated at; None where no layer need be told that it is given it.
    """

    def __init__(
        self,
        last: dict[str, Memory],
        batch: int,
        within: Threshold | None = None,
        free: frozenset[str] = frozenset(),
        copies: bool = False,
        state: Tensor | None = None,
    ) -> None:
        self.last = last
        self.batch = batch
        self.within = within
        self.free = free
        self.copies = copies
        self.state = state
        self.kept: dict[str, Memory] = {}
        self.inputs: dict[str, Tensor] = {}
        self.work: dict[str, int] = {}
        self.versions: list[tuple[Tensor, int]] = []

    def through(self, name: str, product: Product, ratio: float, x: Tensor) -> Tensor:
        """Return a layer's product for its input x, and keep what it keeps.

        Raises:
            ValueError: the layer was called before in this evaluation.
        """
        if name in self.kept:
            raise ValueError(
                f"The layer {name!r} of the cell is called twice in one evaluation, and each call "
                "needs a cache of its own. Use two layers (they may share weights), or leave it "
                f"dense: delta(..., skip=({name!r},))."
            )
        self.inputs[name] = x
        if len(x) != self.batch:  # whose rows are no samples: there is nothing to keep of each
            nothing = x.new_empty(self.batch, 0)
            dense, self.work[name] = started(product, x)
            self.kept[name] = Memory(nothing, nothing)
            return dense.product
        given = x.clone() if self.copies else x
        last = self.last.get(name)
        if last is None or last.reference.shape != x.shape:
            memory, work = started(product, given)
        else:
            within = None if name in self.free else self.within
            active = self._active(x, last)
            memory, work = moved(product, last, given, within, ratio, active)
        self.kept[name], self.work[name] = memory, work
        if self.copies:
            return memory.product.clone()
        self.versions += [(t, t._version) for t in (memory.reference, memory.product)]
        return memory.product

    def _active(self, x: Tensor, last: Memory) -> Tensor | None:
        """Return which entries of a layer's input may have changed, where that is known.

        It is where the layer is given the state itself, now and when it was last called: a cell
        may go another way by the state's values, past a layer or to it through others.
        """
        at, since = self.state, None if self.within is None else self.within.since
        if self.within is None or at is None or since is None:
            return None
        return self.within.active if _same(x, at) and _same(last.reference, since) else None

    def spoilt(self) -> bool:
        """Say whether the cell has written into what a layer keeps."""
        return any(tensor._version != version for tensor, version in self.versions)


def _same(a: Tensor, b: Tensor) -> bool:
    """Say whether two tensors are one, or views of the same memory that are laid out alike."""
    at = a.data_ptr() == b.data_ptr()
    return a is b or (at and a.shape == b.shape and a.stride() == b.stride())


@dataclass
class Site:
    """Where a product stands in a cell during one solve: it is called once in an evaluation.

    Arguments:
        name: of the layer.
        product: with its W.
        ratio: of its threshold to that of the solve.
        tape: of the evaluation that is under way, or None.
    """

    name: str
    product: Product
    ratio: float = 1.0
    tape: Tape | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Return W r for the reference r that stands for x."""
        if self.tape is None:
            return self.product.dense(x)
        return self.tape.through(self.name, self.product, self.ratio, x)


class _Delta(nn.Module, ABC, Generic[L]):
    """A linear layer whose product is kept up to date; outside of a solve, the layer itself."""

    trailing: tuple[int, ...] = ()
    """Sizes of the bias behind its own dimension."""

    def __init__(
        self,
        layer: L,
        products: Products = Gathered(),  # noqa: B008  (frozen)
        ratio: float = 1.0,
        name: str = "",
    ) -> None:
        super().__init__()
        self.layer: L = layer
        self.site = Site(name, self._product(products), ratio)

    def __getattr__(self, name: str) -> Any:
        """Return what the layer has, for a cell that looks at it."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)

    @abstractmethod
    def _product(self, products: Products) -> Product:
        """Return the layer's product, by the kernels."""

    def start(self, x: Tensor) -> tuple[Tensor, Memory]:
        """Return the layer's output for x, computed densely, and what to keep for `move`."""
        memory, _ = started(self.site.product, x.clone())
        return self._biased(memory.product), memory

    def move(
        self, last: Memory, x: Tensor, tau: float | Tensor, together: Together = ENTRIES
    ) -> tuple[Tensor, Memory]:
        """Return the output for x with changes of at most tau left out, and what to keep.

        They are left out against what was last propagated, so they are never lost: they add up
        until they pass the threshold. The output is that of some r with |x - r| <= tau.

        Arguments:
            last: what an earlier call returned.
            x: the input, (B, ...).
            tau: the threshold, a number or one for each sample, (B,).
            together: which entries are propagated together.
        """
        memory, _ = moved(self.site.product, last, x.clone(), Limit(tau, together))
        return self._biased(memory.product), memory

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output: within a solve by changes, elsewhere by the layer itself."""
        if self.site.tape is None:
            out: Tensor = self.layer(x)
            return out
        product = self.site(x)
        return product if self.bias is None else self._biased(product)

    def _biased(self, product: Tensor) -> Tensor:
        if self.bias is None:
            return product.clone()
        out: Tensor = product + self.bias.view(-1, *self.trailing)
        return out


class DeltaLinear(_Delta[nn.Linear]):
    """An `nn.Linear` that propagates the entries of its input that have changed:

        r_i <- x_i  where |x - r|_i > tau,    y = W r + b,

    with W r kept and brought up to date. The weights are the layer's own, read when this is built.

    Arguments:
        layer: an `nn.Linear`; parametrised weights are computed once, here.
        products: the kernels.
        ratio: of the layer's threshold to that of the solve.
        name: of the layer in its cell, for messages and accounts.
    """

    def _product(self, products: Products) -> Product:
        return products.linear(self.weight)


class DeltaConv2d(_Delta[nn.Conv2d]):
    """An `nn.Conv2d` that propagates the entries of its input that have changed; see `DeltaLinear`.

    Arguments:
        layer: an `nn.Conv2d` of any stride, padding, dilation and groups.
        products: the kernels.
        ratio: of the layer's threshold to that of the solve.
        name: of the layer in its cell, for messages and accounts.
    """

    trailing = (1, 1)

    def _product(self, products: Products) -> Product:
        return products.convolution(Convolution.of(self.layer))
