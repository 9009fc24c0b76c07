"""The project's autograd functions: a root, a gradient by a rule of its own, a sum of slopes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import torch
from torch import Tensor

from ..caller import warn_caller
from ..driver import run
from ..inclusion import MonotoneInclusion
from ..norms import expand
from ..precision import fitted
from ..problem import Equilibrium
from ..solver import Solver
from ..transforms import check_untransformed
from ..twice import as_written, by_formula
from .graph import check_same, closure, cut, detached, evaluated, rooted
from .rows import BackwardWarning

Tensors = tuple[Tensor, ...]
Pull = Callable[[Tensor, Callable[[], Tensors]], Sequence[Tensor | None]]
Guess = Callable[[Tensor], Tensor]


def attach(
    problem: Equilibrium,
    z: Tensor,
    solver: Solver[Equilibrium, Any] | None,
    closed: Tensors | None = None,
    guess: Guess | None = None,
) -> Tensor:
    """Return the root z of z = f(z, *condition) with the implicit gradient attached.

    Arguments:
        problem: the equation.
        z: its root, (B, ...).
        solver: solver of the linear equation in backward; None takes the guess for its answer.
        closed: the tensors that the map closes over, by default found from its graph.
        guess: maps v to where that solver begins; v itself by default.
    """
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
    if solver is not None:  # the products J^T u are rounded like f
        solver = fitted(solver, problem, z.dtype)
    call = _Root(replace(problem, condition=inputs or None), solver, root, hidden, image, guess)
    return call.attached((*problem.inputs, *hidden))


@dataclass(frozen=True)
class _Root:
    """A root and the graph of one evaluation at it, for the backward pass.

    Arguments:
        problem: the equation, of a condition that leads to nothing else.
        solver: of the linear equation.
        z: the root.
        hidden: the parameters and fast weights that f closes over.
        image: f(z), whose graph leads to z, the inputs and what is hidden.
        guess: as `attach` has it.
    """

    problem: Equilibrium
    solver: Solver[Equilibrium, Any] | None
    z: Tensor
    hidden: Tensors
    image: Tensor
    guess: Guess | None

    @property
    def inputs(self) -> Tensors:
        """The condition."""
        return self.problem.inputs

    def attached(self, sources: Tensors) -> Tensor:
        """Return the root as a function of the inputs and what is hidden, which `sources` are."""
        return pulled(self.z, sources, self.backward)

    def backward(self, v: Tensor, saved: Callable[[], Tensors]) -> Sequence[Tensor | None]:
        """Return the gradients in the sources, where autograd is on as functions of them and v."""
        if not torch.is_grad_enabled():  # the condition may have been changed where f allows it
            return self.pull(self.whole(self.adjoint(v), v))
        sources = saved()
        if self.solver is None:
            with torch.no_grad():
                values = self.pull(self.adjoint(v))
            return once(values, (*sources, v), "SHINE()")
        inputs, hidden = sources[: len(self.inputs)], sources[len(self.inputs) :]
        z = self.attached(sources)  # again: the output may have been changed
        problem = replace(self.problem.wrapped(by_formula), condition=inputs or None)
        image = rooted(problem.map(z, *inputs).to(z.dtype))
        check_same(closure(self.image, self.z, *self.inputs), closure(image, z, *inputs))
        again = replace(self, problem=problem, z=z, hidden=hidden, image=image)
        closed = (z, *sources, v)
        w = attach(again.linear(v), again.adjoint(v.detach()), self.solver, closed)
        return again.pull(again.whole(w, v))

    def vjp(self, u: Tensor) -> Tensor:
        """Return J^T u."""
        (pulled,) = self._grad((self.z,), u)
        return torch.zeros_like(u) if pulled is None else pulled

    @property
    def split(self) -> bool:
        """Whether the solver of the linear equation is a splitting."""
        return self.solver is not None and not issubclass(Equilibrium, self.solver.answers)

    def linear(self, v: Tensor) -> Equilibrium:
        """Return u = J^T u + v, or for a splitting w = D (W^T w + v), of which u is W^T w + v."""
        if self.split:
            assert isinstance(self.problem, MonotoneInclusion)
            return self.problem.adjoint(self.z, v)
        # J^T mixes rows where f does, of which the forward pass has told.
        return Equilibrium(lambda u: v + self.vjp(u), rowwise=True)

    def whole(self, w: Tensor, v: Tensor) -> Tensor:
        """Return u, given the answer of `linear`: W^T w = J^T w, as w = D w."""
        return v + self.vjp(w) if self.split else w

    def adjoint(self, v: Tensor) -> Tensor:
        """Return the answer of `linear`, without a graph."""
        check_untransformed(v)
        # Each sample is solved for v of size 1, as the equation is linear: the cotangent of a
        # sample that is classified with confidence is near the smallest numbers.
        size = v.flatten(1).abs().amax(1)
        size = expand(torch.where(size > 0, size, 1), v)
        unit = v / size
        with torch.no_grad():
            linear = self.linear(unit)
            # A state of 0 gives the way from it a size; where w = 0 is the answer D v is 0, too.
            begin = linear.project(unit) if isinstance(linear, MonotoneInclusion) else unit
            begin = begin if self.guess is None else self.guess(unit)
            if self.solver is None:
                return begin * size
            found = run(linear, self.solver, begin)
        if not bool(found.converged.all()):
            warn_caller(
                f"Implicit gradient: {found.report()} Its gradient is approximate.",
                BackwardWarning,
            )
        return found.value * size

    def pull(self, u: Tensor) -> list[Tensor | None]:
        """Return u^T df/dt for each input t, and for each t that is hidden."""
        sources = (*self.inputs, *self.hidden)
        wanted = [t for t in sources if t.requires_grad]  # parameters may have been frozen since
        with cut((self.z, *sources)):  # they may depend on each other, as the root does on all
            found = iter(self._grad(wanted, u) if wanted else ())
        return [next(found) if t.requires_grad else None for t in sources]

    def _grad(self, sources: Sequence[Tensor], u: Tensor) -> Sequence[Tensor | None]:
        return torch.autograd.grad(
            self.image,
            sources,
            u,
            retain_graph=True,
            create_graph=torch.is_grad_enabled(),
            allow_unused=True,
        )


def pulled(output: Tensor, originals: Tensors, pull: Pull) -> Tensor:
    """Return the output as a function of the originals, whose gradient `pull` computes.

    `pull(v, saved)` returns the gradient in each of the originals, which `saved()` gives if they
    have not been changed since; where autograd is on, as functions of both.
    """
    tied: Tensor = _Pulled.apply((output, pull), *originals)
    return tied


def once(values: Sequence[Tensor | None], sources: Tensors, rule: str) -> list[Tensor | None]:
    """Return gradients that lead to their sources, and raise RuntimeError where that way is gone.

    Arguments:
        values: the gradients, without a graph.
        sources: all that they depend on.
        rule: whose gradient has no derivative itself.
    """

    def refuse(v: Tensor, saved: object) -> NoReturn:
        raise RuntimeError(
            f"The gradient of {rule} has no derivative itself; use Unroll() for a second one."
        )

    return [None if value is None else pulled(value, sources, refuse) for value in values]


class _Pulled(torch.autograd.Function):
    """An output that was computed without a graph, and the rule of its gradient."""

    @staticmethod
    def forward(ctx: Any, held: tuple[Tensor, Pull], *originals: Tensor) -> Tensor:
        output, ctx.held = held
        ctx.save_for_backward(*originals)
        ctx.set_materialize_grads(False)
        return output.detach().clone()

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
        (v,) = cotangents
        if v is None:  # nothing passes, see `cut`
            return (None,) * len(ctx.needs_input_grad)
        return None, *_released(ctx)(v, lambda: ctx.saved_tensors)


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


def spread(
    slope: Tensor, h: Tensor, weights: Sequence[float], sums: Tensors, *, fresh: bool = False
) -> Tensors:
    """Return the sums with h w_i k added to each, in one pass over memory a sum, there and back.

    Arguments:
        slope: k, (B, ...).
        h: 0-d or (B, 1, ..., 1), of k's dtype; a constant.
        weights: the w_i.
        sums: of k's shape and dtype. They are written to, unless the results are `fresh`.
    """
    if torch.compiler.is_compiling():  # which fuses the sums itself
        return tuple(
            torch.addcmul(z, h, slope, value=w) for w, z in zip(weights, sums, strict=True)
        )
    added: Tensors = _Spread.apply(slope, h, tuple(weights), fresh, *sums)
    return added


class _Spread(torch.autograd.Function):
    """Linear, so nothing is saved: a slope's cotangent is the sum of those of its sums."""

    @staticmethod
    def forward(
        ctx: Any, slope: Tensor, h: Tensor, weights: Any, fresh: bool, *sums: Tensor
    ) -> Any:
        ctx.h, ctx.weights = h, weights
        ctx.set_materialize_grads(False)
        terms = zip(weights, sums, strict=True)
        if fresh:
            return tuple(torch.addcmul(z, h, slope, value=w) for w, z in terms)
        ctx.mark_dirty(*sums)
        for w, total in terms:
            if w:
                total.addcmul_(h, slope, value=w)
        return sums

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
        total = None
        for w, v in zip(ctx.weights, cotangents, strict=True):
            if w and v is not None:
                total = v * w if total is None else total.add_(v, alpha=w)
        return None if total is None else total.mul_(ctx.h), None, None, None, *cotangents
