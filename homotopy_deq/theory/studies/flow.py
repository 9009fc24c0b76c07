"""Gradient flow and descent of scalar DEQs: the sphere, its consequences, and the peers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..gradient_flow import ExplicitSingleIndex, SingleIndexDEQ, truncated
from .study import Advance, Claim, Part, Result

STARTS = ((-0.1, 0.0), (-0.8, -0.5), (1.6, -0.4), (0.3, -1.0), (-0.7, 0.7), (0.5, 1.6))
SINGULAR = (-0.1, 0.9)
"""Near the singular point (0, 1): a step of 0.1 is 20 times what is stable there."""
INTERCEPT = 0.5
ETAS = (0.02, 0.01, 0.005, 0.0025)
TERMS: dict[str, int | None] = {"exact": None, "1 term": 1, "2 terms": 2, "3 terms": 3}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "leaky relu": torch.nn.functional.leaky_relu,
    "gelu": torch.nn.functional.gelu,
}
LEARNT = 1e-2
"""A target is learnt where the risk on test inputs is below this share of that at the start."""
POINTS = 40
HORIZON = 4.0


@dataclass(frozen=True)
class FlowStudy:
    """Follow y = th1 x + th2 y, and y = s(th1 x + th2 y), from x ~ N(0, 1) to their targets.

    Arguments:
        epochs: steps of gradient descent.
        rate: step size.
        train: inputs to learn from.
        test: inputs to judge by.
        xi: the target is s(xi x).
        seed: of the inputs.

    References:
        S. Dandapanthula, A. Ramdas (2025), Gradient flow for deep equilibrium single-index models.
        Inputs, sizes, step size and epochs are theirs; xi is ours.
    """

    name: ClassVar[str] = "flow"

    epochs: int = 400
    rate: float = 0.1
    train: int = 1000
    test: int = 200
    xi: float = 1.0
    seed: int = 0

    def parts(self) -> Mapping[str, Part]:
        """Return the parts by name."""
        runs = 2 * (3 + len(ACTIVATIONS)) + 1
        return {
            "sphere": Part(len(STARTS), self._sphere),
            "drift": Part(len(ETAS) + 1, self._drift),
            "step_size": Part(2, self._step_size),
            "backward": Part(len(TERMS), self._backward),
            "training": Part(runs, self._training),
        }

    def _sphere(self, advance: Advance) -> Result:
        """Follow the flow of the linear model from each start."""
        model = SingleIndexDEQ(self._x[0], self._target(self._x[0]))
        least = float(torch.linalg.eigvalsh(model.covariance)[0])
        times = torch.linspace(0, HORIZON, POINTS + 1, dtype=torch.float64)
        paths = []
        for start in STARTS:
            theta, c2 = [_vector(*start)], float(model.conserved(_vector(*start)))
            for step in times.diff().tolist():
                theta.append(model.flow(theta[-1], step))
            path = torch.stack(theta)
            risk = [model.risk(each) for each in path]
            # ||beta - xi|| <= sqrt(L / lambda_min) and L falls: beta is bounded for all times.
            reach = abs(self.xi) + math.sqrt(risk[0] / least)
            paths.append({
                "theta": path.tolist(),
                "c2": model.conserved(path).tolist(),
                "risk": risk,
                "envelope": (risk[0] * torch.exp(-4 * least / c2 * times)).tolist(),
                "distance": (1 - path[:, 1]).abs().tolist(),
                "least distance": math.sqrt(c2 / (1 + reach**2)),
            })  # fmt: skip
            advance(1)
        return {"times": times.tolist(), "xi": self.xi, "paths": paths}

    def _drift(self, advance: Advance) -> Result:
        """Follow descent off the sphere, and a nonlinear flow, which has none."""
        model = SingleIndexDEQ(self._x[0], self._target(self._x[0]))
        descent = {}
        for eta in ETAS:
            path = model.descend(_vector(*STARTS[0]), eta, round(HORIZON / eta))
            grown = model.conserved(path) - model.conserved(path[0])
            descent[str(eta)] = {
                "times": [eta * k for k in range(0, len(path), max(len(path) // POINTS, 1))],
                "c2 - c2(0)": grown[:: max(len(path) // POINTS, 1)].tolist(),
                "at the end": float(grown[-1]),
                "of its steps": _squared_steps(model, path, eta),
            }
            advance(1)
        tanh = SingleIndexDEQ(self._x[0], self._target(self._x[0], torch.tanh), torch.tanh)
        theta, times = [_vector(*STARTS[0])], torch.linspace(0, HORIZON, 9, dtype=torch.float64)
        for step in times.diff().tolist():
            theta.append(tanh.flow(theta[-1], step))
        grown = tanh.conserved(torch.stack(theta)) - tanh.conserved(theta[0])
        advance(1)
        return {"descent": descent, "tanh": {"times": times.tolist(), "c2 - c2(0)": grown.tolist()}}

    def _step_size(self, advance: Advance) -> Result:
        """Descend at and about the largest stable step, from near a solution."""
        model = SingleIndexDEQ(self._x[0], self._target(self._x[0]))
        solution = model.descend(_vector(*STARTS[0]), self.rate, 2000)[-1]
        bound = model.largest_step(solution, _vector(self.xi))
        near = solution + _vector(1e-6, 0.0)
        curves = {}
        for share in (0.25, 0.95, 1.05, 1.5):
            path = model.descend(near, share * bound, 120)
            curves[str(share)] = [model.risk(each) for each in path]
        advance(1)
        measured = curves["0.25"][9] / curves["0.25"][8]
        predicted = model.late_factor(solution, 0.25 * bound)
        advance(1)
        return {
            "bound": bound, "risk": curves,
            "late factor": {"measured": measured, "predicted": predicted},
        }  # fmt: skip

    def _backward(self, advance: Advance) -> Result:
        """Descend with truncated backward passes from where two terms meet their spurious rest."""
        x = _vector(1.0, -1.0)[:, None]
        model, found = SingleIndexDEQ(x, x[:, 0]), {}
        for name, terms in TERMS.items():
            path = truncated(model, terms).descend(_vector(8**0.5, 0.0), 0.02, 5000)
            found[name] = {
                "steps": list(range(0, 5001, 25)),
                "risk": [model.risk(each) for each in path[::25]],
                "theta": path[::25].tolist(),
                "end": path[-1].tolist(),
            }
            advance(1)
        return found

    def _training(self, advance: Advance) -> Result:
        """Train each model and its explicit peer, as in the paper."""
        at, singular = STARTS[0], (SINGULAR[0], SINGULAR[1])
        found = {
            "linear": self._trained(None, at, advance),
            "linear with intercept": self._trained(None, (at[0], 0.0, at[1]), advance),
            "linear, near (0, 1)": self._trained(None, singular, advance),
        }
        found |= {name: self._trained(s, at, advance) for name, s in ACTIVATIONS.items()}
        found["relu from 0.1"] = self._trained(torch.relu, (-at[0], at[1]), advance)
        return found

    def _trained(
        self,
        s: Callable[[Tensor], Tensor] | None,
        start: tuple[float, ...],
        advance: Advance,
    ) -> Result:
        """Return the curves of a DEQ and of its peer, which starts at th2 = 0."""
        x, test = self._x
        if len(start) == 3:
            x, test = (torch.cat((each, torch.ones_like(each)), 1) for each in (x, test))
        t, u = self._target(x, s), self._target(test, s)
        xi = _vector(self.xi, INTERCEPT)[: len(start) - 1]
        line = torch.cat((xi, _vector(-1.0)))  # from (0, 1) along the linear model's solutions
        found: Result = {}
        models: dict[str, SingleIndexDEQ | ExplicitSingleIndex] = {
            "deq": SingleIndexDEQ(x, t, s),
            "explicit": ExplicitSingleIndex(x, t, s),
        }
        for name, model in models.items():
            theta = _vector(*start)[: None if name == "deq" else -1]
            path = model.descend(theta, self.rate, self.epochs)
            away = path - (xi if name == "explicit" else torch.cat((xi, _vector(0.0))))
            if name == "deq" and s is None:
                away = away - away @ line[:, None] * line / line.square().sum()
            found[name] = {
                "train": [model.risk(each) for each in path],
                "test": [model.risk(each, test, u) for each in path],
                "distance": away.norm(dim=1).tolist(),
                "end": path[-1].tolist(),
            }
            advance(1)
        return found

    @property
    def _x(self) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        count = self.train + self.test
        x = torch.randn(count, 1, generator=generator, dtype=torch.float64)
        return x[: self.train], x[self.train :]

    def _target(self, x: Tensor, s: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        u = x @ _vector(self.xi, INTERCEPT)[: x.shape[1]]
        return u if s is None else s(u)

    def claims(self, found: Mapping[str, Result]) -> Sequence[Claim]:
        """Return the verdicts."""
        paths = found["sphere"]["paths"]
        drift = max(abs(c2 - path["c2"][0]) for path in paths for c2 in path["c2"])
        ratio = max(
            risk / bound
            for path in paths
            for risk, bound in zip(path["risk"], path["envelope"], strict=True)
            if risk > 1e-24  # below it the rounding of the flow's tolerance is all that is left
        )
        margin = min(min(path["distance"]) / path["least distance"] for path in paths)
        of = found["drift"]["descent"]
        halves = [
            of[str(a)]["at the end"] / of[str(b)]["at the end"]
            for a, b in zip(ETAS, ETAS[1:], strict=False)
        ]
        exact = max(abs(each["at the end"] / each["of its steps"] - 1) for each in of.values())
        grown = found["drift"]["tanh"]["c2 - c2(0)"][-1]
        steps = found["step_size"]["risk"]
        late = found["step_size"]["late factor"]
        off = abs(late["measured"] - late["predicted"])
        below, above = (steps[share][-1] / steps[share][0] for share in ("0.95", "1.05"))
        stall = found["backward"]["2 terms"]
        others = max(found["backward"][n]["risk"][-1] for n in ("exact", "1 term", "3 terms"))
        claims = [
            Claim("the linear flow keeps C^2", f"drift {drift:.1e} <= 1e-10", drift <= 1e-10),
            Claim("descent adds eta^2 ||grad||^2 a step, in all in proportion to eta",
                  f"to {exact:.0e}; {min(halves):.3f} to {max(halves):.3f} as eta halves",
                  exact < 1e-9 and all(1.9 < h < 2.1 for h in halves)),
            Claim("the loss stays below L(0) exp(-4 lambda_min t / C^2)",
                  f"at most {ratio:.3f} of it", ratio <= 1 + 1e-9),
            Claim("|1 - th2| stays above its bound", f"at least {margin:.3f} of it", margin >= 1),
            Claim("a nonlinear flow keeps no C^2", f"tanh: {grown:+.3f}", abs(grown) > 1e-3),
            Claim("the late rate is that of the Hessian", f"{late['measured']:.6f} a step, "
                  f"{off:.1e} from the prediction", off <= 1e-4),
            Claim("eta < C^2 / (lambda_max (1 + xi^2)^2) is stable, and more is not",
                  f"risk x {below:.1e} at 0.95 of it, x {above:.1e} at 1.05",
                  below < 0.1 and above > 10),
            Claim("two Neumann terms stall at th2 = -1, other backward passes do not",
                  f"th2 = {stall['end'][1]:.4f}, risk {stall['risk'][-1]:.7f}; others {others:.0e}",
                  abs(stall["end"][1] + 1) < 1e-3 and others < 1e-20),
        ]  # fmt: skip
        for name, runs in found["training"].items():
            share = {k: run["test"][-1] / run["test"][0] for k, run in runs.items()}
            claims.append(
                Claim(
                    f"{name}: the target is learnt",
                    f"test risk x {share['deq']:.1e}, explicit x {share['explicit']:.1e}",
                    share["deq"] < LEARNT,
                )
            )
        return claims


def _vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _squared_steps(model: SingleIndexDEQ, path: Tensor, eta: float) -> float:
    """Return the sum of eta^2 ||grad||^2 along a path of descent."""
    return float(sum((eta * model.gradient(each)).square().sum() for each in path[:-1]))
