"""Exact Jacobians of a batch: products with them, and whole ones."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property, partial

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .problem import Counter
from .twice import twice_differentiable

ENTRIES = 2**24  # of the batch of products that is taken at once: 64 MiB in float32
LinearMap = Callable[[Tensor], Tensor]


def jvp(function: LinearMap, z: Tensor, v: Tensor) -> Tensor:
    """Return J(z) v by forward-mode differentiation, which needs no graph of f.

    Raises:
        RuntimeError: an operator of f has no forward-mode rule.
    """
    _load_forward_rules()
    try:
        with forward_ad.dual_level(), twice_differentiable():
            dual = forward_ad.make_dual(z, v)  # type: ignore[no-untyped-call]
            value, tangent = forward_ad.unpack_dual(function(dual))  # type: ignore[no-untyped-call]
            return torch.zeros_like(value) if tangent is None else tangent
    except (NotImplementedError, RuntimeError) as error:
        if "forward" not in str(error).lower():
            raise
        raise RuntimeError(
            "No product J v of this map can be formed: an operator of it has neither a "
            f"forward-mode rule nor a second derivative ({error}). Write that operator by its "
            "formula, or use a solver without products: Anderson, Broyden, Flow."
        ) from error


@cache
def _load_forward_rules() -> None:
    """Import torch's forward-mode rules, which the first dual tensor does with a FutureWarning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        import torch._decomp.decompositions_for_jvp  # noqa: F401


class Linearization:
    """A map's value f(z) and its exact derivative J there: the products J v, or the whole of J.

    f is evaluated once, and the graph kept. J v is the derivative of w -> J^T w: one reverse pass
    over the graph of J^T w (for a small dense map 2 to 15 times faster than `jvp`, whose products
    are taken where an operator of f has no second derivative).

    Arguments:
        function: f; row i of its output may depend on row i of z alone.
        z: where it is linearised, (B, ...).
        counter: the `Counter` of f's evaluations, if any: a product counts as one, and so does a
            row of the matrix.
        condition: what f receives beside z: it shows whether samples have weights of their own.
    """

    def __init__(
        self,
        function: LinearMap,
        z: Tensor,
        counter: object = None,
        condition: tuple[Tensor, ...] | None = (),
    ) -> None:
        self.function, self.z = function, z
        self.counter = counter if isinstance(counter, Counter) else None
        self._keep = torch.is_grad_enabled()
        with torch.enable_grad(), twice_differentiable():
            self._at = z if self._keep and z.requires_grad else z.detach().requires_grad_()
            self._graph = function(self._at)
        self.value = self._graph if self._keep else self._graph.detach()
        square = self.value.shape[1:].numel() ** 2
        self._weights = any(x.shape[1:].numel() >= square for x in condition or ())

    def __call__(self, v: Tensor) -> Tensor:
        """Return J v, of the shape of f(z), for v of the shape of z."""
        tangent = None
        if self._graph.requires_grad:  # else it is constant, or evaluated under no_grad
            weight, pulled = self._pulled
            if self.counter is not None:
                self.counter.repeat(1)
            if not pulled.requires_grad:
                return torch.zeros_like(self.value)
            try:
                (tangent,) = torch.autograd.grad(
                    pulled, weight, v, retain_graph=True, create_graph=self._keep, allow_unused=True
                )
            except (NotImplementedError, RuntimeError) as error:
                if "not implemented" not in str(error).lower():
                    raise
        # J^T w depends on w unless an operator hides that, as once_differentiable does.
        return jvp(self.function, self.z, v) if tangent is None else tangent

    def pull(self, v: Tensor) -> Tensor:
        """Return J^T v, of the shape of z, for v of the shape of f(z): one reverse pass."""
        if not self._graph.requires_grad:  # constant, or evaluated under no_grad
            return torch.zeros_like(self.z)
        if self.counter is not None:
            self.counter.repeat(1)
        return self._rows(v[None])[0]

    def matrix(self) -> Tensor:
        """Return J of each sample, (B, m, n), by m reverse passes, many at once.

        Passes at once would copy weights that each sample has for itself: then they are taken
        row by row (at 50 entries a fifth of the time).
        """
        m, n = self.value.shape[1:].numel(), self.z.shape[1:].numel()
        if not self._graph.requires_grad:
            units = torch.eye(n, dtype=self.z.dtype, device=self.z.device)
            columns = [self(e.view(self.z.shape[1:]).expand_as(self.z)).flatten(1) for e in units]
            return torch.stack(columns, dim=2)
        if self.counter is not None:
            self.counter.repeat(m)
        units = torch.eye(m, dtype=self.value.dtype, device=self.z.device)
        vectors = units.view(m, 1, *self.value.shape[1:]).expand(m, *self.value.shape)
        width = 1 if self._weights else max(1, ENTRIES // max(self.value.numel(), self.z.numel()))
        rows = [self._rows(vectors[k : k + width]) for k in range(0, m, width)]
        return torch.cat(rows).flatten(2).transpose(0, 1)

    def _rows(self, vectors: Tensor) -> Tensor:
        """Return J^T v for each of the vectors, (k, B, ...)."""
        pull = partial(
            torch.autograd.grad, self._graph, self._at,
            retain_graph=True, create_graph=self._keep, materialize_grads=True,
        )  # fmt: skip
        if len(vectors) > 1:
            try:
                return pull(vectors, is_grads_batched=True)[0]
            except (NotImplementedError, RuntimeError) as error:
                told = str(error).lower()
                if "vmap" not in told and "batching rule" not in told:
                    raise
        return torch.stack([pull(v)[0] for v in vectors])

    @cached_property
    def _pulled(self) -> tuple[Tensor, Tensor]:
        """A weight w, and J^T w with its graph."""
        with torch.enable_grad():
            weight = torch.zeros_like(self._graph, requires_grad=True)
            (pulled,) = torch.autograd.grad(
                self._graph, self._at, weight, create_graph=True, materialize_grads=True
            )
        return weight, pulled


@dataclass(frozen=True)
class Shifted:
    """The operator v -> s v - J v, J square; s is a number or (B, 1, ...)."""

    jacobian: Linearization
    shift: Tensor | float = 1.0

    def __call__(self, v: Tensor) -> Tensor:
        return self.shift * v - self.jacobian(v)

    def matrix(self) -> Tensor:
        """Return s I - J, (B, n, n)."""
        diagonal = (self.shift * torch.ones_like(self.jacobian.z)).flatten(1)
        return torch.diag_embed(diagonal) - self.jacobian.matrix()
