"""When the coordinates of a trained model converge, and what would make its solves cheaper."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from solvers import Anderson, Equilibrium, Picard, Solution, solve
from solvers.delta import Blocks, DeltaPicard
from solvers.norms import relative

from ..cells.cell import hook
from ..layers import ImplicitLayer
from ..models.image import ImageModel
from ..twin import twin
from .accounts import account
from .convergence import Convergence, settled
from .delta import DeltaLayer, delta

LENGTH = 200  # steps after which a solve ends that has not converged
DAMPINGS = (1.0, 0.5, 0.25)  # tried in this order until all samples converge
SHARPER = 1e-2  # the answer that others are compared with is solved to this part of the tolerance
BF16 = 1e-2  # the residual asked of bfloat16, whose unit is 2^-8, before float32 goes on

Runs = Mapping[str, Callable[[], Solution[Tensor]]]


@dataclass(frozen=True)
class Way:
    """What one way to solve took, for all images together.

    Arguments:
        seconds: median of the repeats.
        evaluations: of the map, mean a sample.
        multiply_adds: in the cell's linear layers and convolutions; NaN where these are not known.
        residual: the worst, ||f(z) - z|| / ||f(z)||, by the model's own map and precision.
        solved: share of the samples whose residual is within the tolerance.
        agrees: share of the samples whose class is that of the most exact answer.
    """

    seconds: float
    evaluations: float
    multiply_adds: float
    residual: float
    solved: float
    agrees: float


@dataclass(frozen=True)
class Profile:
    """When the entries of a model's state come to rest, and what each way to solve took.

    Arguments:
        convergence: of plain iteration, on the samples that it converged on.
        samples: how many these are.
        damping: of the iteration: 1 but where it converges for more samples with less.
        tolerance: within which an entry is at rest, absolute.
        ways: by name; the first, fixed iterations, is what the others are measured against.
        failed: why a way could not be run, by its name.
    """

    convergence: Convergence
    samples: int
    damping: float
    tolerance: float
    ways: Mapping[str, Way]
    failed: Mapping[str, str]

    def saved(self) -> dict[str, dict[str, float]]:
        """Return the time and the multiply-adds of each way, in parts of the first's."""
        base = next(iter(self.ways.values()))
        return {
            name: {
                "time": way.seconds / base.seconds,
                "multiply-adds": way.multiply_adds / base.multiply_adds,
            }
            for name, way in self.ways.items()
        }


@torch.no_grad()
def profile(
    model: ImageModel,
    images: Tensor,
    *,
    rtol: float = 1e-3,
    iterations: int = 40,
    repeats: int = 3,
    compiled: bool = True,
) -> Profile:
    """Measure when each coordinate of a model's state converges, and what could be saved.

    Each way solves the same equation from the model's start: a fixed number of iterations, stopped
    early, Anderson, delta updates, with the cell compiled, and begun in bfloat16. Residuals are
    verified afterwards by the model's own map; neither that nor stem and head are in the times.

    Arguments:
        model: with an equilibrium, in eval mode.
        images: (B, C, H, W), in [0, 1].
        rtol: relative residual to solve to.
        iterations: the fixed number.
        repeats: timings of each way, in turns.
        compiled: whether the compiled cell is measured; to compile it may take a minute.

    Raises:
        ValueError: the flow has no rest point, or the iteration converges for no image.
    """
    if not model.layer.rest_point:
        raise ValueError(
            f"{type(model).__name__} follows a flow without a rest point: there is no equilibrium "
            "whose solves could be profiled."
        )
    x = model.condition(images)
    start, condition = model.start(x), model.layer.condition(x)
    equation = model.layer.equation(condition)
    picard, states = _iteration(equation, start, rtol)
    tolerance = rtol * float(states[-1].double().square().mean().sqrt())
    layer = model.layer.with_solver(picard)
    assert isinstance(layer, ImplicitLayer)
    runs, failed = _runs(layer, equation, condition, start, iterations, compiled)
    found, seconds, broken = _timed(runs, repeats, images.device)
    dense = _dense(layer, x, start)
    exact = solve(equation, Anderson(rtol=SHARPER * rtol, max_steps=LENGTH), start).value
    classes = model.head(exact).argmax(1)

    def judged(name: str) -> Way:
        z, evals = found[name].value, float(found[name].evals.double().mean())
        residual = relative(equation(z) - z, equation(z))
        spent = found[name].work if name == "delta" else None
        return Way(
            seconds[name],
            evals,
            evals * len(images) * dense if spent is None else spent,
            float(residual.max()),
            float((residual <= rtol).double().mean()),
            float((model.head(z).argmax(1) == classes).double().mean()),
        )

    return Profile(
        settled(states, tolerance),
        states.shape[1],
        picard.damping,
        tolerance,
        {name: judged(name) for name in found},
        failed | broken,
    )


def _iteration(equation: Equilibrium, start: Tensor, rtol: float) -> tuple[Picard, Tensor]:
    """Return the iteration, damped if it must be, and the states (T, B, ...) of what converged."""
    best: Solution[Tensor] | None = None
    picard = Picard(rtol=rtol)
    for damping in DAMPINGS:
        sharp = Picard(rtol=SHARPER * rtol, max_steps=LENGTH, damping=damping)
        path = solve(equation, sharp, start, record=True)
        if best is None or int(path.converged.sum()) > int(best.converged.sum()):
            best, picard = path, replace(sharp, rtol=rtol)
        if bool(path.converged.all()):
            break
    assert best is not None and best.trajectory is not None
    if not bool(best.converged.any()):
        raise ValueError(
            f"iteration converges for none of {len(start)} images in {LENGTH} steps, damped or "
            "not, so no coordinate comes to rest. Train with a contraction, or loosen rtol."
        )
    rows = best.converged.nonzero().squeeze(1)
    return picard, best.trajectory.z.index_select(1, rows)


def _runs(
    layer: ImplicitLayer,
    equation: Equilibrium,
    condition: tuple[Tensor, ...],
    start: Tensor,
    iterations: int,
    compiled: bool,
) -> tuple[Runs, dict[str, str]]:
    """Return the ways to solve by name, and why one cannot be tried."""
    picard = layer.solver
    assert isinstance(picard, Picard)
    fixed = replace(picard, rtol=torch.finfo(start.dtype).tiny, max_steps=iterations)
    runs: dict[str, Callable[[], Solution[Tensor]]] = {
        f"{iterations} iterations": lambda: solve(equation, fixed, start),
        "stopped early": lambda: solve(equation, picard, start),
        "Anderson": lambda: solve(
            equation, Anderson(rtol=picard.rtol, max_steps=picard.max_steps), start
        ),
    }
    failed: dict[str, str] = {}
    by_changes = DeltaPicard(
        together=Blocks(), rtol=picard.rtol, max_steps=LENGTH, damping=picard.damping
    )
    changes = delta(layer, solver=by_changes)
    runs["delta"] = lambda: changes.answer(condition, start)
    own = f"{type(layer.cell).__name__} poses an equation of its own, which is not the cell's call"
    if hook(layer.cell, "equation") is not None:
        failed |= {"compiled": own, "bf16, then float32": own}
        return runs, failed

    def lowered() -> Solution[Tensor]:
        with torch.autocast(start.device.type, torch.bfloat16):
            low = solve(equation, replace(picard, rtol=BF16), start)
        high = solve(equation, picard, low.value)
        return replace(high, evals=low.evals + high.evals)

    runs["bf16, then float32"] = lowered
    if compiled:
        fast = layer.with_solver(picard)
        fast.cell = torch.compile(twin(layer.cell))  # type: ignore[assignment]
        runs["compiled"] = lambda: fast.answer(condition, start)
    return runs, failed


def _timed(
    runs: Runs, repeats: int, device: torch.device
) -> tuple[dict[str, Solution[Tensor]], dict[str, float], dict[str, str]]:
    """Return what each way finds, its median seconds, and the first line of why one cannot run."""
    found: dict[str, Solution[Tensor]] = {}
    failed: dict[str, str] = {}
    taken: dict[str, list[float]] = {}
    for name, run in runs.items():  # warm: what is compiled, allocated or calibrated is so now
        try:
            found[name] = run()
        except (RuntimeError, ValueError, OSError) as error:
            failed[name] = str(error).strip().split("\n")[0]
    for _ in range(repeats):
        for name in found:
            _wait(device)
            begun = time.perf_counter()
            runs[name]()
            _wait(device)
            taken.setdefault(name, []).append(time.perf_counter() - begun)
    return found, {name: statistics.median(each) for name, each in taken.items()}, failed


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _dense(layer: ImplicitLayer, x: Tensor, start: Tensor) -> float:
    """Return the multiply-adds of one dense evaluation of one sample, NaN where not known."""
    try:
        changes = delta(layer)
        assert isinstance(changes, DeltaLayer)
        layers = account(changes, x[:1], start[:1]).layers
    except ValueError:
        return math.nan
    return float(sum(each.dense for each in layers if not each.hoisted))
