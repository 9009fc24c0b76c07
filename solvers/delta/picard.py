"""Picard iteration that moves, and pays for, only the entries that still change."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..norms import expand, relative
from ..picard import Picard
from ..problem import Equilibrium
from ..solution import ErrorBound
from ..solver import Evaluated, Solver, earned, judged, residual_norm, start, verdict
from ..status import Status
from ..structure import offered
from .evaluate import evaluate, updating
from .state import DeltaState, ended
from .together import Entries, Limit, Together, peak, replaced

THETA = 0.3
"""The default threshold, relative to the largest change."""


@dataclass(frozen=True)
class DeltaPicard(Solver[Equilibrium, DeltaState]):
    """Iterate z <- f(z) on the entries that change by more than a threshold:

        r_i <- f(r)_i  where |f(r) - r|_i > tau,

    and r_i stays elsewhere. r is what was last propagated, so f(r) is exact and no change is ever
    lost: skipped ones add up until they pass the threshold. A map that offers `updated` (see
    `solvers.structure.Structured` and `homotopy_deq.acceleration`) pays for the entries that move;
    any other is evaluated densely, along the same path. Such a map may say that it does not pay to
    look for changes, in this solve or for some steps: where no threshold is fixed and no bound
    wanted, these steps move all entries, as those of `Picard` do.

    With `tau` a sample comes to rest where no entry moves. For an l-contraction the answer
    z = f(r) is then within l tau / (1 - l) of the exact one in the maximum norm, and within
    l tau sqrt(n) / (1 - l) in the 2-norm, if f contracts in that norm. With `theta` the threshold
    is theta ||f(r) - r||_inf, and for theta < 1 - l in the maximum norm ||f(r) - r||_inf falls to
    at most l + theta of itself each step, down to the exact fixed point.

    A sample that meets the tolerance or rests takes a last step with all its entries to a z where
    the map is evaluated densely, as the user wrote it. It is CONVERGED if that residual meets the
    tolerance; one that rests above it ends AT_THRESHOLD.

    Arguments:
        tau: the threshold of all steps, in the state's units; leaves `theta` out.
        theta: the threshold relative to the largest change of the sample, in [0, 1); .3 where
            neither is given.
        damping: the share beta in (0, 1] of its change that an entry moves by.
        refresh: steps from one dense evaluation to the next, which takes the drift of rounding out.
        together: which entries move together: `Entries()`, each by itself, or `Blocks()`, what fast
            kernels compute together.
        contraction: l < 1 with ||f(a) - f(b)|| <= l ||a - b||, whatever the condition:
            `Solution.bound` is then given. It is believed.
        norm: of that contraction and of the bounds, 2 or inf.
        bounded: ask the map for its `lipschitz` where no contraction is given, once per solve: a
            singular value decomposition. Nothing is claimed if it offers none or one above 1.
        previous: for comparison, the rule as published: the reference of a change is the previous
            iterate, so that skipped changes are lost. No bound holds, and none is claimed.

    References:
        Z. Wang, L. Cheng, P. Moure, N. Hahn, S.-C. Liu (2024), DeltaDEQ: exploiting heterogeneous
        convergence for accelerating deep equilibrium iterations. The reference there is the
        previous iterate.
    """

    max_steps: int = field(default=200, kw_only=True)
    tau: float | None = None
    theta: float | None = None
    damping: float = 1.0
    refresh: int = 50
    together: Together = field(default=Entries(), kw_only=True)
    contraction: float | None = field(default=None, kw_only=True)
    norm: float = field(default=2.0, kw_only=True)
    bounded: bool = field(default=False, kw_only=True)
    previous: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tau is not None and self.theta is not None:
            raise ValueError(f"give tau or theta; got tau={self.tau} and theta={self.theta}.")
        if self.tau is not None and not 0 <= self.tau < math.inf:
            raise ValueError(f"tau must be at least 0 and finite; got {self.tau}.")
        if self.theta is not None and not 0 <= self.theta < 1:
            raise ValueError(f"theta must be in [0, 1); got {self.theta}.")
        if not 0 < self.damping <= 1:
            raise ValueError(f"damping must be in (0, 1]; got {self.damping}.")
        if self.refresh < 1:
            raise ValueError(f"refresh must be at least 1; got {self.refresh}.")
        if self.contraction is not None and not 0 <= self.contraction < 1:
            raise ValueError(f"contraction must be in [0, 1); got {self.contraction}.")
        if self.norm not in (2, math.inf):
            raise ValueError(f"norm must be 2 or inf; got {self.norm}.")

    @property
    def compacts_below(self) -> float:
        return 0.5  # what the map keeps is copied

    def limit(self, change: Tensor, left: Tensor) -> Limit:
        """Return the threshold of a step that would change the state by so much, (B, ...).

        Arguments:
            change: of all entries.
            left: residual over tolerance, (B,).
        """
        if self.tau is not None:
            return Limit(self.tau, self.together)
        theta = THETA if self.theta is None else self.theta
        return Limit(self.together.relative(change, theta, left), self.together)

    def suited(self, problem: Equilibrium, z0: Tensor) -> Solver[Equilibrium, Any]:
        pays = offered(problem.map, "pays")
        if pays is None or not self._free:
            return self
        worth = updating(problem)[1] is not None and pays(z0, *problem.inputs)
        return self if worth else self._plain()

    @property
    def _free(self) -> bool:
        """Whether all entries may move as well: nothing is promised of those that need not."""
        fixed = self.tau is not None or self.previous
        return not fixed and self.contraction is None and not self.bounded

    def _plain(self) -> Solver[Equilibrium, Any]:
        """Return the solver whose steps move all entries."""
        return Picard(
            rtol=self.rtol, atol=self.atol, max_steps=self.max_steps, damping=self.damping
        )

    def init(self, problem: Equilibrium, z0: Tensor) -> DeltaState:
        there = start(problem, z0)
        first, code = residual_norm(there), judged(self, there)
        state = DeltaState(
            z0,
            there.residual,
            there.fz,
            gap=there.fz - z0,
            before=z0,
            sent=z0,
            cached=None,
            first=first,
            count=0,
            contraction=self._known(problem),
            held=ended(code),
            status=code,
        )
        done = code == Status.CONVERGED
        return replace(state, bound=self._bound(state, done, torch.zeros_like(done)))

    def step(self, problem: Equilibrium, state: DeltaState) -> DeltaState:
        return self._whole(problem, state) if state.idle else self._some(problem, state)

    def _whole(self, problem: Equilibrium, state: DeltaState) -> DeltaState:
        """Take a step of all entries, to where the map is evaluated as the user wrote it."""
        held, every = state.held, torch.ones((), dtype=torch.bool, device=state.z.device)
        z, state = self._target(state, state.gap, every)
        if held is not None:
            z = torch.where(expand(held, z), state.z, z)
        fz = problem(z)
        gap = fz - z
        new = replace(
            state, z=z, residual=relative(gap, fz), fz=fz, gap=gap, before=state.fz, sent=z,
            cached=None, count=state.count + 1, idle=state.idle - 1,
        )  # fmt: skip
        if verdict(self, Evaluated(z, new.residual, fz)) is None:
            return new
        none = torch.zeros_like(new.residual, dtype=torch.bool)
        return self._judged(new, ~none, none, exact=True)

    def _some(self, problem: Equilibrium, state: DeltaState) -> DeltaState:
        """Take a step of the entries that change by more than the threshold."""
        count, held = state.count + 1, state.held
        change = state.fz - state.before if self.previous else state.gap
        if held is not None:  # what has ended moves nothing
            change = torch.where(expand(held, change), 0, change)
        residual, tolerance = state.residual.detach(), self.tolerance(state)
        met = residual <= tolerance
        left = residual / tolerance
        # Nobody waits for one that is not going to arrive within max_steps at the speed so far,
        # nor longer than a tenth of them: who waits may be slow, too.
        late = (residual > tolerance ** (count / self.max_steps)).any()
        late = late | (10 * count > self.max_steps)
        within = self.limit(change.detach(), torch.where(late, left.clamp(max=2.0), left))
        rest = None if self.tau is None else peak(change.detach()) <= self.tau
        ends = self._ending(state, met if rest is None else met | rest, count)
        target, state = self._target(state, change, moving := within.far(change.detach()))
        z = replaced(moving, target, state.z)
        if ends is not None:
            z = torch.where(expand(ends, z), state.fz, z)
        if held is not None:
            z = torch.where(expand(held, z), state.z, z)
        last = None if count % self.refresh == 0 else state.cached
        if state.sent is state.z:  # what the map was told of: it need not look for what moves
            within = replace(within, active=moving, since=state.sent)
        fz, cached, sent = evaluate(problem, z, last, state.sent, within, ends, held, state.fz)
        gap = fz - z
        new = replace(
            state,
            z=z,
            residual=relative(gap, fz),
            fz=fz,
            gap=gap,
            before=state.fz,
            sent=sent,
            cached=cached,
            count=count,
            idle=0 if cached is None or not self._free else cached.idle,
            bound=None,
        )
        if ends is None and held is None and bool(torch.isfinite(new.residual).all()):
            return new
        exact = state.cached is None or state.cached.exact  # f(r), which the answers are
        return self._judged(new, ends, rest, exact)

    def _judged(
        self, new: DeltaState, ends: Tensor | None, rest: Tensor | None, exact: bool
    ) -> DeltaState:
        """Return the state with the status of its samples, of which some were evaluated densely."""
        finite = torch.isfinite(new.residual)
        code = torch.where(finite, Status.RUNNING, Status.NONFINITE)
        if ends is not None:
            rest = torch.zeros_like(ends) if rest is None else rest
            code = torch.where(ends & finite, self._verdict(new, rest), code)
            new = replace(new, bound=self._bound(new, ends, rest & exact))
        if new.held is not None:
            code = torch.where(new.held, new.status, code)
        code = code.to(torch.int8)
        return replace(new, status=code, held=ended(code))

    def _ending(self, state: DeltaState, ends: Tensor, count: int) -> Tensor | None:
        """Return which of the samples that may take their last step do, bool (B,), or None."""
        held, left = state.held, len(state.z)
        if count >= self.max_steps:
            ends = torch.ones_like(ends)
        if held is not None:
            ends, left = ends & ~held, int((~held).sum())
        some = int(ends.sum())
        if self.together.shared(state.z) and 2 * some < left:
            some = 0  # a dense evaluation of few samples costs what one of many does
        return ends if some else None

    def _target(
        self, state: DeltaState, change: Tensor, moving: Tensor
    ) -> tuple[Tensor, DeltaState]:
        """Return where the entries that move go, (B, ...), and the state with what that changed."""
        if self.damping == 1 and not self.previous:
            return state.fz, state
        return torch.add(state.z, change, alpha=self.damping), state

    def _verdict(self, state: DeltaState, rest: Tensor) -> Tensor:
        """Return the `Status` of samples that were evaluated densely, (B,)."""
        code = torch.where(rest, Status.AT_THRESHOLD, Status.RUNNING)
        gap = residual_norm(state)
        met = (state.residual <= self.tolerance(state)) & earned(self, state.z, gap, state.first)
        return torch.where(met, Status.CONVERGED, code)

    def _known(self, problem: Equilibrium) -> float | None:
        """Return a contraction below 1 that may be claimed, or None."""
        if self.previous:
            return None
        bound = offered(problem.map, "lipschitz") if self.bounded and self.norm == 2 else None
        known = self.contraction if self.contraction is not None or bound is None else bound()
        return known if known is not None and known < 1 else None

    def _bound(self, state: DeltaState, dense: Tensor, rest: Tensor) -> ErrorBound | None:
        """Return what is proved of samples that were evaluated densely, and of resting ones,
        whose f(r) was exact."""
        known = state.contraction
        if known is None:
            return None
        gap = state.gap.detach().flatten(1)
        size = torch.linalg.vector_norm(gap, ord=self.norm, dim=1) / (1 - known)
        dense, rest = dense & torch.isfinite(size), rest & torch.isfinite(size)
        prior = torch.full_like(size, math.inf)
        if self.tau is not None:
            root = math.sqrt(gap.shape[1]) if self.norm == 2 else 1.0
            prior = torch.where(rest, known * self.tau * root / (1 - known), prior)
        return ErrorBound(torch.where(dense, size, math.inf), prior, known, self.norm)
