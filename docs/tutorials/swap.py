# %% [markdown]
# # Train, then swap the solver
#
# A deep equilibrium model is trained by Anderson's iteration. Its weights then answer under
# solvers that it never saw, a flow among them: an equilibrium does not ask who found it. The
# images are the 8 x 8 digits that come with scikit-learn.

# %%
import os
from pathlib import Path

import torch
from torch.nn import functional as F

from homotopy_deq import DEQ, RK4, Continuation, Flow, NewtonKrylov, RungeKutta
from homotopy_deq.acceleration import Entrywise, tune
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
# A stem makes x of the image, the layer solves z = f(z; x) for a state of 16 channels, a head
# reads it. `contraction` bounds f, so that solves are short from the first step to the last.

# %%
model = DEQ(digits.shape, hidden=16, pool=4, contraction=0.8)
outcome = train(model, digits, TrainConfig(epochs=epochs, lr=1e-2), Path("run"))
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
    "Anderson": model,
    "RungeKutta to t = 5": model.with_solver(RungeKutta(RK4, step_size=0.5)),
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
# `RungeKutta` follows dz/dt = f(z; x) − z for five units of time and stops there, at rest or
# not: its residual is what is left of the way. It is how a HomoODE answers, and either loads
# the other's weights; `make demo` trains one along its flow and swaps the other way. All others
# stop where the residual is 1e-4 or less. The same images, on their ways:

# %%
ways = {name: trajectory(swapped, images[:5]) for name, swapped in passes.items()}
residual_figure(ways, tolerance=1e-4)

# %%
path_figure({name: way.z for name, way in ways.items()}, [str(int(k)) for k in labels[:5]])

# %% [markdown]
# ## Where a solve starts
#
# A solve begins at a learned point, shared by all images. At an equilibrium the start changes
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
            print(f"{name:12} from {start:16} {evals:5.1f} evaluations")

# %% [markdown]
# [Where a solve starts](../start.md) has four kinds of start, and what each is worth.
#
# ## Propagate only what changes
#
# Coordinates of an equilibrium converge at different speeds. `tune` finds thresholds below
# which a change is not propagated, for a loss that they may cost, and counts multiply-adds:

# %%
data = [(images[:32], labels[:32])]
tuned = tune(model, data, loss_budget=1e-2, loss=F.cross_entropy, products=Entrywise())
print(f"loss {tuned.exact:.4f} -> {tuned.loss:.4f}, multiply-adds {tuned.spent / tuned.dense:.0%}")

# %% [markdown]
# Much of that is stopping early, and on a model as small as this one no time is saved: [delta
# updates](../delta.md) says when it pays, and `homotopy-deq profile RUN` whether it does for
# yours.
#
# Next: [certify](certify.py), or [what a swap means](../swap.md).
