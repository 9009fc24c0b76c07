# %% [markdown]
# # What a certificate claims
#
# A certificate is a class and a radius: no change of the image that is shorter than the radius
# changes the class. There are two kinds here, and they say different things about different
# classifiers. One model gets both, and you see what each costs and what it does **not** claim.

# %%
import os
from pathlib import Path

import torch

from homotopy_deq import MonotoneDEQ
from homotopy_deq.certification import (
    Clean,
    Cold,
    Converged,
    LipschitzProver,
    Smoother,
    Smoothing,
    Verified,
)
from homotopy_deq.certification.summary import Summary
from homotopy_deq.data import load
from homotopy_deq.lipschitz import certify_lipschitz
from homotopy_deq.plotting import certified_figure
from homotopy_deq.settings import SmoothTraining
from homotopy_deq.training import TrainConfig, train

short = "HOMOTOPY_DEQ_SHORT" in os.environ
epochs, limit, images, samples = (1, 300, 2, 200) if short else (8, None, 30, 1000)
torch.manual_seed(0)
digits = load("digits", limit=limit)

# %% [markdown]
# ## A model of which something can be proved
#
# z = relu(W z + U x + b) with I − W strongly monotone, whatever its weights: one equilibrium
# for each image, and a known bound on how it moves. It is trained under the noise that it will
# be certified with.

# %%
sigma = 0.25
model = MonotoneDEQ(digits.shape, hidden=64, kernel=0, monotonicity=0.5)
config = TrainConfig(epochs=epochs, lr=3e-3, smoothing=SmoothTraining(sigma))
outcome = train(model, digits, config, Path("run"))
print(f"right on {outcome.test['accuracy']:.1%} of the test images")

# %% [markdown]
# ## Randomized smoothing
#
# The *smoothed* classifier answers with the class that the model names most often for x + e, e
# ~ N(0, σ²). If that class has probability p > 1/2, its radius in l2 is σ Φ⁻¹(p). p is not
# known; `samples` votes bound it from below, wrongly with probability alpha at most.
#
# Each vote is a solve, so starting it near its answer is where time is saved. Two ways to count
# votes:

# %%
smoothing = Smoothing(sigma, n=samples, alpha=1e-3)
ways = {
    "solved from zero": Converged(Cold()),
    "proven, from the clean image's answer": Verified(Clean()),
}


def certify(certifier):
    found = []
    for k in range(images):
        image, label = digits.test_images[k].float() / 255, int(digits.test_labels[k])
        found.append(certifier.certify(image, label, k))
    return found


certificates = {name: certify(Smoother(model, policy, smoothing)) for name, policy in ways.items()}
for name, found in certificates.items():
    cost = sum(each.evaluations for each in found) / (images * (smoothing.n + smoothing.n0))
    print(f"{name:38} {cost:5.2f} evaluations a sample")
first = certificates["proven, from the clean image's answer"][0]
print(first.claim)
print(first.evidence)

# %% [markdown]
# `Converged` counts the vote of a solve that met its tolerance. `Verified` counts a vote only
# if a bound *proves* that the exact equilibrium votes so, whatever the start; one evaluation
# often is enough. A sample that stays undecided counts against the class, so the certificate
# holds all the same.
#
# What may **not** be done is to stop each solve early near the clean answer and count what it
# says: from another start a network of so many steps is another network, and no theorem is
# about it. [Which votes may be counted](../certify.md) has the reasons, and a table of false
# certificates.

# %% [markdown]
# ## A Lipschitz bound
#
# The other kind needs no noise and no chance. If a difference of two logits changes by at most
# γ for a change of the image of length 1, the class holds within margin / γ.

# %%
prover = LipschitzProver(model.network(), digits.shape)
sure = certify(prover)
print(sure[0].claim)
print(sure[0].evidence)
for name, kind, gamma in certify_lipschitz(model.network()[:-1]).parts:
    print(f"{name:8} {kind:22} {gamma:.3f}")

# %%
shown = {name: Summary.of(found) for name, found in certificates.items()}
certified_figure({**shown, "Lipschitz": Summary.of(sure)})

# %% [markdown]
# ## What each claims, and does not
#
# | | smoothing | Lipschitz |
# |---|---|---|
# | of which classifier | the smoothed one: you must deploy *that*, by voting | the network itself |
# | holds | with probability 1 − alpha, for each image | for certain |
# | costs | thousands of solves an image | one evaluation |
# | radii | end at σ Φ⁻¹(alpha^(1/n)), however sure the model is | as small as the bound is loose |
# | says nothing of | the network without noise; other norms | half precision; other norms |
#
# The two ways to count votes lie on one line: the same radii, for a twentieth of the work. That
# line and the third are of one set of weights and no contest: a point on one is a claim about
# another function than the same point on the other. Neither says that an image outside its
# radius can be attacked; `homotopy-deq attack` looks for one inside that can, and must not find
# any.
#
# From the shell: `homotopy-deq certify RUN`, with a journal that survives a kill, and `--method
# lipschitz` or `ibp` (l-infinity). Networks that are bounded by construction have [a
# page](../lipschitz.md). Next: [parts of your own](own.py).
