"""Constants of differences of logits, pair by pair: above what is found, below the global one."""

from __future__ import annotations

import importlib.util
from itertools import combinations

import pytest
import torch
from torch import Tensor, nn

from homotopy_deq.lipschitz import (
    AOL,
    LBEN,
    SLL,
    Margin,
    MarginProof,
    NormalizedLinear,
    gain_found,
    lipsdp,
    to_lben,
)
from solvers import PeacemanRachford, Unroll

PROVED = [Margin.PAIRWISE, *([Margin.LIPSDP] if importlib.util.find_spec("cvxpy") else [])]
CLOSE = PeacemanRachford(step_size=1.0, rtol=1e-5, max_steps=60)


def network(head: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    last = LBEN(6, 8, 4, solver=CLOSE, gradient=Unroll())
    made = nn.Sequential(nn.Flatten(), nn.Linear(9, 6), nn.ReLU(), AOL(6, 6), SLL(6), last)
    return (made if head is None else made.append(head)).double().eval()


class Ahead(nn.Module):
    def __init__(self, network: nn.Module, first: int, second: int) -> None:
        super().__init__()
        self.network, self.pair = network, (first, second)

    def forward(self, x: Tensor) -> Tensor:
        y = self.network(x)
        ahead: Tensor = y[:, self.pair[0], None] - y[:, self.pair[1], None]
        return ahead


@pytest.mark.parametrize("margin", PROVED)
@pytest.mark.parametrize("head", [None, nn.Linear(4, 3), NormalizedLinear(4, 3)])
def test_a_slope_is_above_what_is_found_and_below_the_global_one(
    margin: Margin, head: nn.Module | None
) -> None:
    made, x = network(head), torch.randn(4, 1, 3, 3, dtype=torch.float64)
    proof = MarginProof(made, margin)
    assert proof.pairs is not None
    rows = torch.eye(4).double() if proof.head is None else proof.head.weight.detach()
    for i, j in combinations(range(len(rows)), 2):
        proved = float(proof.pairs[i, j])
        assert proved == float(proof.pairs[j, i])
        assert proved < 0.97 * proof.body.gamma * float((rows[i] - rows[j]).norm())
        assert float(gain_found(Ahead(made, i, j), x, steps=3).amax()) <= proved
    loose, tight = MarginProof(made)(x), proof(x)
    assert bool((tight.radius >= loose.radius).all()) and bool((tight.radius > loose.radius).any())


def test_a_stack_has_the_slopes_of_the_equilibrium_network_it_is() -> None:
    torch.manual_seed(1)
    stack = nn.Sequential(SLL(5), SLL(5), AOL(5, 4)).double().eval()
    one, other = (MarginProof(net, Margin.PAIRWISE).pairs for net in (stack, to_lben(stack)))
    assert one is not None and other is not None
    torch.testing.assert_close(one, other, rtol=1e-6, atol=0)


def test_what_has_no_layer_of_vectors_keeps_the_global_bound() -> None:
    plain = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).double()
    assert MarginProof(plain, Margin.PAIRWISE).pairs is None
    with pytest.raises(ValueError, match="needs a layer of vectors") as caught:
        MarginProof(plain, Margin.LIPSDP)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(importlib.util.find_spec("cvxpy") is not None, reason="cvxpy is there")
def test_a_program_without_cvxpy_says_what_to_install() -> None:
    with pytest.raises(ImportError, match=r"homotopy-deq\[sdp\]"):
        lipsdp(LBEN(2, 3, 2).form())
