"""Finite DEQs beside their limit of infinite width."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ...data import load, stratified_order
from ..activations import Activation, ReLU, tanh
from ..ensembles import sample_deqs, sample_mlps
from ..gaussianity import gaussianity
from ..kernels import DEQKernel, MLPKernel, least_eigenvalue
from ..networks import sample_deq
from . import learning
from .study import Advance, Claim, Part, Result

PHI: dict[str, Activation] = {"relu": ReLU(), "tanh": tanh()}
CRITICAL = math.sqrt(2)  # sigma_w of a plain ReLU network that keeps squared lengths on average
BINS = 41
CPU = torch.device("cpu")


@dataclass(frozen=True)
class NNGPStudy:
    """Measure what is claimed of infinitely wide DEQs, on the digits of scikit-learn.

    Arguments:
        images: digits that are learnt; the others test.
        networks: random networks whose outputs are tested.
        draws: random networks of each of `widths` and `squares`.
        widths: of the networks whose covariance is compared.
        tangent_width: of those whose tangent kernel is.
        output_width: of those whose outputs are tested.
        squares: widths of the networks that are as deep as they are wide.
        profiled: digits whose least eigenvalues are measured.
        trained: widths of the DEQs that are trained.
        epochs: of their training, at most.
        wrong: share of wrong classes, in the second table.
        seed: of all that is drawn.

    References:
        T. Gao, X. Huo, H. Liu, H. Gao (2023), Wide neural networks as Gaussian processes: lessons
        from deep equilibrium models. Theirs are sigma_w, both activations and the outputs' width.
    """

    name: ClassVar[str] = "nngp"
    images: int = 1000
    networks: int = 2000
    draws: int = 400
    widths: tuple[int, ...] = (32, 64, 128, 256, 512)
    tangent_width: int = 2000
    output_width: int = 1000
    squares: tuple[int, ...] = (16, 32, 64, 128, 256)
    profiled: int = 100
    trained: tuple[int, ...] = (32, 256)
    epochs: int = 40
    wrong: float = 0.2
    seed: int = 0

    def parts(self) -> Mapping[str, Part]:
        """Return the parts by name."""
        found = {
            "width": Part(2 * len(self.widths), self.width),
            "tangent": Part(3, self._tangent),
            "outputs": Part(2, self.outputs),
            "eigenvalues": Part(3, self._eigenvalues),
            "exchange": Part(2 * len(self.squares), self._exchange),
        }
        for share in (0.0, self.wrong):
            found[f"kernels_{share:g}"] = Part(
                2 * len(learning.RIDGES), partial(self._kernels, share)
            )
            for width in self.trained:
                found[f"deq_{width}_{share:g}"] = Part(
                    self.epochs, partial(self._trained, width, share)
                )
        return found

    def width(self, advance: Advance, device: torch.device = CPU) -> Result:
        """Measure the squared relative error of the covariance of four digits by width."""
        x, found = self._one_each(4).to(device), {}
        for name, phi in PHI.items():
            kernel, rows = DEQKernel(phi)(x), []
            for n in self.widths:
                drawn = sample_deqs(x, n, self.draws, activation=phi, seed=self.seed + n).nngp
                error = (drawn - kernel).square().sum((1, 2)) / kernel.square().sum()
                rows.append({"width": n, "mean": float(error.mean()),
                             "deviation": float(error.std()) / math.sqrt(self.draws)})  # fmt: skip
                advance(1)
            found[name] = {"rows": rows, "slope": _slope(rows, "width", "mean")}
        return found

    def _tangent(self, advance: Advance) -> Result:
        """Measure the relative error of the tangent kernel at n = 2000."""
        x = self._one_each(4)
        kernel, errors = DEQKernel().ntk(x), []
        for draw in range(3):
            found = sample_deq(x, self.tangent_width, seed=self.seed + draw).ntk
            errors.append(float((found - kernel).norm() / kernel.norm()))
            advance(1)
        return {"width": self.tangent_width, "errors": errors}

    def outputs(self, advance: Advance, device: torch.device = CPU) -> Result:
        """Test three outputs at two digits against the predicted Gaussian."""
        x, found = self._one_each(2).to(device), {}
        for name, phi in PHI.items():
            drawn = sample_deqs(
                x, self.output_width, self.networks, activation=phi, outputs=3, seed=self.seed
            ).outputs
            kernel = DEQKernel(phi)(x)
            tests = gaussianity(drawn.mT.flatten(1), torch.kron(torch.eye(3).to(kernel), kernel))
            scaled = drawn[:, 0] / kernel[0, 0].sqrt()
            counts, edges = np.histogram(scaled[:, 0].cpu().numpy(), BINS, (-4, 4), density=True)
            found[name] = {
                "ks": tests.marginal.tolist(),
                "p": tests.p_marginal.tolist(),
                "joint": tests.joint,
                "p of joint": tests.p_joint,
                "largest correlation": tests.correlation,
                "histogram": {"edges": edges.tolist(), "density": counts.tolist()},
                "three outputs": scaled[:500].tolist(),
            }
            advance(1)
        return found

    def _eigenvalues(self, advance: Advance) -> Result:
        """Measure least eigenvalues by depth, sigma_w and width."""
        x = self._digits.x[: self.profiled]
        depths, sigmas = list(range(1, 13)), [0.1 * k for k in range(1, 13)]
        by_depth = {
            name: [least_eigenvalue(DEQKernel(phi, depth=d)(x)) for d in depths]
            for name, phi in PHI.items()
        }
        antipodal = torch.cat((x[:-1], -x[:1]))
        odd = {name: least_eigenvalue(DEQKernel(phi)(antipodal)) for name, phi in PHI.items()}
        advance(1)
        by_sigma = {
            name: [least_eigenvalue(DEQKernel(phi, sigma_w=s)(x)) for s in sigmas]
            for name, phi in PHI.items()
        }
        advance(1)
        widths = [len(x) * 2**k // 4 for k in range(7)]
        by_width = [least_eigenvalue(sample_deq(x, n, seed=self.seed).nngp) for n in widths]
        limit = least_eigenvalue(DEQKernel()(x))
        advance(1)
        return {
            "inputs": len(x), "with an antipodal pair": odd, "limit": limit,
            "depth": {"at": depths, **by_depth},
            "sigma_w": {"at": sigmas, **by_sigma},
            "width": {"at": widths, "relu": by_width},
        }  # fmt: skip

    def _exchange(self, advance: Advance) -> Result:
        """Let depth be the width, and the width grow: do kernels go where those of the limits go?

        For a DEQ the limit is that of depth and width in either order; for a plain network that of
        width at each depth, as there is no other.
        """
        x = self._one_each(2)
        c: dict[str, list[float]] = {"deq": [], "plain": []}
        found: Result = {"deq": [], "plain": []}
        plain = partial(MLPKernel, ReLU(), CRITICAL, CRITICAL)
        for n in self.squares:
            limits = {"deq": DEQKernel()(x), "plain": plain(depth=n)(x)}
            drawn = {
                "deq": sample_deqs(x, n, self.draws, depth=n, seed=self.seed + n).nngp,
                "plain": sample_mlps(
                    x, n, n, self.draws, sigma_w=CRITICAL, sigma_u=CRITICAL, seed=self.seed + n
                ),
            }
            for name, limit in limits.items():
                share = drawn[name][:, 0, 0] / limit[0, 0]
                low, middle, high = torch.quantile(
                    share, share.new_tensor([0.1, 0.5, 0.9])
                ).tolist()
                off = float((share - 1).abs().median())
                found[name].append(
                    {"width": n, "median": middle, "low": low, "high": high, "off": off}
                )
                advance(1)
        depths = [1, 2, 4, 8, 16, 32, 64, 128, 256]
        for d in depths:
            kernels = {"deq": DEQKernel(depth=d)(x), "plain": plain(depth=d)(x)}
            for name, k in kernels.items():
                c[name].append(float(k[0, 1] / (k[0, 0] * k[1, 1]).sqrt()))
        return {
            "depth is width": found,
            "slope": {name: _slope(rows, "width", "off") for name, rows in found.items()},
            "correlation": {"depth": depths, **c},
        }

    def _kernels(self, share: float, advance: Advance) -> Result:
        """Learn the digits with both kernels, a share of them with wrong classes."""
        data = self._digits.flipped(share, self.seed)
        return {
            name: learning.regress(name, DEQKernel(), data, advance) for name in ("nngp", "ntk")
        }

    def _trained(self, width: int, share: float, advance: Advance) -> Result:
        data = self._digits.flipped(share, self.seed)
        return learning.train(
            width, data, epochs=self.epochs, batch=64, seed=self.seed, advance=advance
        )

    @property
    def _digits(self) -> learning.Classes:
        data = load("digits")
        images = torch.cat((data.train_images, data.test_images))
        labels = torch.cat((data.train_labels, data.test_labels))
        order = stratified_order(labels, self.seed)
        a, b = order[: self.images], order[self.images :]
        if not len(b):
            raise ValueError(
                f"images must leave some of the {len(order)} digits to test by; got {self.images}."
            )
        return learning.Classes.of(images[a], labels[a], images[b], labels[b])

    def _one_each(self, count: int) -> Tensor:
        """Return the first digit of each of some classes, (count, 64)."""
        data = self._digits
        return torch.stack([data.x[data.y == k][0] for k in range(count)])

    def claims(self, found: Mapping[str, Result]) -> Sequence[Claim]:
        """Return the verdicts."""
        claims = [
            Claim(f"{name}: n x squared error of the covariance is constant",
                  f"slope {each['slope']:.3f} in [-1.1, -0.9]", -1.1 <= each["slope"] <= -0.9)
            for name, each in found["width"].items()
        ]  # fmt: skip
        error = max(found["tangent"]["errors"])
        claims.append(
            Claim(
                f"networks of width {self.tangent_width} have the tangent kernel",
                f"off by {error:.1%} < 8%",
                error < 0.08,
            )
        )
        for name, each in found["outputs"].items():
            least = min(*each["p"], each["p of joint"])
            claims.append(
                Claim(f"{name}: outputs are jointly Gaussian and independent",
                      f"KS up to {max(each['ks']):.4f}, least p {least:.3f}, largest correlation "
                      f"{each['largest correlation']:.3f}",
                      least > 1e-3 and each["largest correlation"] < 4 / math.sqrt(self.networks))
            )  # fmt: skip
        values = found["eigenvalues"]
        least = min(min(values["depth"][name]) for name in PHI)
        odd = values["with an antipodal pair"]
        claims += [
            Claim("distinct inputs have a positive definite kernel",
                  f"least eigenvalue {least:.1e}",
                  least > 1e-10),
            Claim("... unless phi is odd and two are antipodal",
                  f"tanh {odd['tanh']:.0e}, relu {odd['relu']:.0e}",
                  abs(odd["tanh"]) < 1e-10 < odd["relu"]),
        ]  # fmt: skip
        slope, plain = found["exchange"]["slope"], found["exchange"]["depth is width"]["plain"]
        c = {name: found["exchange"]["correlation"][name][-1] for name in ("deq", "plain")}
        claims += [
            Claim("width and depth commute for a DEQ", "at depth = width it is off by n^"
                  f"{slope['deq']:.2f}; correlation {c['deq']:.3f} at depth 256",
                  slope["deq"] < -0.35 and c["deq"] < 0.99),
            Claim("... and not for a plain network", f"off by {plain[-1]['off']:.0%}, n^"
                  f"{slope['plain']:.2f}; correlation {c['plain']:.3f}",
                  slope["plain"] > -0.1 and c["plain"] > 0.99),
        ]  # fmt: skip
        for share in (0.0, self.wrong):
            for name, each in found[f"kernels_{share:g}"].items():
                row, top = each["rows"][0], learning.best(each["rows"])
                claims.append(
                    Claim(f"{name}, {share:.0%} wrong: fits all, and test accuracy stays within a "
                          "point of the best ridge's",
                          f"train {row['train']:.1%}, test {row['test']:.1%} of {top:.1%}",
                          row["train"] == 1 and row["test"] >= top - 0.01)
                )  # fmt: skip
        return claims


def _slope(rows: Sequence[Mapping[str, float]], x: str, y: str) -> float:
    """Return the slope in a plane of logarithms."""
    across, up = (np.log([row[name] for row in rows]) for name in (x, y))
    return float(np.polyfit(across, up, 1)[0])
