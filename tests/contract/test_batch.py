"""A sample's answer does not depend on its batch mates, whatever becomes of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from solvers import Anderson, Broyden, Equilibrium, Flow, Picard, Solver, solve
from tests.problems import DOUBLE, contractions, linear, normal

from .every import EQUILIBRIUM, SPLITTINGS, AnySolver, every_solver_of_any_map, name, tuned

N = 6
MATES = ("easy", "hard", "rootless", "nan", "huge")


def mate(kind: str, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the condition (A, x, q) of one sample of z = A z + x + q z^2."""
    a = contractions(1, N, 0.97 if kind == "hard" else 0.4, seed)
    x = normal(seed + 1, 1, N)
    q = torch.zeros(1, 1, dtype=DOUBLE)
    if kind == "rootless":  # z = z + z^2 + 1
        a, x, q = torch.eye(N, dtype=DOUBLE)[None], torch.ones(1, N, dtype=DOUBLE), q + 1
    if kind == "nan":
        x = x * float("nan")
    if kind == "huge":
        x = 1e100 * x
    return a, x, q


def quadratic(z: Tensor, a: Tensor, x: Tensor, q: Tensor) -> Tensor:
    # Summed by hand: a matrix product may round another way in a batch of another size.
    return (a * z[:, None]).sum(2) + x + q * z * z


def together(samples: list[tuple[Tensor, Tensor, Tensor]], closed: bool) -> Equilibrium:
    condition = tuple(torch.cat(parts) for parts in zip(*samples, strict=True))
    if closed:
        return Equilibrium(lambda z: quadratic(z, *condition))
    return Equilibrium(quadratic, condition)


@every_solver_of_any_map
@pytest.mark.parametrize("closed", [False, True], ids=["condition", "closure"])
@pytest.mark.parametrize("kind", MATES)
def test_sample_does_not_see_its_batch_mates(solver: AnySolver, kind: str, closed: bool) -> None:
    mine, other = mate("easy", 0), mate(kind, 10)
    short = tuned(solver, max_steps=25)
    z0 = torch.zeros(3, N, dtype=DOUBLE)
    alone = solve(together([mine], closed), short, z0[:1])
    # First, last and between the others, at whose rows something may go wrong.
    for place in range(3):
        samples = [other, other]
        samples.insert(place, mine)
        found = solve(together(samples, closed), short, z0)
        assert alone.converged.all()
        assert found.status[place] == alone.status[0]
        assert found.steps[place] == alone.steps[0]
        # The tolerance is 1e-4; only rounding may differ.
        torch.testing.assert_close(found.value[place], alone.value[0], rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(found.residual[place], alone.residual[0], rtol=1e-5, atol=1e-12)


@every_solver_of_any_map
@given(
    kinds=st.lists(st.sampled_from(MATES), min_size=1, max_size=5),
    closed=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=3, phases=[Phase.explicit, Phase.generate])  # shrinking takes minutes
def test_batch_of_many_is_many_batches_of_one(
    solver: AnySolver, kinds: list[str], closed: bool, seed: int
) -> None:
    samples = [mate(kind, seed + 2 * k) for k, kind in enumerate(["easy", *kinds, "hard"])]
    short, z0 = tuned(solver, max_steps=15), torch.zeros(len(samples), N, dtype=DOUBLE)
    found = solve(together(samples, closed), short, z0)
    for k, sample in enumerate(samples):
        alone = solve(together([sample], closed), short, z0[:1])
        assert found.status[k] == alone.status[0]
        assert found.steps[k] == alone.steps[0]
        if alone.converged:
            torch.testing.assert_close(found.value[k], alone.value[0], rtol=1e-8, atol=1e-10)


def counting(problem: Equilibrium) -> tuple[Equilibrium, list[int]]:
    """Return the problem, and a list of the rows of each call of its map, as it is called."""
    rows: list[int] = []

    def call(z: Tensor, *condition: Tensor) -> Tensor:
        rows.append(z.shape[0])
        return problem.map(z, *condition)

    return replace(problem, map=call), rows


@pytest.mark.parametrize(
    ("solver", "a_step"),
    [(Picard(), 1), (Anderson(), 1), (Broyden(), 1), (Flow(), 3)],
    ids=lambda value: name(value) if isinstance(value, Solver) else "",
)
@pytest.mark.parametrize("closed", [False, True], ids=["condition", "closure"])
def test_each_sample_pays_for_its_own_steps(solver: AnySolver, a_step: int, closed: bool) -> None:
    samples = [mate("easy", 0), mate("hard", 4), mate("easy", 6), mate("rootless", 0)]
    problem, rows = counting(together(samples, closed))
    found = solve(problem, solver, torch.zeros(4, N, dtype=DOUBLE))
    assert found.evals.equal(1 + a_step * found.steps)
    assert len(set(found.steps.tolist())) > 2  # the batch was worth the test
    assert len(rows) == int(found.evals.max()) + 1  # which asks whether rows depend on each other


@every_solver_of_any_map
def test_every_call_of_the_map_is_counted(solver: AnySolver) -> None:
    case = linear(batch=1, norm=0.8)
    problem, rows = counting(case.problem)
    # A product with the Jacobian counts as well, and calls nothing where it comes off a graph.
    assert int(solve(problem, solver, case.z0).evals) >= len(rows)


@every_solver_of_any_map
def test_finished_samples_cost_no_more_evaluations(solver: AnySolver) -> None:
    samples = [mate("easy", 2 * k) for k in range(7)] + [mate("hard", 40)]
    problem, rows = counting(together(samples, closed=False))
    solver = tuned(solver, rtol=1e-9, max_steps=500)
    found = solve(problem, solver, torch.zeros(8, N, dtype=DOUBLE)).check()
    # The map runs on the batch that is left, at most 4/3 of what runs.
    assert sum(rows) <= 4 / 3 * int(found.evals.sum()) + 8
    assert min(rows) < 8 or len(set(found.steps.tolist())) == 1


def test_all_solvers_were_tested() -> None:
    import solvers

    concrete = {
        value
        for value in vars(solvers).values()
        if isinstance(value, type) and issubclass(value, Solver) and value is not Solver
    }
    wanted = {x.__name__ for x in concrete if issubclass(x.answers, Equilibrium)}
    missing = wanted - {name(solver) for solver in [*EQUILIBRIUM, *SPLITTINGS]}
    assert not missing, f"add {missing} to tests/contract/every.py"
