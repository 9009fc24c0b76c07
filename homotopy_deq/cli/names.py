"""The one table from names to objects: what a command line or a checkpoint calls things."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from solvers import (
    BOSH3,
    DOPRI5,
    DOPRI8,
    EULER,
    HEUN,
    MIDPOINT,
    ODE,
    RK4,
    TSIT5,
    Adjoint,
    Anderson,
    ArcLength,
    Broyden,
    Continuation,
    Davidenko,
    DouglasRachford,
    Equilibrium,
    Flow,
    ForwardBackward,
    Implicit,
    NewtonKrylov,
    PeacemanRachford,
    Picard,
    PseudoTransient,
    Reversible,
    Robust,
    RungeKutta,
    Solver,
    Tableau,
    Then,
    Unroll,
)
from solvers.caller import warn_caller
from solvers.gradient.gradient import misfit
from solvers.ode.initial_value import METHODS as TORCHDIFFEQ

from ..certification import (
    Along,
    Audited,
    Clean,
    Cold,
    Converged,
    Policy,
    Serial,
    Start,
    Tangent,
    Truncated,
    Verified,
)
from ..models import ImageModel
from ..settings import ForwardPass
from ..settings.declare import pick
from .gradients import ALONG_FLOW, AT_ROOT, gradient_by

SPLITTINGS: Mapping[str, type[Solver[Equilibrium, Any]]] = {
    "forward-backward": ForwardBackward,
    "peaceman-rachford": PeacemanRachford,
    "douglas-rachford": DouglasRachford,
}
"""Solvers of monotone inclusions, which the cells of contractive and monotone models offer."""

SOLVERS: Mapping[str, type[Solver[Equilibrium, Any]]] = {
    "picard": Picard,
    "anderson": Anderson,
    "broyden": Broyden,
    "newton-krylov": NewtonKrylov,
    "pseudo-transient": PseudoTransient,
    "steady-state": Flow,
    "continuation": Continuation,
    "arc-length": ArcLength,
    "davidenko": Davidenko,
    "robust": Robust,
    **SPLITTINGS,
}

TABLEAUS: Mapping[str, Tableau] = {
    "euler": EULER,
    "midpoint": MIDPOINT,
    "heun2": HEUN,
    "rk4": RK4,
    "bosh3": BOSH3,
    "dopri5": DOPRI5,
    "tsit5": TSIT5,
    "dopri8": DOPRI8,
}
"""Methods that a flow is followed to rest by, before or after a "+". By itself a pair of them takes
steps of each sample's own; equal steps, and all under `adjoint`, are those of torchdiffeq."""

METHODS = tuple(dict.fromkeys((*TABLEAUS, *TORCHDIFFEQ)))
"""Methods that integrate a flow to its horizon."""

REVERSIBLE_DAMPING = 0.5
"""Of Picard's steps that are taken back: one of damping 1 keeps nothing of where it came from."""

POLICIES: Mapping[str, type[Policy]] = {
    "converged": Converged,
    "verified": Verified,
    "audited": Audited,
    "truncated": Truncated,
}

STARTS: Mapping[str, type[Start]] = {
    "none": Cold,
    "clean": Clean,
    "tangent": Tangent,
    "serial": Serial,
    "along": Along,
}

BACKWARD_RTOL = 1e-6
"""Of the linear equation of the implicit gradient, as `Implicit` has it."""

WHOLE_STEPS: Mapping[str, str] = {
    "robust": "whole solve by the next solver of its escalation",
    "davidenko": "whole way from lambda = 0 to 1",
}
"""Solvers whose `max_steps` does not bound the iterations, and what it counts instead."""

ONE_STEP = ("euler", "midpoint", "heun2", "heun3", "rk4")
REST_STEP = 1.0
"""Step in t of `ONE_STEP` methods towards a rest point, which is a fixed point of each of them
whatever the step; all are stable there for a Jacobian of f with eigenvalues in the unit disk."""

REVERSIBLE_STEP = 0.25
"""That of steps which are taken back: of longer ones the two copies part, and of more than some
forty float32 does not lead back."""


def start_by(text: str) -> Start:
    """Return the start of noise samples by its name, "along" with a time: "along:0.8"."""
    name, colon, time = text.partition(":")
    kind = STARTS[pick("warm start", name, STARTS)]
    if not colon:
        return kind()
    try:
        return Along(float(time)) if kind is Along else _untimed(text)
    except ValueError as error:
        raise ValueError(f"--warm-start {text}: {error}") from None


def _untimed(text: str) -> Start:
    raise ValueError("only along takes a time, as in along:0.8.")


def policy_by(name: str, start: str | None = None, **fields: int | None) -> Policy:
    """Return a policy by its name, with its own start unless one is given.

    Arguments:
        name: one of `POLICIES`.
        start: as in `start_by`.
        fields: steps and audit; None stands for the policy's own.

    Raises:
        ValueError: a name is not valid, or the policy has no such field.
    """
    kind = POLICIES[pick("policy", name, POLICIES)]
    given: dict[str, Any] = {k: v for k, v in fields.items() if v is not None}
    for field in given:
        having = [n for n, each in POLICIES.items() if field in each.__dataclass_fields__]
        if name not in having:
            raise ValueError(
                f"--{field} is of {', '.join(having)}; policy {name} has no {field}. Leave it out."
            )
    if start is not None:
        given["start"] = start_by(start)
    return kind(**given)


@dataclass(frozen=True)
class Pass(ForwardPass):
    """A forward pass by name: one of `SOLVERS`, or one of `METHODS`.

    Joined by "+" they take over each other's failed samples, and a method follows the flow to rest:
    "rk4+anderson". Limits are of every part, where given.
    """

    def __post_init__(self) -> None:
        parts = self.solver.split("+")
        for part in parts:
            if self.max_steps is not None and part in WHOLE_STEPS:
                raise ValueError(
                    f"--max-steps {self.max_steps} with --solver {self.solver}: a step of {part} "
                    f"is a {WHOLE_STEPS[part]}. Leave --max-steps out, or choose another solver."
                )
        if "," in self.solver:
            each = " ".join(f"--solver {part.strip()}" for part in self.solver.split(","))
            raise ValueError(
                f"--solver {self.solver} is no forward pass: give one, or each by itself ({each})."
            )
        valid = (*SOLVERS, *METHODS)
        for part in parts:
            pick("solver", part, valid)

    @property
    def at_root(self) -> bool:
        """Whether the pass ends at an equilibrium, where `implicit` is the default gradient."""
        return "+" in self.solver or self.solver in SOLVERS

    @property
    def success(self) -> str:
        """What is claimed of a sample that the pass did not fail on."""
        return "converged" if self.at_root else "reached t1"

    def put(
        self, model: ImageModel, gradient: str | None = None, backward_rtol: float | None = None
    ) -> ImageModel:
        """Return the model with this forward pass; its weights are shared.

        Arguments:
            model: any.
            gradient: as in `gradient_by`; by default the model's where it fits, else that of the
                pass.
            backward_rtol: relative tolerance of the linear equation of the implicit gradient.

        Raises:
            ValueError: the model has no equilibrium and the path looks for one, or the gradient
                does not fit the path.
        """
        parts = self.solver.split("+")
        self.check(gradient, backward_rtol)
        rule = None if gradient is None else gradient_by(gradient)
        split = bool({*parts} & {*SPLITTINGS})  # then u <- J^T u + v need not contract
        if backward_rtol is not None or (split and isinstance(rule, Implicit)):
            kind = NewtonKrylov if split else Anderson
            rule = Implicit(kind(rtol=backward_rtol or BACKWARD_RTOL))
        if self.at_root:
            roots = [self._root(part, rule, model.layer.solver) for part in parts]
            solver: Solver[Any, Any] = roots[0] if len(roots) == 1 else Then(*roots)
        else:
            solver = self._flow(rule, model.layer.rest_point)
        if rule is None and misfit(model.layer.gradient, solver) is not None:
            rule = Implicit() if self.at_root else Unroll()
        try:
            return model.with_solver(solver, rule, t1=self.horizon)
        except TypeError as error:
            offers = " (--model monotone or lben, or --contraction)" if split else ""
            raise ValueError(f"--solver {self.solver}: {error}{offers}") from error

    def check(self, gradient: str | None, backward_rtol: float | None) -> None:
        """Raise ValueError unless the gradient differentiates what this path finds."""
        fitting = AT_ROOT if self.at_root else ALONG_FLOW
        if gradient is not None:
            gradient_by(gradient)
            if gradient.partition(":")[0] not in fitting:
                raise ValueError(
                    f"--gradient {gradient} does not differentiate the answer of --solver "
                    f"{self.solver}; {', '.join(fitting)} do."
                )
        implicit = self.at_root and gradient in (None, "implicit")
        if backward_rtol is not None and not implicit:
            raise ValueError(
                f"--backward-rtol is of the implicit gradient; --solver {self.solver} with "
                f"--gradient {gradient or 'unroll'} has none."
            )

    def _root(self, name: str, rule: Any, own: Solver[Any, Any]) -> Solver[Equilibrium, Any]:
        if name in SOLVERS:
            settings = self._limits()
            if name == "picard" and isinstance(rule, Reversible):
                settings["damping"] = REVERSIBLE_DAMPING
            if name in SPLITTINGS and self.step_size is not None:
                settings["step_size"] = self.step_size
            if name == "peaceman-rachford" and isinstance(own, PeacemanRachford):
                settings["accelerated"] = own.accelerated
            return replace(SOLVERS[name](), **settings)
        if name not in TABLEAUS:  # of a run whose flow was torchdiffeq's, and polished
            warn_caller(f"No flow to rest is followed by {name}; bosh3 takes its place.")
        flow = Flow(TABLEAUS.get(name, BOSH3), **self._limits())
        step = self.step_size or (flow.h if flow.tableau.error else REST_STEP)
        return replace(flow, h=step, max_step=max(step, flow.max_step))

    def _flow(self, rule: Any, rest_point: bool) -> ODE | RungeKutta:
        tableau = TABLEAUS.get(self.solver)
        if tableau is not None and tableau.error and not isinstance(rule, Adjoint):
            return RungeKutta(tableau, **self._limits())
        flow: ODE | RungeKutta = ODE(self.solver, **self._limits())
        back = isinstance(rule, Reversible)
        if tableau is not None and (back or getattr(rule, "checkpoint", None) is not None):
            flow = RungeKutta(tableau, **self._limits())  # step by step
        step = flow.step_size
        if rest_point and self.solver in ONE_STEP:
            step = REVERSIBLE_STEP if back else REST_STEP
        return replace(flow, step_size=step if self.step_size is None else self.step_size)

    def _limits(self) -> dict[str, Any]:
        given = {"rtol": self.rtol, "atol": self.atol, "max_steps": self.max_steps}
        return {name: value for name, value in given.items() if value is not None}
