"""The implicit function theorem."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.amp import autocast_mode

from ..anderson import Anderson
from ..driver import check_kind, run
from ..packing import pack
from ..problem import Equilibrium, check_start
from ..solution import Solution, V
from ..solver import Solver
from .graph import leaves


class BackwardWarning(UserWarning):
    """The linear solve of an implicit gradient did not converge for some samples."""


@dataclass(frozen=True)
class Implicit:
    """Differentiate the equation at its root, whatever path led there.

    For a cotangent v the gradient in a parameter is u^T df/dparameter, where

        u = J^T u + v,   J = df/dz at z*,

    is an `Equilibrium` itself: any solver answers it, to its tolerance relative to u. Memory does
    not grow with the steps forward. Right under second derivatives, in eval mode, and for a layer
    used twice before backward.

    Arguments:
        solver: solver of the linear equation above.

    Raises:
        TypeError: the problem is an `InitialValue`, whose answer satisfies no such equation.

    References:
        S. Bai, J. Z. Kolter, V. Koltun (2019), Deep equilibrium models.
    """

    solver: Solver[Equilibrium, Any] = field(default_factory=lambda: Anderson(rtol=1e-6))

    def apply(
        self,
        problem: Equilibrium,
        solver: Solver[Equilibrium, Any],
        z0: V | Solution[V],
        *,
        record: bool = False,
    ) -> Solution[V]:
        """Return the solution with the implicit gradient attached to its value."""
        if not isinstance(problem, Equilibrium):
            raise TypeError(
                "Implicit differentiates z* = f(z*); the answer of an "
                f"{type(problem).__name__} satisfies no such equation. Use Unroll() or Adjoint()."
            )
        check_kind(problem, self.solver)
        packed, start, unpack = pack(problem, z0)
        with torch.no_grad():
            found = run(packed, solver, start.detach(), record=record)
        if torch.is_grad_enabled():
            found = replace(found, value=attach(packed, found.value, self.solver))
        return unpack(found)


def attach(problem: Equilibrium, z: Tensor, solver: Solver[Equilibrium, Any]) -> Tensor:
    """Return the root z of z = f(z, *condition) with the implicit gradient attached."""
    check_start(problem, z)
    condition = problem.condition or ()
    with torch.enable_grad():
        root = z.detach().requires_grad_()
        inputs = tuple(t.detach().requires_grad_(t.requires_grad) for t in condition)
        image = problem.map(root, *inputs).to(z.dtype)
    known = {id(t) for t in (root, *inputs)}
    hidden = tuple(t for t in leaves(image) if id(t) not in known)
    call = _Call(problem, solver, root, inputs, image)
    attached: Tensor = _ImplicitFunction.apply(call, z.detach(), *condition, *hidden)
    return attached


@dataclass
class _Call:
    """What one application shares between forward and backward."""

    problem: Equilibrium
    solver: Solver[Equilibrium, Any]
    root: Tensor  # z*, a leaf
    inputs: tuple[Tensor, ...]  # the condition, as leaves
    image: Tensor  # f(z*), with the graph from the leaves


class _ImplicitFunction(torch.autograd.Function):
    """z* as a function of the condition and of the parameters that the map closes over."""

    @staticmethod
    def forward(ctx: Any, call: _Call, z: Tensor, *tensors: Tensor) -> Tensor:
        ctx.call = call
        out = z.view_as(z)
        ctx.save_for_backward(out, *tensors)
        device = z.device.type
        ctx.autocast = (
            device,
            torch.is_autocast_enabled(device),
            torch.get_autocast_dtype(device),
        )
        return out

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        (v,) = cotangents
        call: _Call = ctx.call
        z, *tensors = ctx.saved_tensors
        device, enabled, dtype = ctx.autocast
        # Forward and backward must linearise the same map: f in the precision of the forward pass.
        with autocast_mode.autocast(device, dtype=dtype, enabled=enabled):
            if torch.is_grad_enabled():  # create_graph: everything a function of z* and tensors
                split = len(call.inputs)
                image = call.problem.map(z, *tensors[:split]).to(z.dtype)
                u = _solve_adjoint(call, z, image, v, differentiable=True)
                sources = tensors
            else:
                u = _solve_adjoint(call, call.root, call.image, v, differentiable=False)
                image = call.image
                sources = [*call.inputs, *tensors[len(call.inputs) :]]
            wanted = [k for k, needs in enumerate(ctx.needs_input_grad[2:]) if needs]
            gradients: list[Tensor | None] = [None] * len(sources)
            found = torch.autograd.grad(
                image,
                [sources[k] for k in wanted],
                u,
                retain_graph=True,
                create_graph=torch.is_grad_enabled(),
                allow_unused=True,
            )
            for k, gradient in zip(wanted, found, strict=True):
                gradients[k] = gradient
        return None, None, *gradients


def _solve_adjoint(
    call: _Call, z: Tensor, image: Tensor, v: Tensor, *, differentiable: bool
) -> Tensor:
    """Return u = J^T u + v."""

    def pull(u: Tensor) -> Tensor:
        (pulled,) = torch.autograd.grad(
            image, z, u, retain_graph=True, create_graph=torch.is_grad_enabled(), allow_unused=True
        )
        return v + (torch.zeros_like(v) if pulled is None else pulled)

    adjoint = Equilibrium(pull)
    if image.grad_fn is None:
        return v
    with torch.no_grad():
        found = run(adjoint, call.solver, v.detach())
    if not bool(found.converged.all()):
        warnings.warn(
            f"Implicit gradient: {found.report()} Its gradient is approximate.",
            BackwardWarning,
            stacklevel=2,
        )
    return attach(adjoint, found.value, call.solver) if differentiable else found.value
