# %% [markdown]
# # Parts of your own
#
# A cell, a solver, a homotopy and a gradient rule of your own, in your own training loop. Each
# is a few lines, and none is registered anywhere: you pass the object.

# %%
import os
from dataclasses import dataclass
from typing import ClassVar

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from homotopy_deq import Anderson, Continuation, Equilibrium, Implicit, ImplicitLayer, solve
from homotopy_deq.plotting import residual_figure
from homotopy_deq.regularization import jacobian_penalty
from solvers import Evaluated, Solver
from solvers.gradient import RootGradient
from solvers.homotopy import Homotopy
from solvers.norms import relative
from solvers.solver import start

epochs = 2 if "HOMOTOPY_DEQ_SHORT" in os.environ else 10
torch.manual_seed(0)

# %% [markdown]
# ## A cell
#
# A module `cell(z, x)` that returns z's shape, batch first, each sample by itself. `initial`
# says where a solve begins, `condition` what is computed once per solve. Here z is 16 numbers
# for each of the 8 rows of an image; a row listens to itself, to the row above it, and to its
# pixels.


# %%
class Rows(nn.Module):
    rowwise = True  # a promise: no sample looks at another

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.own, self.above = nn.Linear(width, width), nn.Linear(width, width)
        nn.init.orthogonal_(self.own.weight, gain=0.4)
        nn.init.orthogonal_(self.above.weight, gain=0.4)

    def initial(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), 8, self.own.out_features)

    def condition(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.embed(x),)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.own(z) + self.above(z.roll(1, dims=1)) + x)


# %% [markdown]
# ## A solver
#
# A frozen dataclass with two methods: where to begin, and one step. It neither loops nor counts
# nor judges: the one loop does, for each sample by itself.


# %%
@dataclass(frozen=True)
class MomentumState(Evaluated):  # holds z, f(z) and the residual; we add a velocity, (B, ...)
    velocity: Tensor


@dataclass(frozen=True)
class Momentum(Solver[Equilibrium, MomentumState]):
    """Iterate v <- m v + f(z) - z, z <- z + v (Polyak, 1964)."""

    momentum: float = 0.3

    def init(self, problem: Equilibrium, z0: Tensor) -> MomentumState:
        first = start(problem, z0)
        return MomentumState(first.z, first.residual, first.fz, velocity=0 * z0)

    def step(self, problem: Equilibrium, state: MomentumState) -> MomentumState:
        velocity = self.momentum * state.velocity + state.fz - state.z
        z = state.z + velocity
        fz = problem(z)
        return MomentumState(z, relative(fz - z, fz), fz, velocity)


# %% [markdown]
# ## A homotopy
#
# A rule that deforms an equation with a known root (λ = 0) into yours (λ = 1). Whoever follows
# it, `Continuation` here, is another matter. This one turns on what f is given.


# %%
@dataclass(frozen=True)
class Argument(Homotopy):
    """h(z, lambda) = f((1 - lambda) z0 + lambda z)."""

    rooted: ClassVar[bool] = False  # the root at lambda = 0 is f(z0), not z0

    def map(self, problem: Equilibrium, z: Tensor, lam: Tensor, anchor: Tensor) -> Tensor:
        return problem(torch.lerp(anchor, z, lam))


# %% [markdown]
# ## A gradient rule
#
# Given the root z, return z as a function of all that f depends on. This one cuts the Neumann
# series (I − J)⁻¹ = I + J + J² + ... after a few terms, by evaluating f so often with its
# graph.


# %%
@dataclass(frozen=True)
class Series(RootGradient):
    terms: int = 3

    def at(self, problem: Equilibrium, z: Tensor) -> Tensor:
        value = z
        for _ in range(self.terms):
            value = problem(value)
        return z + (value - value.detach())  # the value stays the solver's


# %% [markdown]
# ## They answer to the same tests as ours
#
# Each solver must find the same root, and each gradient rule can be held against `Implicit`.

# %%
cell = Rows()
x = torch.randn(6, 8, 8)
problem = Equilibrium(cell, cell.condition(x))
paths = {
    "Momentum, ours": Momentum(rtol=1e-5),
    "Continuation along ours": Continuation(homotopy=Argument()),
    "Anderson": Anderson(rtol=1e-5),
}
with torch.no_grad():
    z0 = cell.initial(x)
    found = {name: solve(problem, path, z0, record=True).check() for name, path in paths.items()}
root = found["Anderson"].value
for name, each in found.items():
    print(f"{name:24} {(each.value - root).abs().max():.0e} from Anderson's answer")


def gradient(rule):
    layer = ImplicitLayer(cell, Anderson(rtol=1e-6), rule)
    parts = torch.autograd.grad(layer(x).square().sum(), list(cell.parameters()))
    return torch.cat([part.flatten() for part in parts])


exact = gradient(Implicit(Anderson(rtol=1e-6)))
for terms in (1, 3, 10):
    error = (gradient(Series(terms)) - exact).norm() / exact.norm()
    print(f"Series({terms}): relative error {error:.0e}")
residual_figure({name: each.trajectory for name, each in found.items()}, 1e-5)

# %% [markdown]
# ## Your own training loop
#
# An `ImplicitLayer` is an `nn.Module`. What it does about samples that fail is yours to say:
# `on_failure="warn"` (the default), `"raise"` or `"ignore"`; or take `layer.solve(x)` and look.
# The penalty on the Jacobian keeps the cell one that solvers converge on while it learns.

# %%
digits = load_digits()
rows = torch.from_numpy(digits.images).float() / 16
labels = torch.from_numpy(digits.target)
layer = ImplicitLayer(Rows(), Momentum(rtol=1e-3), Series())
net = nn.Sequential(layer, nn.Flatten(), nn.Linear(128, 10))
optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
for _ in range(epochs):
    for chosen in torch.randperm(1500).split(100):
        x = rows[chosen]
        z = layer(x)
        loss = nn.functional.cross_entropy(net[1:](z), labels[chosen])
        loss = loss + jacobian_penalty(layer.cell, z.detach(), *layer.condition(x))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

net.eval()
with torch.no_grad():
    right = (net(rows[1500:]).argmax(1) == labels[1500:]).float().mean()
    solution = layer.solve(rows[1500:])
print(
    f"right on {right:.1%}; {solution.converged.float().mean():.0%} of the samples converged, "
    f"by {solution.evals.float().mean():.1f} evaluations"
)

# %% [markdown]
# The weights do not know what they were trained by. They answer under any other path:

# %%
with torch.no_grad():
    for path in (Anderson(), Continuation(homotopy=Argument())):
        swapped = nn.Sequential(layer.with_solver(path), *net[1:])
        right = (swapped(rows[1500:]).argmax(1) == labels[1500:]).float().mean()
        print(f"{type(path).__name__:13} right on {right:.1%}")

# %% [markdown]
# A page each says what else such a part may promise, and how it is tested:
# [cell](../extend/cell.md), [homotopy](../extend/homotopy.md),
# [gradient](../extend/gradient.md), [Runge-Kutta method](../extend/tableau.md),
# [model](../extend/model.md), [data](../extend/data.md); autocast, `torch.compile` and many
# processes are in [use it in your script](../script.md). Next: [when it does not
# converge](converge.py).
