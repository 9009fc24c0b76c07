"""Watch neural collapse of a DEQ and of an explicit peer, and who is better when imbalanced.

    python -m experiments.neural_collapse --fashion DIR [--cifar10 DIR] [--cifar100 DIR]

Both have the same convolutions, a block of p x p weights, z = relu(W z + x) or relu(W relu(x)), and
one linear map: equal numbers of parameters, equal first weights, equal images in equal order, and
the layer-peeled objective of `homotopy_deq.theory.peers`. They learn balanced classes, or `ratio`
times more images of each of the first `majority` classes; all are tested on the whole test set. A
third network is the control: the explicit peer with a decay that is weaker by the DEQ's gain.

Each finished run is written at once to --work, and a killed call is gone on with by the same
command. Several processes (--workers, or several calls) share one folder: none does what another is
doing or has done.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import MISSING, asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from experiments.collapse_runs import PEERS, RATIOS, Config, Job, cases, jobs, measure, steps
from experiments.collapse_summary import FINAL, by_point, short, summary, verdict
from experiments.kept import made, making
from experiments.results import RESULTS, ROOT, Record
from homotopy_deq.plotting import collapse_figure, save
from homotopy_deq.training.checkpoint import replace_file
from homotopy_deq.training.folder import locked

TYPES = {"cifar10": Path, "cifar100": Path, "minutes": float, "test_limit": int}
PAPER = {
    "data": "CIFAR-10, CIFAR-100",
    "network": "a backbone, then a DEQ or an explicit network, then one affine map",
    "imbalance": "R in 10, 50, 100; majority and minority classes (3, 7), (5, 5), (7, 3)",
    "not known to us": "its backbones, sizes, optimiser and epochs",
}


def file(config: Config, job: Job) -> Path:
    """Return where a finished run is."""
    return config.work / job.name / "run.json"


def settings(config: Config) -> dict[str, Any]:
    """Return what a run depends on, and the images' folders do not decide."""
    free = ("fashion", "cifar10", "cifar100", "work", "workers", "minutes", "seeds", "seed")
    return {name: value for name, value in asdict(config).items() if name not in free}


def finished(config: Config) -> dict[Job, dict[str, Any]]:
    """Return the runs that are done, which must be of these settings."""
    found = {}
    for job in jobs(config):
        if file(config, job).exists():
            held = json.loads(file(config, job).read_text())
            if held["settings"] != settings(config):
                raise SystemExit(
                    f"{config.work / job.name} was made with other settings: delete it, or choose "
                    "another --work."
                )
            found[job] = held["run"]
    return found


def work(config: Config, until: float) -> Iterator[Job]:
    """Do the runs that nobody has done or is doing, until no other would end in time."""
    torch.set_num_threads(1)
    took = dict.fromkeys(PEERS, 0.0)  # a step of the last run of each
    for job in jobs(config):
        length = steps(config, job.case)
        if file(config, job).exists() or time.time() + length * took[job.peer] > until:
            continue
        try:
            with locked(config.work / "locks" / job.name):
                if file(config, job).exists():
                    continue
                with making(config.work / job.name):
                    run = measure(config, job)
                    took[job.peer] = run["seconds"] / length
                    body = {"settings": settings(config), "run": run}
                    file(config, job).parent.mkdir(parents=True, exist_ok=True)
                    replace_file(file(config, job), (json.dumps(body) + "\n").encode())
                yield job
        except FileExistsError:  # another process is at it
            continue


def gather(config: Config, record: Record, folder: Path = RESULTS) -> Path | None:
    """Write what is done so far to neural_collapse.json in a folder."""
    found = finished(config)
    if not found:
        return None
    notes = made([config.work / job.name for job in found])
    result = {
        "paper": PAPER,
        "runs finished": len(found),
        "runs planned": len(jobs(config)),
        "seconds of all runs": round(sum(run["seconds"] for run in found.values()), 1),
        "parameters": sorted({run["parameters"] for run in found.values()}),
        "cases": {
            case.name: summary([r for j, r in found.items() if j.case == case])
            for case in cases(config)
            if any(job.case == case for job in found)
        },
        "verdict": {f"deq - {o}": verdict(list(found.values()), o) for o in PEERS[1:]},
        "runs": [
            {**{k: v for k, v in run.items() if k not in ("points", "last")},
             **{k: run["last"][k] for k in FINAL}}
            for run in found.values()
        ],
    }  # fmt: skip
    return record.write(short(result), folder, started=notes.started)


def draw(config: Config, where: Path) -> None:
    """Draw the curves of each training set in the folder of the runs."""
    for name, case in json.loads(where.read_text())["result"]["cases"].items():
        figure = collapse_figure({peer: by_point(curve) for peer, curve in case["curves"].items()})
        save(figure, config.work / f"{name}.png")


def main(config: Config, folder: Path = RESULTS) -> None:
    """Do the runs in processes that share them; write the JSON as they go on, and at the end."""
    console, record = Console(), Record("neural_collapse", config)
    if config.most < max(RATIOS):
        raise SystemExit(f"--most must be at least {max(RATIOS)}; got {config.most}.")
    finished(config)  # refuses other settings before anything is done
    until = time.time() + 60 * (config.minutes or 1e6)
    if config.workers == 1:
        for job in work(config, until):
            console.print(f"{job.name} done", highlight=False)
            gather(config, record, folder)
    else:
        words = [sys.executable, "-m", "experiments.neural_collapse", *sys.argv[1:]]
        words += ["--until", str(until)]
        processes = [subprocess.Popen(words, cwd=ROOT) for _ in range(config.workers)]
        while any(process.poll() is None for process in processes):
            time.sleep(20)
            gather(config, record, folder)
            console.print(f"{len(finished(config))} of {len(jobs(config))} runs", highlight=False)
        if any(process.returncode for process in processes):
            raise SystemExit("a worker failed: see above. What is done is kept.")
    where = gather(config, record, folder)
    if where is not None:
        draw(config, where)
    console.print(f"Written to {where}" if where else "No run was finished.")


def arguments() -> tuple[Config, float | None]:
    """Return what the command line asks for, and until when a worker works."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for each in Config.__dataclass_fields__.values():
        option = "--" + each.name.replace("_", "-")
        if each.default is MISSING:
            parser.add_argument(option, type=Path, required=True)
        else:
            kind = TYPES.get(each.name, type(each.default))
            parser.add_argument(
                option, type=kind, default=each.default, help=f"default: {each.default}"
            )
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    chosen = vars(parser.parse_args())
    until = chosen.pop("until")
    return Config(
        **{n: v.resolve() if isinstance(v, Path) else v for n, v in chosen.items()}
    ), until


if __name__ == "__main__":
    config, until = arguments()
    if until is None:
        main(config)
    else:
        for _ in work(config, until):
            pass
