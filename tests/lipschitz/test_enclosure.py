"""Equilibria are found fast, and how far what is found may be off is proved, however it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from homotopy_deq.lipschitz import LBEN, SLL, EquilibriumNetwork, MarginProof, MonDEQ, to_lben
from homotopy_deq.lipschitz.cells import LBENCell
from homotopy_deq.lipschitz.enclosure import Enclosure
from solvers import PeacemanRachford

GRID = (6, 6)
EXACT = PeacemanRachford(step_size=0.5, rtol=1e-14, max_steps=5000)


def tuned(seed: int, shift: float = 0.01) -> nn.Sequential:
    """Return LBENs of explicit networks, moved as by training: most at the constant images."""
    torch.manual_seed(seed)
    image = nn.Sequential(SLL(3, grid=GRID, kernel=3), SLL(3, grid=GRID, kernel=3))
    dense = nn.Sequential(SLL(27, 16))
    pool = nn.AvgPool2d(2, divisor_override=2)
    network = nn.Sequential(*image, pool, nn.Flatten(), *dense, nn.Linear(27, 4)).double().eval()
    made = to_lben(network[:5])
    assert isinstance(made, nn.Sequential)
    with torch.no_grad():
        for cell in (part for part in made.modules() if isinstance(part, LBENCell)):
            for p in (cell.gram, cell.skew, cell.v, cell.u):
                p.add_(shift * (1 + 0.3 * torch.randn_like(p)))
    return nn.Sequential(*made, network[5]).eval()


def exact(network: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    """Return the value at equilibria that another path finds, to rounding."""
    for part in network:
        if isinstance(part, EquilibriumNetwork):
            layer = part.layer.with_solver(EXACT)
            layer.on_failure = "ignore"  # it goes on until rounding ends it
            x = part.cell.read(layer(x))
        else:
            x = part(x)
    return x


@pytest.mark.parametrize("seed", range(3))
def test_a_radius_is_that_of_the_exact_equilibria_to_a_millionth_and_never_above(seed: int) -> None:
    network = tuned(seed)
    x = torch.rand(20, 3, *GRID, dtype=torch.float64)
    proof = MarginProof(network)
    found = proof(x)
    with torch.no_grad():
        logits, rows = exact(network, x), network[-1].weight
    assert isinstance(rows, torch.Tensor)
    y = logits.argmax(1, keepdim=True)
    apart = torch.cdist(rows, rows)[y[:, 0]].scatter(1, y, 1.0)
    radius = (logits.gather(1, y) - logits) / (proof.body.gamma * apart)
    best = radius.scatter(1, y, float("inf")).amin(1).detach()
    # The exact equilibria are off by 1e-14 of themselves, 1e-10 of the smallest radius at most.
    assert bool((found.radius <= best * (1 + 1e-9)).all())
    assert bool((found.radius >= best * (1 - 1e-6)).all())


@pytest.mark.parametrize("rtol", [0.5, 1e-2, 1e-6])
@pytest.mark.parametrize("kind", ["tuned", "lben", "mondeq", "image"])
def test_a_value_is_off_by_no_more_than_its_bound_however_loosely_it_was_found(
    kind: str, rtol: float
) -> None:
    torch.manual_seed(0)
    made = {
        "tuned": lambda: tuned(0)[:-1],
        "lben": lambda: nn.Sequential(LBEN(5, 12, 3)),
        "mondeq": lambda: nn.Sequential(MonDEQ(5, 12, 3, monotonicity=0.3)),
        "image": lambda: nn.Sequential(LBEN(3, 5, 2, grid=GRID)),
    }
    network = made[kind]().double().eval()
    shape = (5,) if kind in ("lben", "mondeq") else (3, *GRID)
    x = torch.randn(30, *shape, dtype=torch.float64)
    y, error = Enclosure(network)(x, rtol)
    with torch.no_grad():
        off = torch.linalg.vector_norm((y - exact(network, x)).flatten(1), dim=1)
    assert bool((off <= error).all())
    assert bool(error.isfinite().all())


def test_few_directions_that_lag_take_a_fifth_of_the_evaluations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cell = tuned(0, 0.05)[0].cell
    assert isinstance(cell, LBENCell)
    x = torch.rand(10, 3, *GRID, dtype=torch.float64)
    solver = PeacemanRachford(step_size=1.0, rtol=1e-10, max_steps=2000)
    network = EquilibriumNetwork(cell, solver)
    before = int(network.layer.solve(x).evals.max())
    enclosure, counters = Enclosure(nn.Sequential(network)), []
    plain = LBENCell.equation

    def counting(self: LBENCell, condition: tuple[torch.Tensor, ...]) -> object:
        problem, counter = plain(self, condition).counted()
        counters.append(counter)
        return problem

    monkeypatch.setattr(LBENCell, "equation", counting)
    enclosure(x, 1e-10)
    assert 0 < sum(counter.count for counter in counters) < before / 5


def test_a_class_that_is_proved_alone_is_the_one_that_has_a_radius() -> None:
    proof = MarginProof(tuned(0))
    x = torch.rand(40, 3, *GRID, dtype=torch.float64)
    assert torch.equal(proof.classes(x), proof(x).prediction)
