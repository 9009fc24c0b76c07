# %% [markdown]
# # Train, then swap the solver
#
# A HomoODE is trained along a flow. Its weights then answer under solvers that it never saw:
# the flow's rest point is an equilibrium, and an equilibrium does not ask who found it. The
# images are the 8 x 8 digits that come with scikit-learn.

# %%
import os
from pathlib import Path

import torch
from torch.nn import functional as F

from homotopy_deq import RK4, Anderson, Continuation, Flow, HomoODE, NewtonKrylov, RungeKutta
from homotopy_deq.acceleration import tune
from homotopy_deq.data import load
from homotopy_deq.page import trajectory
from homotopy_deq.plotting import path_figure, residual_figure, training_figure
from homotopy_deq.training import TrainConfig, train

short = "HOMOTOPY_DEQ_SHORT" in os.environ
epochs, limit, test_limit = (1, 200, 20) if short else (6, None, 100)
torch.manual_seed(0)
digits = load("digits", limit=limit, test_limit=test_limit)
images, labels = digits.test_images.float() / 255, digits.test_labels

# %% [markdown]
# ## Train
#
# The model follows dz/dt = f(z; x) − z for five units of time, by rk4. `residual_penalty` draws
# the end of that flow to rest: it is what makes a swap good.

# %%
model = HomoODE(
    digits.shape,
    hidden=12,
    head=32,
    pool=4,
    groups=4,
    solver=RungeKutta(RK4, step_size=0.5),
)
config = TrainConfig(epochs=epochs, lr=3e-3, residual_penalty=0.1)
outcome = train(model, digits, config, Path("run"))
print(f"right on {outcome.test['accuracy']:.1%} of the test images")
training_figure(outcome.history)

# %% [markdown]
# `run/` now holds a checkpoint with every setting. `homotopy-deq train` writes the same from
# the shell, and a run that is killed goes on with `--resume`.
#
# ## Swap
#
# `with_solver` shares the weights. Nothing is copied, nothing is trained again.

# %%
model.eval()
passes = {
    "RungeKutta, trained": model,
    "Anderson": model.with_solver(Anderson()),
    "NewtonKrylov": model.with_solver(NewtonKrylov()),
    "Flow to rest": model.with_solver(Flow(RK4, h=0.5)),
    "Continuation": model.with_solver(Continuation()),
}
with torch.no_grad():
    for name, swapped in passes.items():
        output = swapped.solve(images)
        right = (output.logits.argmax(1) == labels).float().mean()
        evals, residual = output.solution.evals.float().mean(), swapped.residual(output).median()
        print(f"{name:20} right {right:.1%}  evaluations {evals:5.1f}  residual {residual:.0e}")

# %% [markdown]
# The trained flow stops at t = 5, not at rest, so its residual is its distance to the
# equilibrium; the others stop where theirs is 1e-4 or less. `Anderson` is there in a part of
# the evaluations. The same images, on their ways:

# %%
ways = {name: trajectory(swapped, images[:5]) for name, swapped in passes.items()}
residual_figure(ways, tolerance=1e-4)

# %%
path_figure({name: way.z for name, way in ways.items()}, [str(int(k)) for k in labels[:5]])

# %% [markdown]
# ## Where a solve starts
#
# A HomoODE begins at a learned point, shared by all images. At an equilibrium the start changes
# the cost, never the answer. Here is what three starts cost each of two paths: zero, the
# learned one, and the answer to a slightly different image, as in a video or a sweep.

# %%
moved = (images + 0.02 * torch.randn_like(images)).clamp(0, 1)
with torch.no_grad():
    for name in ("Anderson", "Flow to rest"):
        swapped = passes[name]
        nearby = swapped.solve(moved).solution
        zero = torch.zeros_like(nearby.value)
        for start, z0 in {"zero": zero, "learned": None, "of a near image": nearby}.items():
            evals = swapped.solve(images, z0).solution.evals.float().mean()
            print(f"{name:14} from {start:16} {evals:5.1f} evaluations")

# %% [markdown]
# [Where a solve starts](../start.md) has four kinds of start, and what each is worth.
#
# ## Propagate only what changes
#
# Coordinates of an equilibrium converge at different speeds. `tune` finds thresholds below
# which a change is not propagated, for a loss that they may cost, and counts multiply-adds:

# %%
data = [(images[:32], labels[:32])]
tuned = tune(passes["Anderson"], data, loss_budget=1e-2, loss=F.cross_entropy)
print(f"loss {tuned.exact:.4f} -> {tuned.loss:.4f}, multiply-adds {tuned.spent / tuned.dense:.0%}")

# %% [markdown]
# Much of that is stopping early, and on a model as small as this one no time is saved: [delta
# updates](../delta.md) says when it pays, and `homotopy-deq profile RUN` whether it does for
# yours.
#
# Next: [certify](certify.py), or [what a swap means](../swap.md).
