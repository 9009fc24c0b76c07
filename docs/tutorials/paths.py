# %% [markdown]
# # One equation, many paths
#
# The output of an implicit layer is the answer to an equation, z = f(z, x). Which *path* leads
# there is a choice of its own. Here one equation is solved along six, and you see what each
# does, what it costs, and where some do not arrive.

# %%
import torch

from homotopy_deq import (
    RK4,
    Anderson,
    Continuation,
    Equilibrium,
    Flow,
    Implicit,
    NewtonKrylov,
    Picard,
    Robust,
    Status,
    solve,
)
from homotopy_deq.plotting import branch_figure, path_figure, residual_figure
from solvers.homotopy import Family, trace

W = 1.3 * torch.tensor([[0.5, -1.0], [1.0, 0.5]])  # turns and stretches the plane


def f(z, x):
    return torch.tanh(z @ W.T + x)


x = torch.tensor([[1.0, 0.8], [-1.0, 0.9], [0.9, -0.8]])  # a batch of three: three equations
problem = Equilibrium(f, condition=(x,))

# %% [markdown]
# An `Equilibrium` is the map and what it is conditioned on. `solve` takes it, a solver and a
# start, and stops **each sample by itself**. `record=True` keeps the way there.

# %%
z0 = torch.zeros(3, 2)
paths = {
    "Picard": Picard(),
    "Picard, damped": Picard(damping=0.5),
    "Anderson": Anderson(),
    "NewtonKrylov": NewtonKrylov(),
    "Flow": Flow(RK4, h=0.5),
    "Continuation": Continuation(),
}
found = {name: solve(problem, solver, z0, record=True) for name, solver in paths.items()}
path_figure({name: each.trajectory.z for name, each in found.items()}, ["first", "second", "third"])

# %% [markdown]
# A dot is the start, a star the end. `Picard` steps to f(z) and circles, as f turns the plane;
# damped, it goes half the way and circles less. `Anderson` mixes its last iterates into a
# guess. `NewtonKrylov` solves a linear model of f. `Flow` follows dz/dt = f(z, x) − z until it
# rests. `Continuation` begins at an equation that it can solve and carries the answer along
# while that equation turns into yours.
#
# They end at the same points, at different costs:


# %%
def told(solution):
    codes = [Status(code).name for code in solution.status.tolist()]
    return f"{', '.join(codes)} after {solution.evals.tolist()} evaluations"


for name, each in found.items():
    print(f"{name:15} {told(each)}")

residual_figure({name: each.trajectory for name, each in found.items()}, tolerance=1e-4)

# %% [markdown]
# `CONVERGED` is a promise: ‖f(z) − z‖ ≤ rtol ‖f(z)‖ was measured there. An *evaluation* is a
# call of f for a sample, products with its Jacobian included. It is what a path costs when f is
# a network.
#
# ## Where a path does not arrive
#
# Stretch the plane twice as much. Now the answer repels plain iteration.

# %%
W = 2 * W
print(solve(problem, Picard(), z0).report(), "\n")
for name, solver in {**paths, "Robust": Robust()}.items():
    each = solve(problem, solver, z0)
    print(f"{name:15} {told(each)}")

# %% [markdown]
# `solve` never raises because a sample failed: its status says so, `report()` in a sentence
# with advice, `check()` as an error, and a layer warns. `Picard`, damped or not, and `Flow` go
# around the answer for ever: they obey the dynamics of f, which turn too fast there. The others
# look at the equation, not at its dynamics. `Robust` tries several in turn, and pays for the
# next only where the last one failed.
#
# ## Which answer?
#
# An equation may have several. z = tanh(2 z + λ) in one dimension has three for small λ.
# `trace` follows all of them as λ changes, around the folds where two of them meet:

# %%
family = Family(lambda z, lam: torch.tanh(2 * z + lam))
top = torch.ones(1, 1, dtype=torch.float64)
(branch,) = trace(family, top, lam=3.0, direction=-1, span=(-3, 3), eigenvalues=1)
print("folds at", [round(fold.lam, 4) for fold in branch.folds])
print("roots at 0.25:", [round(root, 4) for root in branch.roots(0.25).flatten().tolist()])
branch_figure({"z = tanh(2 z + λ)": branch}, lambda z: z[:, 0], xlabel="λ", ylabel="z")

# %% [markdown]
# Iterations and flows end at the solid parts and run away from the dashed one. A network whose
# cell has several answers may change its output when you change the path, so it is trained not
# to: [what a swap means](../swap.md).
#
# ## One gradient
#
# The derivative of the answer belongs to the equation, whatever the path was:

# %%
W = (W / 2).requires_grad_()
for name in ("Picard, damped", "Anderson", "Continuation"):
    z = Implicit(Anderson(rtol=1e-6)).apply(problem, paths[name], z0).value
    (gradient,) = torch.autograd.grad(z.sum(), W)
    print(f"{name:15} {[round(g, 3) for g in gradient.flatten().tolist()]}")

# %% [markdown]
# In a network all this is one line, `ImplicitLayer(cell, Anderson())`, and another path is one
# argument. Next: [choose a gradient](gradients.py), or [the table of all
# solvers](../solvers.md).
