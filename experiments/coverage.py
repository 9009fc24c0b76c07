"""Count the false certificates of every rule where the true probability is known.

    python -m experiments.coverage

G is the base classifier that is certified, S what was computed in its place. A certificate is
false where the reported lower bound exceeds P(G = A). At level alpha, a sound rule's false
certificates among many runs stay below a high quantile of Binomial(runs, alpha); each rule is run
where its assumptions hold. Rules known to be unsound must leave that band, or this experiment
could not tell. Exits with 1 unless both are so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import binom

from experiments.results import Record, bare
from experiments.rules import (
    product_lower,
    randomized_clopper_pearson,
    srs_paper_lower,
    srs_theorem_lower,
)
from homotopy_deq.certification.sequence import BettingSequence, Decision
from homotopy_deq.certification.statistics import audited_lower, clopper_pearson

BATCH = 20  # samples of a batch share their solver's luck


@dataclass(frozen=True)
class Config:
    """Runs, the noise samples and the audit of each, and where the band ends."""

    runs: int = 2000
    samples: int = 10000
    audit: int = 400
    alpha: float = 0.05
    drift: float = 0.5
    quantile: float = 0.999
    seed: int = 0


@dataclass(frozen=True)
class Draw:
    """One run: which samples are A by G and by S, and whether S is proven to agree with G.

    Arguments:
        exact: G = A, bool (N,), i.i.d.
        short: S = A, bool (N,).
        proven: S = G was proven, bool (N,).
        audit: a random subset of the samples with S = A.
        u: uniform in [0, 1).
        p: P(G = A).
        p_short: P(S = A), where the samples of S are i.i.d., else nan.
        alpha: the level.
    """

    exact: np.ndarray
    short: np.ndarray
    proven: np.ndarray
    audit: np.ndarray
    u: float
    p: float
    p_short: float
    alpha: float

    def audited(self, chosen: np.ndarray) -> tuple[int, int, int, int, float]:
        """Return votes, samples, audited, disagreements and alpha, as the audit's rules want."""
        wrong = int(np.sum(~self.exact[chosen]))
        return int(self.short.sum()), len(self.short), len(chosen), wrong, self.alpha


Scenario = Callable[[Config, np.random.Generator], Draw]
Rule = Callable[[Draw], bool]


def independent(config: Config, rng: np.random.Generator) -> Draw:
    """S is G, P(G = A) = .9."""
    exact = rng.random(config.samples) < 0.9
    return finish(config, rng, exact, exact, np.ones_like(exact), 0.9, 0.9)


def drifting(config: Config, rng: np.random.Generator) -> Draw:
    """P(G = A) = .9; S errs towards A, ever more along the chain, in batches; proofs fail alike."""
    n = config.samples
    exact = rng.random(n) < 0.9
    position = np.arange(n) / n
    luck = np.repeat(rng.random(-(-n // BATCH)), BATCH)[:n]
    fails = luck < config.drift * position**2
    return finish(config, rng, exact, exact | fails, ~fails, 0.9, float("nan"))


def one_sided(config: Config, rng: np.random.Generator) -> Draw:
    """P(S = A) = .53 and P(G = A) = .45: S says A where G does, and independently elsewhere."""
    exact = rng.random(config.samples) < 0.45
    fails = rng.random(config.samples) < 0.08 / 0.55
    return finish(config, rng, exact, exact | fails, ~fails, 0.45, 0.53)


def finish(
    config: Config,
    rng: np.random.Generator,
    exact: np.ndarray,
    short: np.ndarray,
    proven: np.ndarray,
    p: float,
    p_short: float,
) -> Draw:
    """Audit at random after the chain has ended."""
    members = np.flatnonzero(short)
    audit = rng.choice(members, min(config.audit, len(members)), replace=False)
    return Draw(exact, short, proven, audit, rng.random(), p, p_short, config.alpha)


SCENARIOS: dict[str, Scenario] = {
    "independent": independent,
    "drifting": drifting,
    "one-sided": one_sided,
}


def converged(d: Draw) -> bool:
    return clopper_pearson(d.exact.sum(), len(d.exact), d.alpha) > d.p


def verified(d: Draw) -> bool:
    return clopper_pearson((d.short & d.proven).sum(), len(d.short), d.alpha) > d.p


def truncated(d: Draw) -> bool:
    return clopper_pearson(d.short.sum(), len(d.short), d.alpha) > d.p_short


def randomized(d: Draw) -> bool:
    counted = (d.short & d.proven).sum()
    return randomized_clopper_pearson(counted, len(d.short), d.alpha, d.u) > d.p


def audited(d: Draw) -> bool:
    return audited_lower(*d.audited(d.audit))[0] > d.p


def product(d: Draw) -> bool:
    return product_lower(*d.audited(d.audit)) > d.p


def betting(d: Draw) -> bool:
    """Decide p > threshold where p is the threshold, looking after every vote."""
    sequence = BettingSequence(d.p, d.alpha).update(d.short & d.proven)
    return sequence.decision == Decision.CERTIFIED


def srs_theorem(d: Draw) -> bool:
    return srs_theorem_lower(*d.audited(d.audit)) > d.p


def srs_paper(d: Draw) -> bool:
    return srs_paper_lower(*d.audited(d.audit)) > d.p


def first_audited(d: Draw) -> bool:
    return audited_lower(*d.audited(np.flatnonzero(d.short)[: len(d.audit)]))[0] > d.p


def uncorrected(d: Draw) -> bool:
    return clopper_pearson(d.short.sum(), len(d.short), d.alpha) > d.p


def every_look(d: Draw) -> bool:
    """Certify as soon as the bound for a fixed N allows, looking a hundred times."""
    heads = np.cumsum(d.exact)
    looks = np.linspace(len(heads) / 100, len(heads), 100).astype(int)
    return any(clopper_pearson(heads[n - 1], n, d.alpha) > d.p for n in looks)


EVERYWHERE = tuple(SCENARIOS)
SOUND: dict[str, tuple[Rule, str, tuple[str, ...]]] = {
    "converged votes": (converged, "votes are G's", EVERYWHERE),
    "verified votes": (verified, "counted votes imply G's; any dependence", EVERYWHERE),
    "verified votes, randomised": (randomized, "counted votes imply G's", EVERYWHERE),
    "truncated network": (truncated, "S i.i.d., and S is what is certified", ("one-sided",)),
    "random audit": (audited, "any S, any dependence", EVERYWHERE),
    "product": (product, "S i.i.d. (frozen start)", ("independent", "one-sided")),
    "betting, every look": (betting, "counted votes imply G's", EVERYWHERE),
    "SRS, theorem": (srs_theorem, "a random audit", EVERYWHERE),
}
UNSOUND: dict[str, tuple[Rule, str, tuple[str, ...]]] = {
    "SRS, released code": (srs_paper, "S = G", ("drifting", "one-sided")),
    "audit of the first": (first_audited, "no drift", ("drifting",)),
    "votes of S as if G's": (uncorrected, "S = G", ("drifting", "one-sided")),
    "fixed-N bound, every look": (every_look, "one look", ("independent",)),
}


def simulate(config: Config) -> dict[str, dict[str, int]]:
    """Return the false certificates of each rule in each scenario in which it is run."""
    rules = SOUND | UNSOUND
    false: dict[str, dict[str, int]] = {name: {} for name in rules}
    for number, (scenario, make) in enumerate(SCENARIOS.items()):
        chosen = {name: rule for name, (rule, _, where) in rules.items() if scenario in where}
        counts = dict.fromkeys(chosen, 0)
        for run in track(range(config.runs), description=scenario, transient=True):
            draw = make(config, np.random.default_rng([config.seed, number, run]))
            for name, rule in chosen.items():
                counts[name] += int(rule(draw))
        for name, count in counts.items():
            false[name][scenario] = count
    return false


def most(config: Config) -> int:
    """Return the upper end of the band: the quantile of Binomial(runs, alpha)."""
    return int(binom.ppf(config.quantile, config.runs, config.alpha))


def surprises(false: dict[str, dict[str, int]], limit: int) -> list[str]:
    """List the sound rules that leave the band and the unsound ones that stay within it."""
    return [
        f"{name}, {scenario}: {count} false certificates, the band ends at {limit}"
        for name, row in false.items()
        for scenario, count in row.items()
        if (count > limit) == (name in SOUND)
    ]


def main(config: Config) -> int:
    """Simulate, print the table, write experiments/results/coverage.json."""
    record = Record("coverage", config)
    false, limit = simulate(config), most(config)
    wrong = surprises(false, limit)
    table = Table(title=f"false certificates of {config.runs}; the band ends at {limit}")
    for column in ("rule", "sound", "asks for", *SCENARIOS):
        table.add_column(column)
    for name, row in false.items():
        kind, needs = ("yes", SOUND[name][1]) if name in SOUND else ("no", UNSOUND[name][1])
        table.add_row(name, kind, needs, *(str(row.get(column, "")) for column in SCENARIOS))
    console = Console()
    console.print(table)
    result: dict[str, Any] = {
        "band ends at": limit,
        "expected at alpha": config.runs * config.alpha,
        "scenarios": {name: (make.__doc__ or "").rstrip(".") for name, make in SCENARIOS.items()},
        "rules": {
            name: {"sound": name in SOUND, "asks for": needs, "false certificates": false[name]}
            for name, (_, needs, _) in (SOUND | UNSOUND).items()
        },
        "surprises": wrong,
    }
    console.print(f"Written to {record.write(result)}")
    for line in wrong:
        console.print(f"[red]{line}[/red]")
    return int(bool(wrong))


if __name__ == "__main__":
    bare(__doc__)
    sys.exit(main(Config()))
