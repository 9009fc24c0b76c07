"""Thresholds that are chosen for a loss keep to it, and save what they say."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from homotopy_deq import ImplicitLayer, Picard
from homotopy_deq.acceleration import tune
from homotopy_deq.models import DEQ


class TwoLayers(nn.Module):
    """f(z; x) = V tanh(W z) + x, of a state whose coordinates converge at unlike rates."""

    rowwise = True

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.first = nn.Linear(size, hidden, bias=False)
        self.second = nn.Linear(hidden, size, bias=False)
        for layer in (self.first, self.second):
            nn.init.orthogonal_(layer.weight)
        with torch.no_grad():
            self.second.weight.mul_(torch.linspace(0.1, 0.9, size)[:, None])

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        out: Tensor = self.second(torch.tanh(self.first(z))) + x
        return out


@pytest.fixture
def layer() -> ImplicitLayer:
    return ImplicitLayer(TwoLayers(24, 32), Picard(rtol=1e-6))


@pytest.fixture
def data(layer: ImplicitLayer) -> list[tuple[Tensor, Tensor]]:
    xs = torch.randn(2, 8, 24)
    with torch.no_grad():
        return [(x, layer.solve(x).value + 0.1) for x in xs]


@pytest.mark.parametrize("budget", [1e-6, 1e-3])
def test_loss_stays_within_the_budget_and_work_below_dense(
    layer: ImplicitLayer, data: list[tuple[Tensor, Tensor]], budget: float
) -> None:
    found = tune(layer, data, budget, loss=F.mse_loss)
    with torch.no_grad():
        again = sum(float(F.mse_loss(found.target.solve(x).value, y)) for x, y in data) / 2
    assert found.loss == again <= found.exact + budget
    assert found.spent < found.dense
    assert found.exact == pytest.approx(0.01, rel=1e-3)  # 0.1^2


def test_a_larger_budget_saves_more(
    layer: ImplicitLayer, data: list[tuple[Tensor, Tensor]]
) -> None:
    tight, loose = (tune(layer, data, budget, loss=F.mse_loss) for budget in (1e-5, 1e-2))
    assert loose.spent < tight.spent
    assert loose.tau["z"] > tight.tau["z"]


def test_a_model_is_tuned_by_its_logits() -> None:
    model = DEQ((1, 8, 8), 3, hidden=4, head=4, groups=2, solver=Picard(rtol=1e-4)).eval()
    x, y = torch.rand(6, 1, 8, 8), torch.randint(3, (6,))
    found = tune(model, [(x, y)], 0.05)
    with torch.no_grad():
        assert found.loss == float(F.cross_entropy(found.target.solve(x).logits, y))
    assert found.loss <= found.exact + 0.05
    assert found.spent <= found.dense


@pytest.mark.parametrize("budget", [0.0, float("nan"), float("inf")])
def test_a_budget_that_is_none_is_refused(layer: ImplicitLayer, budget: float) -> None:
    with pytest.raises(ValueError, match="loss_budget must be above 0 and finite"):
        tune(layer, [(torch.randn(2, 24), torch.randn(2, 24))], budget)


def test_no_data_are_refused(layer: ImplicitLayer) -> None:
    with pytest.raises(ValueError, match="data must hold a batch"):
        tune(layer, [], 0.1)


def test_a_budget_that_no_threshold_keeps_is_told(
    layer: ImplicitLayer, data: list[tuple[Tensor, Tensor]]
) -> None:
    def touchy(z: Tensor, y: Tensor) -> Tensor:
        return 1e12 * F.mse_loss(z, y - 0.1)  # y - 0.1 is what was solved: nothing is nearer

    with pytest.raises(ValueError, match="even the smallest threshold.*Raise the budget"):
        tune(layer, data, 1e-9, loss=touchy)
