# %% [markdown]
# # When it does not converge
#
# A model whose solves fail learns slowly or not at all, and what it learns is no equilibrium.
# Here you see it coming by theory, watch it happen, ask `diagnose` why, and mend it three ways.

# %%
import os
import warnings
from functools import partial

import rich
import torch
from sklearn.datasets import load_digits
from torch import nn

from homotopy_deq import Anderson, Equilibrium, ImplicitLayer, Robust, Then, diagnose, solve
from homotopy_deq.cells import ContractiveCell
from homotopy_deq.diagnosis import diagnose_equation
from homotopy_deq.plotting import diagnosis_figure
from homotopy_deq.regularization import jacobian_penalty
from homotopy_deq.theory import DEQKernel, ReLU

short = "HOMOTOPY_DEQ_SHORT" in os.environ
epochs = 1 if short else 5
torch.manual_seed(0)

# %% [markdown]
# ## Before training: what theory says
#
# Let W have entries N(0, σ²/n). Each evaluation of z = relu(W z + U x) turns on half of the
# units, so that a small difference of two states grows by σ/√2 a step, the more exactly the
# wider the network. `DEQKernel` is the Gaussian process that it nears: it says how large z will
# be. `diagnose_equation` measures a network of 1,024 units.

# %%
n, x = 256 if short else 1024, torch.randn(8, 64)
W, U = torch.randn(n, n) / n**0.5, torch.randn(n, 64) / 8


def random_deq(sigma, z, x):
    return torch.relu(sigma * z @ W.T + x @ U.T)


for sigma in (0.4, 0.8, 1.2):
    equation, z0 = Equilibrium(partial(random_deq, sigma), (x,)), torch.zeros(8, n)
    growth = diagnose_equation(equation, z0, solvers={}).spectrum.growth.median()
    size = solve(equation, Anderson(), z0).check().value.square().mean()
    theory = DEQKernel(ReLU(), sigma_w=sigma)(x, diag=True).mean()
    print(
        f"sigma {sigma}: growth {sigma / 2**0.5:.2f}, measured {growth:.2f}; "
        f"mean square of z {theory:.2f}, measured {size:.2f}"
    )
print("sigma 1.6:", solve(Equilibrium(partial(random_deq, 1.6), (x,)), Anderson(), z0).report())

# %% [markdown]
# Beyond σ = √2 there is nothing to converge to. Near it solves are long, and training may cross
# it.
#
# ## A model that does not learn
#
# z = tanh(W z + x) on the digits, x a linear map of the pixels. W starts twice as long as it
# should.


# %%
class Cell(nn.Module):
    rowwise = True

    def __init__(self, gain: float, width: int = 48) -> None:
        super().__init__()
        self.W = nn.Linear(width, width, bias=False)
        nn.init.orthogonal_(self.W.weight, gain)

    def forward(self, z, x):
        return torch.tanh(self.W(z) + x)


digits = load_digits()
images = torch.from_numpy(digits.images).float().flatten(1) / 16
labels = torch.from_numpy(digits.target)


def trained(cell, penalty=0.0):
    """Train a cell, and return its layer and the condition of some images."""
    torch.manual_seed(1)
    stem, head = nn.Linear(64, 48), nn.Linear(48, 10)
    layer = ImplicitLayer(cell, Anderson(max_steps=30), on_failure="ignore")
    net = nn.ModuleList([stem, layer, head])
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for epoch in range(epochs):
        solved, right = 0, 0
        for chosen in torch.randperm(1500).split(100):
            x = stem(images[chosen])
            solution = layer.solve(x)
            logits = head(solution.value)
            loss = nn.functional.cross_entropy(logits, labels[chosen])
            if penalty:
                z = solution.value.detach()
                loss = loss + penalty * jacobian_penalty(cell, z, *layer.condition(x))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            solved += int(solution.converged.sum())
            right += int((logits.argmax(1) == labels[chosen]).sum())
        print(f"epoch {epoch + 1}: right {right / 1500:4.0%}, solved {solved / 1500:4.0%}")
    return layer, stem(images[1500:1516]).detach()


warnings.filterwarnings("ignore", "Implicit gradient")  # backward solves fail where forward ones do
torch.manual_seed(0)
layer, x = trained(Cell(gain=2.0))

# %% [markdown]
# At first most solves fail: their gradients are those of no equilibrium. With
# `on_failure="warn"`, the default, each such step says so; it is silenced here for the page's
# sake. Then most converge, but the model has not learned much: near a growth of 1 the
# derivative (I − J)⁻¹ is huge, and a step of the optimizer soon leaves where it holds.
#
# ## Ask why
#
# As it began:

# %%
began = ImplicitLayer(Cell(gain=2.0), Anderson(max_steps=30), on_failure="ignore")
found = diagnose(began, x)
rich.print(found.table())
for advice in found.advice:
    print(advice)
diagnosis_figure(found)

# %% [markdown]
# On the left: which solver gets there, and at what cost. On the right: eigenvalues of the
# Jacobian. Beyond the circle plain iteration leaves the root; right of 1, no damping helps.
#
# ## Mend it
#
# **Another path** solves what there is to solve, for more evaluations. It is what a model needs
# whose weights you cannot change:

# %%
for name, path in {"Anderson": Anderson(), "Then": Then(Anderson(), Robust())}.items():
    solution = began.with_solver(path).solve(x)
    cost = solution.evals.float().mean()
    print(f"{name:8} solves {solution.converged.float().mean():4.0%}, {cost:6.1f} evaluations")

# %% [markdown]
# **A start that contracts**, and a penalty on the Jacobian that keeps it so, is what training
# needs:

# %%
layer, x = trained(Cell(gain=0.8), penalty=0.3)
print(f"growth {diagnose(layer, x, solvers={}).spectrum.growth.max():.2f}")

# %% [markdown]
# **A cell that contracts whatever its weights** needs neither care nor penalty:

# %%
layer, x = trained(ContractiveCell((48,), contraction=0.9))
print(f"growth {diagnose(layer, x, solvers={}).spectrum.growth.max():.2f}")

# %% [markdown]
# From the shell: `homotopy-deq diagnose RUN`, `train --jacobian-penalty`, `train
# --contraction`. The [page of diagnose](../diagnose.md) works through the best-known tutorial's
# cell, whose equilibrium is lost while its loss falls; [symptoms](../faq.md) has what single
# messages mean, and [theory tools](../theory.md) what else is known of wide DEQs.
