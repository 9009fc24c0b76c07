"""The adjoint method for initial value problems."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..driver import run
from ..ode import ODE
from ..ode.clock import Clock
from ..packing import pack
from ..problem import InitialValue
from ..solution import Solution, V
from ..transforms import uncompiled
from ..twice import by_formula
from .function import tie
from .graph import check_same, closure, detached, evaluated, tied_to_nothing


@dataclass(frozen=True)
class Adjoint:
    """Integrate the adjoint equation backwards in time: memory does not grow with the steps.

        da/dt = -(df/dz)^T a,   dL/dparameter = -integral of a^T df/dparameter from t1 to t0.

    z is integrated backwards with a, so the gradient is as exact as the tolerance. Parameters
    that the field closes over are found by themselves.

    References:
        R. T. Q. Chen et al. (2018), Neural ordinary differential equations.
    """

    @uncompiled
    def apply(
        self, problem: InitialValue, solver: ODE, z0: V | Solution[V], *, record: bool = False
    ) -> Solution[V]:
        """Return the solution with the adjoint gradient attached to its value."""
        if not isinstance(problem, InitialValue) or not isinstance(solver, ODE):
            instead = "Unroll" if isinstance(problem, InitialValue) else "Implicit"
            raise TypeError(
                "Adjoint differentiates an InitialValue integrated by ODE(); got "
                f"{type(problem).__name__} and {type(solver).__name__}. Use {instead}()."
            )
        packed, start, unpack = pack(problem, z0)
        with torch.no_grad():
            found = run(packed, solver, start, record=record)
        if torch.is_grad_enabled():
            if bool(found.converged.any()):
                value = self._differentiable(packed, solver, start, found)
            else:
                value = tied_to_nothing(found.value, packed, start)
            found = replace(found, value=value)
        return unpack(found)

    def _differentiable(
        self, problem: InitialValue, solver: ODE, z0: Tensor, found: Solution[Tensor]
    ) -> Tensor:
        from torchdiffeq import odeint_adjoint

        good = found.converged
        if not bool(good.all()):
            index = good.nonzero().squeeze(1)
            value = self._differentiable(
                problem.rows(index), solver, z0[index], replace(found, status=found.status[index])
            )
            return found.value.index_copy(0, index, value)
        # odeint_adjoint differentiates the field alone, so its inputs are leaf copies: reached
        # through the condition, a parameter shared with what computed it would count twice.
        originals = (z0, *problem.inputs)
        copies = detached(originals)
        problem = replace(problem, condition=copies[1:])
        clock = Clock(problem.wrapped(by_formula))
        known = {id(x) for x in copies}

        def evaluate() -> Tensor:
            return clock(z0.new_zeros(()), copies[0])

        image, closed = evaluated(evaluate)
        before = closure(image, *copies)

        def check() -> None:  # the field is evaluated again in backward
            with torch.enable_grad():
                check_same(before, closure(evaluate(), *copies))

        hidden = tuple(p for p in closed if id(p) not in known)
        inputs = tuple(x for x in copies[1:] if x.requires_grad)
        value = solver.integrate(
            clock, copies[0], clock.times, odeint_adjoint, adjoint_params=(*inputs, *hidden)
        )[-1]
        once = "The gradient of Adjoint has no derivative itself; use Unroll() for a second one."
        return tie((value,), (*copies, *hidden), (*originals, *hidden), once=once, check=check)[0]
