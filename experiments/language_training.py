"""Train a language model for so many minutes, in as many calls as it takes; say what it costs."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_

from experiments.characters import Corpus, batch, bits
from experiments.transformers import LanguageModel
from homotopy_deq.layers import ImplicitLayer, Layer
from homotopy_deq.regularization import jacobian_penalty
from homotopy_deq.training.backward import FailedBackward
from homotopy_deq.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from homotopy_deq.training.optim import load_state, state_tensors

WARM = 0.03  # part of the time in which the learning rate rises


@dataclass(frozen=True)
class Training:
    """How a model is trained; the same for all.

    Arguments:
        minutes: of training; a processor's own time where the device is one, so that other work
            on the machine costs no model its steps. Validating and writing are not counted.
        batch: windows a step.
        length: characters of a window.
        lr: highest learning rate; it rises over the first 3% of the time and falls to 0 along a
            cosine.
        decay: weight decay of the matrices.
        penalty: weight of ||J||_F^2 / n at an equilibrium in the loss; of no meaning to a model
            that solves nothing.
        clip: largest norm of a gradient.
        every: minutes from one validation and checkpoint to the next.
        device: where.
        seed: of the weights, the windows and the dropout.
    """

    minutes: float = 15.0
    batch: int = 8
    length: int = 96
    lr: float = 1e-3
    decay: float = 0.1
    penalty: float = 10.0
    clip: float = 1.0
    every: float = 1.0
    device: str = "cpu"
    seed: int = 0

    def rate(self, part: float) -> float:
        """Return the learning rate when a part of the time is over."""
        return self.lr * min(part / WARM, 1.0) * 0.5 * (1 + math.cos(math.pi * min(part, 1.0)))

    @property
    def clock(self) -> Callable[[], float]:
        """Return what tells the seconds that are counted."""
        return time.process_time if self.device == "cpu" else time.perf_counter


class Evaluations:
    """The logits of a model, with a tally of what its solves took.

    Arguments:
        model: evaluated as it is.
        layer: in the place of its body; the body by default.
    """

    def __init__(self, model: LanguageModel, layer: nn.Module | None = None) -> None:
        self.model = model
        self.layer = model.body if layer is None else layer
        self.evals: list[Tensor] = []
        self.residuals: list[Tensor] = []
        self.converged: list[Tensor] = []

    def __call__(self, text: Tensor) -> Tensor:
        x = self.model.embedded(text)
        if not isinstance(self.layer, Layer):
            return self.model.read(self.layer(x))
        found = self.layer.solve(x)
        self.evals.append(found.evals.cpu())
        self.residuals.append(found.residual.detach().cpu())
        self.converged.append(found.converged.cpu())
        return self.model.read(found.value)

    def figures(self) -> dict[str, float]:
        """Return evaluations, median residual and the part that converged, where there are any."""
        if not self.evals:
            return {}
        return {
            "evaluations": round(float(torch.cat(self.evals).double().mean()), 2),
            "median residual": float(torch.cat(self.residuals).median()),
            "converged": round(float(torch.cat(self.converged).double().mean()), 4),
        }


def train(model: LanguageModel, text: Corpus, how: Training, file: Path) -> dict[str, Any]:
    """Train a model, or go on with it; leave it with the weights that were best on validation.

    Returns:
        Steps, seconds and a curve: a point at each validation.
    """
    model.to(how.device)
    optimizer = torch.optim.AdamW(_groups(model, how.decay), lr=how.lr)
    state = _resumed(model, optimizer, file) if file.exists() else _begun(model)
    budget, clock = 60 * how.minutes, how.clock
    with FailedBackward() as backward:
        while state["seconds"] < budget:
            step, begun = state["step"], clock()
            for group in optimizer.param_groups:
                group["lr"] = how.rate(state["seconds"] / budget)
            loss = learn(model, optimizer, text.train, how, step)
            state["step"] += 1
            state["seconds"] += clock() - begun
            state["loss"] = 0.98 * state["loss"] + 0.02 * loss if step else loss
            if state["seconds"] >= min(budget, 60 * how.every * (len(state["curve"]) + 1)):
                state["inexact gradients"] += backward.count
                backward.count = 0
                _validate(model, text.validation, how, state)
                _save(file, model, optimizer, state)
    model.load_state_dict(state["best"])
    names = ("seconds", "inexact gradients", "best validation", "curve")
    return {"steps": state["step"], **{name: state[name] for name in names}}


def learn(
    model: LanguageModel, optimizer: torch.optim.Optimizer, text: Tensor, how: Training, step: int
) -> float:
    """Take a step of training and return its loss, in bits per character."""
    torch.manual_seed(how.seed * 1_000_003 + step)  # of the dropout
    seen, wanted = batch(text, how.batch, how.length, how.seed, step)
    model.train()
    x = model.embedded(seen.to(how.device))
    z, extra = answer(model.body, x, how.penalty)
    loss = F.cross_entropy(model.read(z).flatten(0, 1), wanted.to(how.device).flatten())
    optimizer.zero_grad()
    (loss + extra).backward()
    clip_grad_norm_(model.parameters(), how.clip, error_if_nonfinite=True)
    optimizer.step()
    return loss.item() / math.log(2)


def answer(body: nn.Module, x: Tensor, weight: float) -> tuple[Tensor, Tensor | float]:
    """Return a body's output, and the weighted Jacobian penalty of one that solves."""
    if not isinstance(body, ImplicitLayer) or not weight:
        return body(x), 0.0
    condition = body.condition(x)  # with one mask for the solve and the penalty
    z = body.answer(condition, body.initial(x)).value
    return z, weight * jacobian_penalty(body.cell, z.detach(), *condition)


def cost(model: LanguageModel, text: Tensor, how: Training, steps: int = 5) -> dict[str, float]:
    """Return what a step takes, in a process that has done nothing else: time, memory, calls.

    Arguments:
        model: on its device.
        text: to train on.
        how: the training.
        steps: timed, after one that is not.
    """
    calls = {"forward": 0, "backward": 0}

    def count(module: nn.Module, args: Any, out: Tensor) -> None:
        calls["forward"] += 1
        if out.requires_grad:
            out.register_hook(lambda _: calls.__setitem__("backward", calls["backward"] + 1))

    cells = [m for m in model.modules() if type(m).__name__ == "AttentionCell"]
    for cell in cells:
        cell.register_forward_hook(count)
    optimizer = torch.optim.AdamW(_groups(model, how.decay), lr=0.0)  # the weights stay
    before = _peak(how.device)
    seconds = []
    for step in range(steps + 1):
        if step == 1:
            calls.update(forward=0, backward=0)
        begun = how.clock()
        learn(model, optimizer, text, how, step)
        seconds.append(how.clock() - begun)
    return {
        "seconds a step": round(sorted(seconds[1:])[steps // 2], 4),
        "evaluations forward": round(calls["forward"] / steps / len(cells), 2),
        "evaluations backward": round(calls["backward"] / steps / len(cells), 2),
        "MiB of a step": round(_peak(how.device) - before, 1),
    }


def _peak(device: str) -> float:
    """Return the most memory in MiB up to now: of the GPU, or of the process."""
    if device == "cpu":  # not by getrusage, which begins with the peak of the parent process
        (line,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return int(line) / 2**10
    return torch.cuda.max_memory_allocated() / 2**20


def _groups(model: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Return the parameters with weight decay, which are the matrices, and those without."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


def _validate(model: LanguageModel, text: Tensor, how: Training, state: dict[str, Any]) -> None:
    """Add a point to the curve, and keep the weights if they are the best up to now."""
    model.eval()
    seen = Evaluations(model)
    found = round(float(bits(seen, text, how.length, how.device).mean()), 4)
    point = {"minutes": round(state["seconds"] / 60, 2), "step": state["step"]}
    point |= {"training": round(state["loss"], 4), "validation": found, **seen.figures()}
    state["curve"].append(point)
    if found <= state["best validation"]:
        state["best validation"] = found
        state["best"] = {name: t.detach().clone() for name, t in model.state_dict().items()}


def _begun(model: nn.Module) -> dict[str, Any]:
    return {
        "step": 0,
        "seconds": 0.0,
        "loss": 0.0,
        "inexact gradients": 0,
        "best validation": math.inf,
        "curve": [],
        "best": model.state_dict(),
    }


def _save(
    file: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]
) -> None:
    tensors = {f"model.{name}": t for name, t in model.state_dict().items()}
    tensors |= {f"best.{name}": t for name, t in state["best"].items()}
    tensors |= {f"optimizer.{name}": t for name, t in state_tensors(optimizer).items()}
    save_checkpoint(file, Checkpoint(tensors, {k: v for k, v in state.items() if k != "best"}))


def _resumed(model: LanguageModel, optimizer: torch.optim.Optimizer, file: Path) -> dict[str, Any]:
    found = load_checkpoint(file)
    model.load_state_dict(found.under("model"))
    load_state(optimizer, found.under("optimizer"))
    return {**found.meta, "best": found.under("best")}
