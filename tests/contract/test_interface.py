"""What goes in and comes out: shapes, trajectories, settings, and errors that say what to do."""

from __future__ import annotations

import copy
import inspect
import pickle
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import solvers
from solvers import (
    GMRES,
    ODE,
    Anderson,
    ArcLength,
    Broyden,
    BySize,
    Continuation,
    DeltaAnderson,
    DeltaPicard,
    Equilibrium,
    Evaluated,
    Flow,
    InitialValue,
    NewtonKrylov,
    Phantom,
    Picard,
    PseudoTransient,
    Then,
    solve,
)
from solvers.homotopy import StepControl
from tests.problems import half, linear, normal, rootless, shared

from .every import (
    EQUILIBRIUM,
    EVALUATING,
    SPLITTINGS,
    AnySolver,
    every,
    every_solver,
    every_solver_of_any_map,
    tuned,
)


@every_solver
def test_trajectory_leads_from_the_start_to_the_value(solver: AnySolver) -> None:
    case = shared(batch=3, norm=0.8)
    start = normal(9, 3, 6)
    found = solve(case.problem, tuned(solver, rtol=1e-6), start, record=True).check()
    path = found.trajectory
    assert path is not None
    rows = int(found.steps.max()) + 1
    assert path.z.shape == (rows, 3, 6)
    assert path.residual.shape == (rows, 3)
    assert path.evals.shape == (rows,)
    assert path.z[0].equal(start)
    assert path.z[-1].equal(found.value)
    assert path.residual[-1].equal(found.residual)
    assert (path.evals.diff() > 0).all()
    if solver in EVALUATING:  # the evaluations of a path differ by the sample
        assert path.evals[-1] == found.evals.max()
    for k, steps in enumerate(found.steps.tolist()):
        assert (path.z[steps:, k] == found.value[k]).all()  # a finished sample stays
    plain = solve(case.problem, tuned(solver, rtol=1e-6), start)
    assert plain.trajectory is None
    assert plain.steps.equal(found.steps)
    torch.testing.assert_close(plain.value, found.value, rtol=1e-9, atol=1e-12)


@every_solver_of_any_map
def test_trajectory_of_a_failed_sample_ends_in_the_value_too(solver: AnySolver) -> None:
    found = solve(rootless(2), tuned(solver, max_steps=60), normal(0, 2, 3), record=True)
    assert found.trajectory is not None
    assert found.trajectory.z[-1].equal(found.value)


@pytest.mark.parametrize("solver", [Flow(), Continuation(), ArcLength()])
def test_time_of_a_finished_sample_stands_still(solver: AnySolver) -> None:
    case = linear(batch=2, a=None, norm=0.9)
    easy = case.problem.condition[0].clone()  # type: ignore[index]
    easy[0] *= 0.1
    problem = Equilibrium(case.problem.map, (easy, case.problem.condition[1]))  # type: ignore[index]
    found = solve(problem, solver, case.z0, record=True).check()
    assert found.trajectory is not None and found.trajectory.time is not None
    time = found.trajectory.time
    for k, steps in enumerate(found.steps.tolist()):
        assert (time[steps:, k] == time[steps, k]).all()


@every_solver
def test_arguments_are_never_written_to(solver: AnySolver) -> None:
    case = shared()
    inputs = (normal(5, 4, 6), *case.problem.condition)  # type: ignore[misc]
    before = [tensor.clone() for tensor in inputs]
    for record in (False, True):
        found = solve(case.problem, tuned(solver, rtol=1e-8), inputs[0], record=record)
        assert all(a.equal(b) for a, b in zip(inputs, before, strict=True))
    found.value.zero_()  # the answer is the caller's
    assert inputs[0].equal(before[0])


@every_solver_of_any_map
def test_answer_carries_no_graph(solver: AnySolver) -> None:
    weight = torch.full((3, 3), 0.1, dtype=torch.float64, requires_grad=True)
    problem = Equilibrium(lambda z: z @ weight + 1)
    found = solve(problem, solver, torch.zeros(2, 3, dtype=torch.float64, requires_grad=True))
    assert not found.value.requires_grad
    assert not found.residual.requires_grad


@every_solver
def test_same_solve_gives_the_same_answer(solver: AnySolver) -> None:
    case = shared(norm=0.9)
    one, two = (solve(case.problem, solver, case.z0) for _ in range(2))
    assert one.value.equal(two.value) and one.evals.equal(two.evals)


@every_solver
def test_settings_are_frozen_compared_by_value_copied_and_pickled(solver: AnySolver) -> None:
    with pytest.raises(FrozenInstanceError):
        solver.rtol = 1.0  # type: ignore[misc]
    for twin in (copy.deepcopy(solver), pickle.loads(pickle.dumps(solver))):
        assert twin == solver and hash(twin) == hash(solver)
    assert type(solver).__name__ in repr(solver)


def told(kind: Any) -> str:
    """Return a class with its defaults, and which of them may be given by position."""
    given = inspect.signature(kind).parameters.values()
    return f"{kind()!r} by position: {[x.name for x in given if x.kind is not x.KEYWORD_ONLY]}"


def test_defaults_are_those_of_the_published_figures() -> None:
    written = (Path(__file__).parent / "defaults.txt").read_text().splitlines()
    kinds = [getattr(solvers, line.partition("(")[0]) for line in written]
    assert [told(kind) for kind in kinds] == written
    mine = {type(each) for each in [*EQUILIBRIUM, *SPLITTINGS]} - {Then}
    assert mine <= set(kinds)


@every_solver
def test_misspelt_settings_are_type_errors(solver: AnySolver) -> None:
    with pytest.raises(TypeError, match="tollerance"):
        type(solver)(tollerance=1e-3)


BAD: list[tuple[Any, str, Any]] = [
    *((each, "rtol", -1e-3) for each in (Picard, Anderson, ODE)),
    *((each, "atol", -1.0) for each in (Broyden, Flow)),
    (NewtonKrylov, "rtol", 0.0),
    (NewtonKrylov, "rtol", float("nan")),
    *((each, "max_steps", -1) for each in (Picard, Continuation, ODE)),
    *((DeltaPicard, "theta", theta) for theta in (-0.1, 1.0)),
    (DeltaPicard, "tau", -1.0),
    (DeltaPicard, "damping", 0.0),
    (DeltaPicard, "refresh", 0),
    (DeltaPicard, "contraction", 1.0),
    (DeltaPicard, "norm", 1.0),
    (DeltaAnderson, "memory", 0),
    (DeltaAnderson, "growth", 1.0),
    (DeltaAnderson, "regularization", -1.0),
    (Picard, "damping", 0.0),
    (Picard, "damping", 1.5),
    (Anderson, "memory", 0),
    (Anderson, "damping", 1.5),
    (Anderson, "regularization", -1e-8),
    (Anderson, "growth", 1.0),
    (Anderson, "period", 0),
    (Broyden, "memory", 0),
    (Broyden, "growth", 0.5),
    (GMRES, "krylov", 0),
    (BySize, "krylov", 0),
    (NewtonKrylov, "halvings", -1),
    (PseudoTransient, "delta", 0.0),
    (PseudoTransient, "growth", 1.0),
    (ArcLength, "theta", 1.0),
    (BySize, "dense", -1),
    (Flow, "error", 0.0),
    (Flow, "h", 2.0),
    (StepControl, "ds", 0.0),
    (StepControl, "min_ds", 1.0),
    (ODE, "method", "dopri6"),
    (ODE, "step_size", 0.0),
    (Phantom, "steps", 0),
    (Phantom, "damping", 0.0),
]


@pytest.mark.parametrize(
    ("kind", "setting", "value"), BAD, ids=[f"{k.__name__}-{s}-{v}" for k, s, v in BAD]
)
def test_bad_setting_is_named_with_its_value(kind: Any, setting: str, value: Any) -> None:
    with pytest.raises(ValueError, match=setting) as error:
        kind(**{setting: value})
    assert str(value) in str(error.value)
    if kind is not Phantom:
        with pytest.raises(ValueError, match=setting):
            replace(kind(), **{setting: value})


def test_unknown_ode_method_lists_the_valid_ones() -> None:
    with pytest.raises(ValueError, match="dopri5.*rk4"):
        ODE("dopri6")


def test_escalation_takes_solvers_of_equilibria() -> None:
    with pytest.raises(ValueError, match="at least one solver"):
        Then()
    for wrong in (ODE(), Anderson, "anderson"):
        with pytest.raises(TypeError, match="solvers of an Equilibrium"):
            Then(Anderson(), wrong)  # type: ignore[arg-type]


@every_solver
def test_state_without_batch_is_refused_with_advice(solver: AnySolver) -> None:
    with pytest.raises(ValueError, match=r"batch first.*\(5,\).*z0\[None\].*z0\[:, None\]"):
        solve(half(torch.zeros(5, 1)), solver, torch.zeros(5))


@pytest.mark.parametrize("start", [torch.zeros(2, 3, dtype=torch.int64), [[0.0]], None])
@every_solver
def test_start_that_is_no_floating_tensor_is_refused(solver: AnySolver, start: Any) -> None:
    with pytest.raises(ValueError, match="floating-point tensor"):
        solve(half(torch.zeros(2, 3)), solver, start)


@every_solver_of_any_map
def test_map_of_another_shape_is_refused(solver: AnySolver) -> None:
    with pytest.raises(ValueError, match="map must return"):
        solve(Equilibrium(lambda z: z[:, :2]), solver, torch.zeros(2, 3))
    # A map that broadcasts would couple the batch without a word.
    with pytest.raises(ValueError, match="map must return"):
        solve(Equilibrium(lambda z: z.mean(0)), solver, torch.zeros(2, 3))


@every_solver_of_any_map
def test_condition_of_another_batch_is_refused(solver: AnySolver) -> None:
    problem = Equilibrium(lambda z, x: 0.5 * z + x, (torch.zeros(1, 3),))
    with pytest.raises(ValueError, match=r"condition\[0\]"):
        solve(problem, solver, torch.zeros(2, 3))


@every_solver
def test_initial_value_problem_is_refused_with_advice(solver: AnySolver) -> None:
    with pytest.raises(TypeError, match="Use ODE"):
        solve(InitialValue(lambda t, z: -z), solver, torch.zeros(2, 3))


def test_ode_refuses_an_equilibrium_with_advice() -> None:
    with pytest.raises(TypeError, match="Use Anderson"):
        solve(Equilibrium(lambda z: 0.5 * z), ODE(), torch.zeros(2, 3))  # type: ignore[arg-type]


def test_class_in_place_of_a_solver_is_refused_with_advice() -> None:
    for wrong in (Anderson, "anderson", None):
        with pytest.raises(TypeError, match=r"Solver such as Anderson\(\)"):
            solve(Equilibrium(lambda z: 0.5 * z), wrong, torch.zeros(2, 3))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "start",
    [(), (torch.zeros(2, 3), torch.zeros(3, 3)), (torch.zeros(2, 3), torch.zeros(2, 3).double())],
    ids=["empty", "batches", "dtypes"],
)
def test_tuple_of_unlike_tensors_is_refused(start: tuple[Tensor, ...]) -> None:
    with pytest.raises(ValueError, match="one batch size"):
        solve(Equilibrium(lambda z: z), Anderson(), start)  # type: ignore[arg-type, return-value]


def test_map_that_drops_a_part_of_the_tuple_is_refused() -> None:
    problem = Equilibrium(lambda z: z[:1])
    with pytest.raises(ValueError, match="2 tensors; got 1"):
        solve(problem, Anderson(), (torch.zeros(2, 3), torch.zeros(2, 1)))


def test_time_interval_of_no_length_is_refused() -> None:
    with pytest.raises(ValueError, match="t0 and t1"):
        InitialValue(lambda t, z: z, 0.5, 0.5)


@every_solver
def test_empty_batch_has_an_empty_answer(solver: AnySolver) -> None:
    found = solve(half(torch.zeros(0, 3)), solver, torch.zeros(0, 3)).check()
    assert found.value.shape == (0, 3)
    assert found.status.shape == found.evals.shape == (0,)


@every([*EVALUATING, *SPLITTINGS])
def test_states_hold_the_value_of_the_map(solver: AnySolver) -> None:
    case = shared(batch=3, norm=0.8)
    state = solver.init(case.problem, normal(9, 3, 6))
    for _ in range(5):
        state = solver.step(case.problem, state)
        assert torch.allclose(state.fz, case.problem(state.z), rtol=1e-12, atol=1e-12)


@every([solver for solver in EQUILIBRIUM if solver not in EVALUATING])
def test_states_of_a_path_or_a_ladder_hold_a_verdict(solver: AnySolver) -> None:
    case = linear(batch=3, norm=0.8)
    state = solver.step(case.problem, solver.init(case.problem, normal(9, 3, 6)))
    assert not isinstance(state, Evaluated)
    assert state.status.shape == state.evals.shape == (3,)
