# %% [markdown]
# # Choose a gradient
#
# The answer z\* of z = f(z, x) has a derivative whoever found it: the implicit function theorem
# gives dz\* = (I − J)⁻¹ df with J = ∂f/∂z at z\*. A *gradient rule* is how that is computed,
# exactly or not. This tutorial holds the rules against the exact matrix, then looks at what
# each costs.

# %%
import torch
from matplotlib.figure import Figure

from homotopy_deq import Anderson, Equilibrium, Implicit, Phantom, Picard, Unroll, solve

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
n, batch = 40, 8
W = torch.linalg.qr(torch.randn(n, n)).Q.mul(0.9).requires_grad_()  # every direction shrinks by 0.9
x = torch.randn(batch, n)
v = torch.randn(batch, n)  # what arrives from the loss: dL/dz


def f(z, x):
    return torch.tanh(z @ W.T + x)


problem = Equilibrium(f, condition=(x,))
z0 = torch.zeros(batch, n)

# %% [markdown]
# ## The exact one, by hand
#
# For a state this small the matrix can be written down: J = diag(1 − z²) W, and the gradient
# reaching W is that of f at the root, for the cotangent u that solves (I − J)ᵀ u = v.

# %%
tight = Anderson(rtol=1e-13, max_steps=300)
z = solve(problem, tight, z0).check().value
J = (1 - z**2)[:, :, None] * W.detach()
u = torch.linalg.solve((torch.eye(n) - J).mT, v[:, :, None])[:, :, 0]
exact = ((1 - z**2) * u).T @ z

# %% [markdown]
# ## The rules
#
# `rule.apply(problem, solver, z0)` solves, and attaches the gradient to the answer.

# %%
rules = {
    "Implicit(rtol=1e-10)": Implicit(Anderson(rtol=1e-10, max_steps=300)),
    "Implicit()": Implicit(),
    "Phantom(), JFB": Phantom(),
    "Phantom(5)": Phantom(5),
    "Phantom(20)": Phantom(20),
    "Unroll()": Unroll(),
}


def gradient(rule, solver=tight):
    value = rule.apply(problem, solver, z0).value
    return torch.autograd.grad(value, W, v)[0]


for name, rule in rules.items():
    g = gradient(rule)
    error = (g - exact).norm() / exact.norm()
    angle = torch.nn.functional.cosine_similarity(g.flatten(), exact.flatten(), dim=0)
    print(f"{name:21} relative error {error:.1e}   cosine with the exact one {angle:.4f}")

# %% [markdown]
# - `Implicit` solves u = Jᵀu + v, an equilibrium itself, to the tolerance of *its* solver. That
#   is the knob: exactness of the gradient is bought there, and is not a matter of the forward
#   path.
# - `Phantom(k)` takes k steps from the answer and differentiates these: a series that is cut
#   after k terms. `Phantom()` is known as JFB. It is the cheapest, points in a useful
#   direction, and is wrong by as much as J is large.
# - `Unroll` differentiates the iterates. It is exact for what was computed, so its error is
#   that of the forward solve.
#
# Each term of the series takes the error down by the growth of Jᵀ, here about 0.65:

# %%
terms = [1, 2, 3, 5, 8, 13, 20, 30]
errors = [((gradient(Phantom(k)) - exact).norm() / exact.norm()).item() for k in terms]
figure = Figure(figsize=(6.4, 3.6), layout="constrained")
axes = figure.subplots()
axes.semilogy(terms, errors, ".-", label="Phantom(k)")
axes.axhline(1e-6, color="0.4", linestyle=":", label="the tolerance of Implicit()")
axes.set(xlabel="terms k, evaluations in the graph", ylabel="relative error of the gradient")
axes.legend(frameon=False)
figure

# %% [markdown]
# A forward pass that is stopped early shows what `Implicit` and `Unroll` differentiate:

# %%
rough = Picard(max_steps=10)
for name in ("Implicit(rtol=1e-10)", "Unroll()"):
    error = (gradient(rules[name], rough) - exact).norm() / exact.norm()
    print(f"{name:21} after 10 steps of Picard: {error:.1e} from the exact gradient at the root")

# %% [markdown]
# Neither is right there. `Implicit` differentiates an equation that its z does not satisfy,
# `Unroll` a network of ten layers, which is exact if those ten are what you deploy. That is why
# a layer warns of samples that did not converge.
#
# ## What each keeps in memory
#
# Bytes that autograd holds between the forward and the backward pass:


# %%
def kept(rule, solver):
    sizes = {}

    def pack(tensor):
        memory = tensor.untyped_storage()
        sizes[memory.data_ptr()] = memory.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = rule.apply(problem, solver, z0).value
    return value, sum(sizes.values()) / 1024


few, many = Picard(rtol=1e-13, max_steps=10), Picard(rtol=1e-13, max_steps=100)
for rule in (Implicit(), Phantom(5), Unroll()):
    sizes = [kept(rule, solver)[1] for solver in (few, many)]
    name = type(rule).__name__
    print(f"{name:8} 10 steps {sizes[0]:6.1f} KiB   100 steps {sizes[1]:6.1f} KiB")

# %% [markdown]
# ## It is a derivative like any other
#
# `Implicit` goes through `torch.autograd.gradcheck`, to second order too:

# %%
small = W.detach()[:3, :3].clone().requires_grad_()


def answer(weight):
    problem = Equilibrium(lambda z, x: torch.tanh(z @ weight.T + x), (x[:2, :3],))
    return Implicit(tight).apply(problem, tight, torch.zeros(2, 3)).value


print(torch.autograd.gradcheck(answer, small), torch.autograd.gradgradcheck(answer, small))

# %% [markdown]
# ## Which to take
#
# 1. `Implicit()`, the default: exact to its tolerance, memory of one evaluation, whatever the
#    path.
# 2. `Phantom(5)` where its backward solve is what a training step waits for; look at the
#    accuracy.
# 3. `Unroll()` for flows to z(t1), and where the number of steps is the model.
#
# `SHINE`, `Reversible` and `Adjoint`, and what happens to samples that are not finite, are on
# [the page of gradients](../gradients.md). Next: [train, then swap](swap.py).
