"""Graphs: rows that are one system, joined by a dense or sparse adjacency or by a list of edges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from homotopy_deq import ImplicitLayer
from solvers import (
    ODE,
    SHINE,
    Anderson,
    Broyden,
    Equilibrium,
    Implicit,
    InitialValue,
    NewtonKrylov,
    Phantom,
    Status,
    Unroll,
    solve,
)
from tests.problems import DOUBLE, normal

# torch warns at each first use that these layouts are new.
pytestmark = pytest.mark.filterwarnings("ignore:Sparse:UserWarning")

TIGHT = Anderson(rtol=1e-12)
SIZES = (2, 4, 3)  # of graphs with one block each
NODES = sum(SIZES)
JOINED = torch.block_diag(*(torch.ones(n, n) - torch.eye(n) for n in SIZES))
EDGES = JOINED.nonzero().mT  # (2, E)


def coo(values: Tensor) -> Tensor:
    return torch.sparse_coo_tensor(EDGES, values, (NODES, NODES), check_invariants=True)


def csr(values: Tensor) -> Tensor:
    pattern = JOINED.to_sparse_csr()
    return torch.sparse_csr_tensor(
        pattern.crow_indices(),
        pattern.col_indices(),
        values,
        (NODES, NODES),
        check_invariants=True,
    )


def product(z: Tensor, adjacency: Tensor) -> Tensor:
    return adjacency @ z


def along_edges(z: Tensor, edges: Tensor, values: Tensor) -> Tensor:
    return torch.zeros_like(z).index_add(0, edges[0], values[:, None] * z[edges[1]])


Message = Callable[..., Tensor]
FORMS: dict[str, tuple[Message, Callable[[Tensor], tuple[Tensor, ...]]]] = {
    "dense": (product, lambda values: (coo(values).to_dense(),)),
    "COO": (product, lambda values: (coo(values),)),
    "uncoalesced": (product, lambda values: (coo(values / 2) + coo(values / 2),)),
    "CSR": (product, lambda values: (csr(values),)),
    "edges": (along_edges, lambda values: (EDGES, values)),
}
WAYS: dict[str, tuple[Any, Any]] = {
    "Implicit": (TIGHT, Implicit(TIGHT)),
    "Newton": (NewtonKrylov(rtol=1e-11), Implicit(NewtonKrylov(rtol=1e-11))),
    "Phantom": (TIGHT, Phantom(60)),
    "SHINE": (Broyden(rtol=1e-12), SHINE(TIGHT)),
    "Unroll": (TIGHT, Unroll()),
    "Unroll in segments": (TIGHT, Unroll(checkpoint=4)),
}


def learned() -> tuple[Tensor, Tensor, Tensor]:
    """Return W, the features and the weights of the edges."""
    values = 0.1 + 0.2 * normal(3, EDGES.shape[1]).sigmoid()
    parts = 0.3 * normal(1, 5, 5), normal(2, NODES, 5), values
    return tuple(part.requires_grad_() for part in parts)  # type: ignore[return-value]


def problem(form: str, w: Tensor, x: Tensor, values: Tensor) -> Equilibrium:
    """Z = tanh(A Z W + X) of all graphs together."""
    message, of = FORMS[form]
    return Equilibrium(
        lambda z, x, *graph: torch.tanh(message(z, *graph) @ w + x),
        (x, *of(values)),
        coupled=True,
    )


def iterated(w: Tensor, x: Tensor, values: Tensor) -> Tensor:
    z, adjacency = torch.zeros_like(x), coo(values).to_dense()
    for _ in range(200):
        z = torch.tanh(adjacency @ z @ w + x)
    return z


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("form", FORMS)
def test_gradient_of_a_graph_is_that_of_the_iteration_in_all_its_forms(form: str, way: str) -> None:
    parts, v = learned(), normal(4, NODES, 5)
    solver, rule = WAYS[way]
    z = rule.apply(problem(form, *parts), solver, torch.zeros(NODES, 5, dtype=DOUBLE)).check().value
    wanted = iterated(*parts)
    torch.testing.assert_close(z, wanted, rtol=1e-9, atol=1e-10)
    found = torch.autograd.grad((z * v).sum(), parts)
    # Backward, too, a residual of 1e-11 is kept, and ||J|| is below 0.8.
    torch.testing.assert_close(
        found, torch.autograd.grad((wanted * v).sum(), parts), rtol=1e-7, atol=1e-8
    )


@pytest.mark.parametrize("form", FORMS)
def test_flow_of_a_graph_is_the_same_in_all_its_forms(form: str) -> None:
    parts, found = learned(), []
    for each in ("dense", form):
        f = problem(each, *parts)
        flow = InitialValue(
            lambda t, z, *c, f=f: f.map(z, *c) - z, 0.0, 2.0, f.condition, coupled=True
        )
        z = Unroll().apply(flow, ODE(rtol=1e-6, atol=1e-6), torch.zeros(NODES, 5, dtype=DOUBLE))
        found.append((z.value, *torch.autograd.grad(z.value.sum(), parts)))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-10)


class GraphCell(nn.Module):
    """Z = tanh(A Z W + X B)."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(0.3 * normal(1, 5, 5))
        self.b = nn.Parameter(normal(5, 3, 5))

    def initial(self, graph: tuple[Tensor, Tensor]) -> Tensor:
        return torch.zeros(len(graph[1]), 5, dtype=DOUBLE)

    def condition(self, graph: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return graph[0], graph[1] @ self.b

    def forward(self, z: Tensor, adjacency: Tensor, injected: Tensor) -> Tensor:
        return torch.tanh(adjacency @ z @ self.w + injected)


def test_layer_takes_a_sparse_graph_and_its_features() -> None:
    layer = ImplicitLayer(GraphCell(), TIGHT, Implicit(TIGHT), coupled=True, on_failure="raise")
    graph = csr(learned()[2].detach()), normal(6, NODES, 3)
    z = layer(graph)
    torch.testing.assert_close(z, layer.cell(z, *layer.condition(graph)), rtol=1e-10, atol=1e-11)
    z.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in layer.parameters())


@pytest.mark.parametrize("rule", [Implicit(), Phantom()], ids=["Implicit", "Phantom"])
@pytest.mark.parametrize("form", FORMS)
def test_graph_that_is_not_finite_gives_gradients_of_zero(form: str, rule: Any) -> None:
    for bad in (1, 2):
        parts = learned()
        with torch.no_grad():
            parts[bad].view(-1)[0] = torch.nan
        found = rule.apply(problem(form, *parts), TIGHT, torch.zeros(NODES, 5, dtype=DOUBLE))
        assert bool((found.status == Status.NONFINITE).all())
        found.value.sum().backward()
        assert all(not part.grad.any() for part in parts)  # type: ignore[union-attr]


@pytest.mark.parametrize("rule", [Implicit(), Phantom(), Unroll()], ids=lambda r: type(r).__name__)
@pytest.mark.parametrize("layout", [torch.strided, torch.sparse_coo, torch.sparse_csr])
def test_graph_without_nodes_gives_gradients_of_zero(layout: torch.layout, rule: Any) -> None:
    w = learned()[0]
    nothing = torch.zeros(0, 0, dtype=DOUBLE)
    adjacency = nothing if layout == torch.strided else nothing.to_sparse(layout=layout)
    empty = Equilibrium(
        lambda z, a, edges: torch.tanh(a @ z @ w),
        (adjacency.requires_grad_(), torch.zeros(2, 0, dtype=torch.int64)),
        coupled=True,
    )
    value = rule.apply(empty, Anderson(), torch.zeros(0, 5, dtype=DOUBLE)).value
    value.sum().backward()
    assert value.shape == (0, 5)
    assert not w.grad.any()  # type: ignore[union-attr]


@pytest.mark.parametrize("form", ["COO", "CSR"])
def test_sparse_tensor_beside_rows_of_their_own_is_refused_in_one_line(form: str) -> None:
    (adjacency,) = FORMS[form][1](learned()[2])
    with pytest.raises(TypeError, match=r"condition\[0\] must be dense.*coupled=True") as told:
        solve(Equilibrium(product, (adjacency,)), TIGHT, torch.zeros(NODES, 5, dtype=DOUBLE))
    assert len(str(told.value).splitlines()) == 1
