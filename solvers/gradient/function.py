"""The project's autograd functions: a root, a graph over copies of its inputs, a sum of slopes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..caller import warn_caller
from ..driver import run
from ..norms import expand
from ..precision import fitted
from ..problem import Equilibrium, Map, check_start
from ..solver import Solver
from ..transforms import check_untransformed
from ..twice import as_written, by_formula
from .graph import check_same, closure, cut, detached, evaluated
from .rows import BackwardWarning

Tensors = tuple[Tensor, ...]
Saved = Callable[[], Tensors]


def attach(
    problem: Equilibrium,
    z: Tensor,
    solver: Solver[Equilibrium, Any],
    closed: tuple[Tensor, ...] | None = None,
) -> Tensor:
    """Return the root z of z = f(z, *condition) with the implicit gradient attached.

    Arguments:
        problem: the equation.
        z: its root, (B, ...).
        solver: solver of the linear equation in backward.
        closed: the tensors that the map closes over, by default found from its graph.
    """
    check_start(problem, z)
    root = z.detach().requires_grad_()
    inputs = detached(problem.inputs)

    def evaluate() -> Tensor:
        return problem.map(root, *inputs).to(z.dtype)

    with torch.enable_grad(), as_written():
        if closed is None:
            image, closed = evaluated(evaluate)
        else:
            image = evaluate()
    known = {id(t) for t in (root, *inputs)}
    hidden = tuple(t for t in closed if t.requires_grad and id(t) not in known)
    if image.grad_fn is None:
        return z
    solver = fitted(solver, problem.map, z.dtype)  # the products J^T u are rounded like f
    call = _Call(problem.map, solver, root, inputs, image, hidden)
    attached: Tensor = _ImplicitFunction.apply(call, *problem.inputs, *hidden)
    return attached


@dataclass
class _Call:
    """What one application shares between forward and backward."""

    map: Map
    solver: Solver[Equilibrium, Any]
    root: Tensor  # z*, a leaf
    inputs: tuple[Tensor, ...]  # the condition, as leaves
    image: Tensor  # f(z*), with the graph from the leaves
    hidden: tuple[Tensor, ...]  # the parameters and fast weights that the map closes over

    def vjp(self, u: Tensor) -> Tensor:
        """Return J^T u."""
        (pulled,) = torch.autograd.grad(
            self.image,
            self.root,
            u,
            retain_graph=True,
            create_graph=torch.is_grad_enabled(),
            allow_unused=True,
        )
        return torch.zeros_like(u) if pulled is None else pulled

    def adjoint(self, v: Tensor) -> Tensor:
        """Return u = J^T u + v, without a graph."""
        check_untransformed(v)
        # Each sample is solved for v of size 1, as the equation is linear: the cotangent of a
        # sample that is classified with confidence is near the smallest numbers.
        size = v.flatten(1).abs().amax(1)
        size = expand(torch.where(size > 0, size, 1), v)
        unit = v / size
        # J^T mixes rows where f does, of which the forward pass has told.
        linear = Equilibrium(lambda u: unit + self.vjp(u), rowwise=True)
        with torch.no_grad():
            found = run(linear, self.solver, unit)
        if not bool(found.converged.all()):
            warn_caller(
                f"Implicit gradient: {found.report()} Its gradient is approximate.",
                BackwardWarning,
            )
        return found.value * size

    def pull(self, u: Tensor, hidden: list[Tensor]) -> list[Tensor | None]:
        """Return u^T df/dt for each input t of the condition and each hidden parameter."""
        sources = [*self.inputs, *hidden]
        wanted = [k for k, tensor in enumerate(sources) if tensor.requires_grad]
        with cut(hidden):
            found = torch.autograd.grad(
                self.image,
                [sources[k] for k in wanted],
                u,
                retain_graph=True,
                create_graph=torch.is_grad_enabled(),
                allow_unused=True,
            )
        gradients: list[Tensor | None] = [None] * len(sources)
        for k, gradient in zip(wanted, found, strict=True):
            gradients[k] = gradient
        return gradients


class _ImplicitFunction(torch.autograd.Function):
    """z* as a function of the condition and of the parameters that the map closes over."""

    @staticmethod
    def forward(ctx: Any, call: _Call, *tensors: Tensor) -> Tensor:
        ctx.held = call
        ctx.save_for_backward(*tensors)
        return call.root.detach().clone()

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        (v,) = cotangents
        call: _Call = _released(ctx)
        if not torch.is_grad_enabled():  # the condition may have been changed where f allows it
            return None, *call.pull(call.adjoint(v), list(call.hidden))
        tensors = ctx.saved_tensors
        condition, hidden = tensors[: len(call.inputs)], tensors[len(call.inputs) :]
        # z* again, as a function of the same tensors: the output may have been changed.
        z: Tensor = _ImplicitFunction.apply(call, *tensors)
        return None, *_differentiable(call, z, v, condition, hidden)


def _released(ctx: Any) -> Any:
    """Return what a node holds for its backward pass, and let go of it where torch does.

    torch frees the tensors that it saved for a node after a backward pass without retain_graph;
    a graph that the node holds itself would stay as long as the loss does.
    """
    if ctx.held is None:
        return ctx.saved_tensors  # raises torch's own error: they have been freed
    held = ctx.held
    if not _keeps_graph():
        ctx.held = None
    return held


# Where torch does not say (it is no public function), graphs are kept until the loss goes.
_keeps_graph = getattr(
    getattr(torch._C, "_autograd", None), "_get_current_graph_task_keep_graph", lambda: True
)


def _differentiable(
    call: _Call, z: Tensor, v: Tensor, condition: list[Tensor], hidden: list[Tensor]
) -> list[Tensor | None]:
    """Return the same gradients, as functions of z*, v, the condition and the parameters.

    They are computed on leaf copies, because z* depends on the parameters itself and
    differentiating f(z*) in them would run through z* again.
    """
    root = z.detach().requires_grad_()
    inputs = detached(tuple(condition))
    cotangent = v.detach().requires_grad_()
    image = by_formula(call.map)(root, *inputs).to(z.dtype)
    check_same(closure(call.image, call.root, *call.inputs), closure(image, root, *inputs))
    copy = replace(call, root=root, inputs=inputs, image=image)
    linear = Equilibrium(lambda u, v: v + copy.vjp(u), (cotangent,))
    u = attach(linear, copy.adjoint(v.detach()), call.solver, (root, *inputs, *hidden))
    gradients = copy.pull(u, hidden)
    present = [k for k, gradient in enumerate(gradients) if gradient is not None]
    outputs = tuple(g for g in gradients if g is not None)
    if outputs:
        tied = tie(outputs, (root, cotangent, *inputs, *hidden), (z, v, *condition, *hidden))
        for k, gradient in zip(present, tied, strict=True):
            gradients[k] = gradient
    return gradients


def tie(outputs: Tensors, copies: Tensors, originals: Tensors) -> Tensors:
    """Return the outputs as functions of the originals, by their gradient in the copies, any order.

    `outputs` are computed from `copies`, leaf tensors (a parameter may be its own copy), each of
    which stands for the original at its place.
    """

    def pull(cotangents: Tensors, saved: Saved) -> list[Tensor | None]:
        again = torch.is_grad_enabled()  # create_graph
        v = tuple(c.detach().requires_grad_() for c in cotangents) if again else cotangents
        wanted = [k for k, tensor in enumerate(copies) if tensor.requires_grad]
        with torch.enable_grad(), cut(copies):
            found = torch.autograd.grad(
                outputs,
                [copies[k] for k in wanted],
                v,
                retain_graph=True,
                create_graph=again,
                allow_unused=True,
            )
        kept = {k: x for k, x in zip(wanted, found, strict=True) if x is not None}
        if again and kept:
            values = tie(tuple(kept.values()), (*copies, *v), (*saved(), *cotangents))
            kept = dict(zip(kept, values, strict=True))
        return [kept.get(k) for k in range(len(copies))]

    return pulled(outputs, originals, pull)


def pulled(
    outputs: Tensors,
    originals: Tensors,
    pull: Callable[[Tensors, Saved], Sequence[Tensor | None]],
) -> Tensors:
    """Return the outputs as functions of the originals, whose gradient `pull` computes.

    `pull(cotangents, saved)` returns the gradient in each of the originals, which `saved()` gives
    if they have not been changed since; where autograd is on, as functions of both.
    """
    tied: Tensors = _Pulled.apply((outputs, pull), *originals)
    return tied


class _Pulled(torch.autograd.Function):
    """Outputs that were computed without a graph, and the rule of their gradient."""

    @staticmethod
    def forward(ctx: Any, held: Any, *originals: Tensor) -> Any:
        outputs, ctx.held = held
        ctx.save_for_backward(*originals)
        return tuple(output.detach().clone() for output in outputs)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        return None, *_released(ctx)(cotangents, lambda: ctx.saved_tensors)


def once(reason: str, values: Sequence[Tensor], *sources: Tensor) -> Tensors:
    """Return the values as functions of the sources that raise `reason` when differentiated."""
    refused: Tensors = _Refuse.apply(reason, len(values), *values, *sources)
    return refused


class _Refuse(torch.autograd.Function):
    """The first of its tensors, as functions of all of them that cannot be differentiated.

    torch's once_differentiable raises under backward(), but autograd.grad goes round it without
    a word and returns what the rest of the graph contributes.
    """

    @staticmethod
    def forward(ctx: Any, reason: str, count: int, *tensors: Tensor) -> Any:
        ctx.reason = reason
        return tuple(tensor.clone() for tensor in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        raise RuntimeError(ctx.reason)


def combine(z: Tensor, h: Tensor, weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    """Return z + h sum_j w_j k_j, in one pass over memory a term; backward needs none of them.

    Arguments:
        z: (B, ...).
        h: 0-d or (B, 1, ..., 1); a constant.
        weights: the w_j, not all 0.
        slopes: the k_j, of z's shape and dtype.
    """
    terms = [(w, k) for w, k in zip(weights, slopes, strict=True) if w]
    weights, slopes = tuple(w for w, _ in terms), [k for _, k in terms]
    combined: Tensor = _Combine.apply(z, h.to(z.dtype), weights, *slopes)
    return combined


class _Combine(torch.autograd.Function):
    """z + h sum_j w_j k_j: linear in z and the k_j, so nothing is saved."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, h: Tensor, weights: tuple[float, ...], *slopes: Tensor) -> Any:
        ctx.h, ctx.weights = h, weights
        total = slopes[0] * weights[0]
        for w, k in zip(weights[1:], slopes[1:], strict=True):
            total.add_(k, alpha=w)
        return torch.addcmul(z, total, h, out=total)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        (v,) = cotangents
        scaled = v * ctx.h
        return v, None, None, *(scaled * w for w in ctx.weights)
