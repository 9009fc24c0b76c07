"""Train a language model whose transformer is an equilibrium, beside two that are none.

    python -m experiments.language                    # 15 minutes a model, one thread
    python -m experiments.language --minutes 1 --channels 64

One block, `homotopy_deq.cells.AttentionCell`, and the characters of the help texts that come with
Python. The equilibrium transformer solves for the block's fixed point; the explicit one is a stack
of narrower blocks, with as many parameters; the weight-tied one applies the one block as many times
as the equilibrium takes evaluations forward. All see the same windows for the same minutes; the
equilibrium has a penalty on its Jacobian in its loss, without which it soon takes ever more
evaluations and leaves some solves unfinished. Then each is judged on the whole held-out text, and
the cells of the two that have one cell are handed to other solvers. Everything is kept in --work,
minute by minute, and gone on with when the command is given again.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from experiments.characters import Corpus, bits, block_means, corpus, summary
from experiments.language_training import Evaluations, Training, cost, train
from experiments.parts import Parts
from experiments.results import RESULTS, Record
from experiments.transformers import (
    LanguageModel,
    Looped,
    equilibrium,
    parameters,
    stacked,
    swapped,
)
from homotopy_deq import TSIT5, Anderson, Broyden, Flow, Picard, RungeKutta
from homotopy_deq.cells import AttentionCell
from solvers import Solver

EQUILIBRIUM, EXPLICIT, TIED = "equilibrium", "explicit", "weight-tied"
SWAPS: dict[str, Solver[Any, Any]] = {
    "Picard, to 1e-4": Picard(rtol=1e-4, max_steps=100),
    "Anderson, to 1e-4": Anderson(rtol=1e-4, max_steps=100),
    "Broyden, to 1e-4": Broyden(rtol=1e-4, max_steps=100),
    "flow to rest, to 1e-4": Flow(rtol=1e-4, max_steps=200),
    "flow to t = 5, tsit5": RungeKutta(TSIT5, rtol=1e-3, atol=1e-3),
}
TIMES = (1, 2, 3, 4, 6, 8, 12, 16)


@dataclass(frozen=True)
class Config:
    """The models' sizes, how they are trained and what is tried on them."""

    training: Training = field(default_factory=Training)
    channels: int = 96
    heads: int = 4
    depth: int = 4
    dropout: float = 0.1
    rtol: float = 1e-3
    max_steps: int = 30
    characters: int | None = None
    work: Path = Path("runs/language")
    seed: int = 0


def built(name: str, config: Config, alphabet: int, times: int) -> LanguageModel:
    """Return a model that is not trained.

    Arguments:
        name: which of the three.
        config: their sizes.
        alphabet: number of characters.
        times: how often the weight-tied one applies its block.
    """
    torch.manual_seed(config.seed)
    length, dropout = config.training.length, config.dropout
    cell = AttentionCell(config.channels, heads=config.heads, causal=True, dropout=dropout)
    body: nn.Module = (
        Looped(cell, times) if name == TIED else equilibrium(cell, config.rtol, config.max_steps)
    )
    model = LanguageModel(alphabet, length, config.channels, body, dropout)
    if name == EXPLICIT:
        return stacked(alphabet, length, config.depth, config.heads, dropout, parameters(model))
    return model


def costs(make: Callable[[], LanguageModel], weights: Any, text: Tensor, how: Training) -> Any:
    """Return what a step of a trained model costs; runs in a process of its own."""
    torch.set_num_threads(1)
    model = make()
    model.load_state_dict(weights)
    return cost(model.to(how.device), text, how)


def judged(model: LanguageModel, text: Tensor, how: Training, body: nn.Module) -> dict[str, Any]:
    """Return the bits that a model takes on a text with a body in the place of its own."""
    model.eval()
    seen = Evaluations(model, body.eval())
    spent = bits(seen, text, how.length, how.device)
    blocks = [round(float(mean), 5) for mean in block_means(spent)]
    return {**summary(spent), **seen.figures(), "blocks": blocks}


def swaps(model: LanguageModel, text: Tensor, how: Training, name: str) -> dict[str, Any]:
    """Return what the one cell of a model does under another solver, or so many applications."""
    body: Any = model.body
    if name in SWAPS:
        return judged(model, text, how, swapped(body, SWAPS[name]))
    times = int(name.split()[0])
    return judged(model, text, how, Looped(body.cell, times)) | {"evaluations": float(times)}


def measured(name: str, times: int, text: Corpus, config: Config, parts: Parts) -> dict[str, Any]:
    """Train one of the models and return all that is said of it, each part measured once."""
    how = config.training
    make = partial(built, name, config, len(text.alphabet), times)
    model = make()
    row: dict[str, Any] = {"parameters": parameters(model)}
    row |= train(model, text, how, config.work / f"{name}.checkpoint")
    row |= parts(f"{name}-held-out", lambda: judged(model, text.held_out, how, model.body))

    def apart() -> Any:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
            weights = {key: tensor.cpu() for key, tensor in model.state_dict().items()}
            return alone.submit(costs, make, weights, text.train, how).result()

    row["step"] = parts(f"{name}-step", apart)
    if name != EXPLICIT:
        row["swaps"] = {
            other: parts(
                f"{name}-{other}".replace(" ", "-").replace(",", ""),
                partial(swaps, model, text.held_out, how, other),
            )
            for other in (*SWAPS, *(f"{k} applications" for k in TIMES))
        }
    return row


def beside(rows: dict[str, Any]) -> dict[str, Any]:
    """Return how many bits more than the equilibrium the others take, with the standard error of
    the difference on the same blocks."""
    own = torch.tensor(rows[EQUILIBRIUM]["blocks"], dtype=torch.float64)
    found = {}
    for name in (EXPLICIT, TIED):
        apart = torch.tensor(rows[name]["blocks"], dtype=torch.float64) - own
        found[name] = {
            "bits more": round(float(apart.mean()), 4),
            "standard error": round(float(apart.std()) / len(apart) ** 0.5, 4),
        }
    return found


def main(config: Config, results: Path = RESULTS) -> None:
    """Train and judge the three models; write experiments/results/language.json."""
    torch.set_num_threads(1)
    console, record, parts = Console(), Record("language", config), Parts(config.work, config)
    text = corpus(config.characters)
    rows: dict[str, Any] = {}
    times = 0
    for name in (EQUILIBRIUM, EXPLICIT, TIED):
        with console.status(f"the {name} transformer"):
            rows[name] = row = measured(name, times, text, config, parts)
        if name == EQUILIBRIUM:
            times = round(row["evaluations"])
        console.print(
            f"{name}: {row['bits per character']} bits per character on the held-out text, "
            f"standard error {row['standard error']}; {row['parameters']:,} parameters, "
            f"{row['step']}",
            highlight=False,
        )
        for other, found in row.get("swaps", {}).items():
            console.print(
                f"  {other}: {found['bits per character']}, {found['evaluations']} evaluations",
                highlight=False,
            )
    result = {"text": text.about, "models": rows, "beside the equilibrium": beside(rows)}
    console.print(f"Written to {record.write(result, results)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=15.0, help="of training, a model")
    parser.add_argument("--batch", type=int, default=Training.batch)
    parser.add_argument("--length", type=int, default=Training.length)
    parser.add_argument("--lr", type=float, default=Training.lr)
    parser.add_argument("--penalty", type=float, default=Training.penalty, help="of the Jacobian")
    parser.add_argument("--every", type=float, default=Training.every, help="minutes a checkpoint")
    parser.add_argument("--device", default=Training.device)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--channels", type=int, default=Config.channels)
    parser.add_argument("--depth", type=int, default=Config.depth, help="of the explicit one")
    parser.add_argument("--dropout", type=float, default=Config.dropout)
    parser.add_argument("--rtol", type=float, default=Config.rtol, help="of training's solves")
    parser.add_argument("--characters", type=int, help="of the text; all by default")
    parser.add_argument("--work", type=Path, default=Path("runs/language"))
    chosen = vars(parser.parse_args())
    of_training = {f.name: chosen[f.name] for f in fields(Training) if f.name in chosen}
    of_models = {f.name: chosen[f.name] for f in fields(Config) if f.name in chosen}
    main(replace(Config(**of_models), training=Training(**of_training)))
