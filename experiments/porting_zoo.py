"""Port torchdeq's own examples by their import lines, and run both versions side by side.

    git clone https://github.com/locuslab/torchdeq zoo
    python -m experiments.porting_zoo --zoo zoo

Each example's folder is copied twice. What keeps it from running today is changed in both copies;
in one the imports of torchdeq are changed to `homotopy_deq.compat`, and the lines that differ are
the port. Then one step at the same weights, data and seed, by the options of the example's own
script and, where both can finish it, with exact gradients: evaluations, time (least of several,
interleaved), the worst relative residual, measured anew, and how far losses and gradients differ;
and ten steps of training. A run that is stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from experiments.parts import Parts
from experiments.porting_copies import copies, importable
from experiments.porting_examples import EXAMPLES, Case, Example
from experiments.results import RESULTS, Record
from homotopy_deq import compat


@dataclass(frozen=True)
class Config:
    seed: int = 0
    repeats: int = 3
    training: int = 10


class Run:
    """A case whose solves are counted and whose last answer is kept."""

    def __init__(self, case: Case, coupled: bool) -> None:
        self.case, self.coupled, self.calls = case, coupled, 0
        named = case.model.named_modules()
        (self.name,) = (name for name, _ in named if name.split(".")[-1] == "deq")
        self.swap(case.model.get_submodule(self.name))

    def swap(self, deq: nn.Module) -> None:
        """Solve by this module."""
        parent, _, child = self.name.rpartition(".")
        setattr(self.case.model.get_submodule(parent), child, deq)
        deq.register_forward_pre_hook(self._count)
        deq.register_forward_hook(self._keep)

    def _count(self, module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        self.function = args[0]

        def counted(*z: Tensor) -> Any:
            self.calls += 1
            return self.function(*z)

        return counted, *args[1:]

    def _keep(self, module: Any, args: Any, output: Any) -> None:
        last = output[0][-1]
        self.answer = [last] if isinstance(last, Tensor) else list(last)

    def step(self, seed: int) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Take one step, and say what it took and its gradients."""
        self.case.model.train()
        self.case.model.zero_grad()
        torch.manual_seed(seed)
        self.calls, begin = 0, time.perf_counter()
        loss = self.case.loss()
        forward, calls = time.perf_counter() - begin, self.calls
        loss.backward()
        whole = time.perf_counter() - begin
        found = {
            plain(name): weight.grad.detach().clone()
            for name, weight in self.case.model.named_parameters()
            if weight.grad is not None
        }
        row = {
            "evaluations": calls, "residual": self.residual(), "forward, ms": 1e3 * forward,
            "step, ms": 1e3 * whole, "loss": float(loss.detach()),
        }  # fmt: skip
        return row, found

    @torch.no_grad()
    def residual(self) -> float:
        """Return the worst ||f(z) - z|| / ||f(z)|| of a sample at the last answer."""
        image = self.function(*self.answer)
        images = [image] if isinstance(image, Tensor) else list(image)
        after, before = (torch.cat([t.flatten(1) for t in ts], 1) for ts in (images, self.answer))
        gap, size = (after - before).double(), after.double()
        if self.coupled:
            return float(gap.norm() / size.norm())
        return float((gap.norm(dim=1) / size.norm(dim=1)).max())

    def train(self, steps: int, seed: int) -> list[float]:
        """Return the losses of the example's own training, or of steps of Adam."""
        torch.manual_seed(seed)
        if self.case.train is not None:
            return self.case.train(steps)
        optimizer = torch.optim.Adam(self.case.model.parameters(), lr=1e-4)
        losses = []
        for _ in range(steps):
            optimizer.zero_grad()
            loss = self.case.loss()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        return losses


def plain(name: str) -> str:
    """Return torchdeq's name of a weight: w_v and w_g are what a normed w is computed from."""
    name = re.sub(r"parametrizations\.(\w+)\.original$", r"\1_v", name)
    return re.sub(r"parametrizations\.(\w+)\.0\.scale$", r"\1_g", name)


def apart(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Return ||a - b|| / ||b|| of two gradients, which must be of the same weights."""
    if a.keys() != b.keys():
        raise ValueError(f"gradients of other weights: {sorted(a.keys() ^ b.keys())}.")
    one, two = (torch.cat([g[k].double().flatten() for k in sorted(b)]) for g in (a, b))
    return float((one - two).norm() / two.norm())


class Plain(nn.Module):
    """Iterate f for long and differentiate the last steps: what every solver should find."""

    def __init__(self, before: int, steps: int) -> None:
        super().__init__()
        self.before, self.steps = before, steps

    def forward(self, f: Any, z0: Any, *_: Any, **__: Any) -> tuple[list[Any], dict[str, Tensor]]:
        single = isinstance(z0, Tensor)
        z = (z0,) if single else tuple(z0)
        for k in range(self.before + self.steps):
            with torch.set_grad_enabled(k >= self.before):
                image = f(*z)
                z = (image,) if single else tuple(image)
        found = z[0] if single else list(z)
        return [found], compat.solver_stat_from_final_step(found, found)


Sides = tuple[tuple[str, Path, ModuleType], ...]


def built(config: Config, example: Example, folder: Path, words: str, names: ModuleType) -> Run:
    """Return an example's model and step, made by one copy of its files."""
    with importable(folder / example.path):
        torch.manual_seed(config.seed)
        return Run(example.make(folder, words.split(), names), example.coupled)


def measured(config: Config, example: Example, sides: Sides, words: str) -> dict[str, Any]:
    """Return what a step takes on each side, its loss and its gradients."""
    runs = {name: built(config, example, folder, words, of) for name, folder, of in sides}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    gradients: dict[str, dict[str, Tensor]] = {}
    for _ in range(config.repeats + 1):  # the first warms up
        for name, run in runs.items():
            row, gradients[name] = run.step(config.seed)
            found[name].append(row)
    result: dict[str, Any] = {
        name: {key: min(row[key] for row in rows[1:]) for key in rows[0]}
        for name, rows in found.items()
    }
    return {"runs": runs, "gradients": gradients, "rows": result}


def own(config: Config, example: Example, sides: Sides) -> dict[str, Any]:
    """Compare the two by the options of the example's own script, and train both."""
    found = measured(config, example, sides, example.words)
    rows, gradients = found["rows"], found["gradients"]
    theirs = rows["torchdeq"]["loss"]
    rows["loss apart"] = abs(rows["ours"]["loss"] - theirs) / abs(theirs)
    rows["gradient apart"] = apart(gradients["ours"], gradients["torchdeq"])
    for name, folder, _ in sides:
        with importable(folder / example.path):
            rows[name]["training"] = found["runs"][name].train(config.training, config.seed)
    return dict(rows)


def exact(config: Config, example: Example, sides: Sides) -> dict[str, Any]:
    """Compare both, by exact gradients, with an iteration of 300 steps and its derivative."""
    words = f"{example.words} {example.exact}"
    found = measured(config, example, sides, words)
    plainly = built(config, example, sides[0][1], words, sides[0][2])
    plainly.swap(Plain(200, 100))
    truth, gradient = plainly.step(config.seed)
    for name, row in found["rows"].items():
        row["loss error"] = abs(row["loss"] - truth["loss"]) / abs(truth["loss"])
        row["gradient error"] = apart(found["gradients"][name], gradient)
    found["rows"]["iterated"] = {key: truth[key] for key in ("residual", "loss")}
    return dict(found["rows"])


def sides_by_side(config: Config, name: str, zoo: Path, example: Example) -> dict[str, Any]:
    """Port one example, say which lines changed, and measure both versions."""
    import torchdeq

    with tempfile.TemporaryDirectory() as work, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of the examples' own calls
        today, port, changes = copies(
            zoo / example.folder, Path(work), example.files, example.today, example.port
        )
        for each in changes["port"]:
            lines = [f"- {line}" for line in each["before"]]
            lines += [f"+ {line}" for line in each["after"]]
            print(f"{name}: {each['file']}:{each['line']}", *lines, sep="\n  ", flush=True)
        sides = (("torchdeq", today, torchdeq), ("ours", port, compat))
        found = {
            "folder": example.folder, "changes": changes,
            "reasons": [asdict(change) for change in (*example.today, *example.port)],
            "options": {"its own": example.words, "exact": example.exact},
            "its own": own(config, example, sides),
        }  # fmt: skip
        if example.exact:
            found["exact"] = exact(config, example, sides)
    print(name, {k: found.get(k) for k in ("its own", "exact")}, flush=True)
    return found


def main(
    zoo: Path,
    config: Config = Config(),  # noqa: B008
    results: Path = RESULTS,
    examples: Mapping[str, Example] = EXAMPLES,
    work: Path = Path("runs/porting_zoo"),
) -> Path:
    """Port, measure, and write experiments/results/porting_zoo.json."""
    torch.set_num_threads(1)
    record, parts = Record("porting_zoo", config), Parts(work, config)
    body = {
        name: parts(re.sub(r"\W+", "-", name), partial(sides_by_side, config, name, zoo, example))
        for name, example in examples.items()
    }
    path = record.write({"torchdeq": version("torchdeq"), "examples": body}, results)
    print(f"Written to {path}")
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--zoo", type=Path, required=True, help="a checkout of torchdeq")
    parser.add_argument("--repeats", type=int, default=Config.repeats)
    parser.add_argument("--only", nargs="+", default=list(EXAMPLES), help="names of examples")
    parser.add_argument("--work", type=Path, default=Path("runs/porting_zoo"))
    args = parser.parse_args()
    if not (args.zoo / "deq-zoo").is_dir():
        parser.error(f"{args.zoo} has no folder deq-zoo: give a checkout of torchdeq's repository.")
    if unknown := sorted({*args.only} - EXAMPLES.keys()):
        parser.error(f"--only takes {', '.join(EXAMPLES)}; got {', '.join(unknown)}.")
    chosen = {name: EXAMPLES[name] for name in args.only}
    main(args.zoo, Config(repeats=args.repeats), examples=chosen, work=args.work)
