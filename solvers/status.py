"""Why a sample stopped, and what to do about it."""

from __future__ import annotations

from collections import Counter
from enum import IntEnum

from torch import Tensor


class Status(IntEnum):
    """The state of one sample, stored as int8 in a tensor of shape (B,)."""

    RUNNING = 0
    CONVERGED = 1
    MAX_STEPS = 2
    NONFINITE = 3
    STEP_TOO_SMALL = 4
    LOST_PATH = 5
    RANK_LOSS = 6
    MIXED_ROWS = 7
    RANDOM_MAP = 8
    AT_THRESHOLD = 9

    @property
    def advice(self) -> str:
        """What happened and what a user can do about it."""
        return _ADVICE[self]


_ADVICE = {
    Status.RUNNING: "are still running",
    Status.CONVERGED: "converged",
    Status.MAX_STEPS: "reached max_steps (raise it, loosen the tolerance, or escalate with Then)",
    Status.NONFINITE: "became non-finite (their input or the weights are, or the map diverges: "
    "damp it, or use PseudoTransient; the value returned for them is their start)",
    Status.STEP_TOO_SMALL: "needed a step below the smallest allowed (a fold or a stiff field: "
    "loosen the tolerance, or use a solver that passes folds)",
    Status.LOST_PATH: "lost their path (try a smaller step, or another anchor or homotopy)",
    Status.MIXED_ROWS: "solved a part of the batch but not the whole, as the map's rows depend on "
    "each other (attention over dimension 0 of an input that is not batch-first, BatchNorm in "
    "training: put the batch first, call eval(), or say coupled=True if the rows are one system)",
    Status.RANDOM_MAP: "have no fixed point, as the map changes from call to call (dropout drawn "
    "inside the loop: draw the mask once per solve, in the cell's `condition`)",
    Status.AT_THRESHOLD: "came to rest where no entry changes by more than tau, above the "
    "tolerance (lower tau, loosen the tolerance, or give theta, which leads to the fixed point)",
    Status.RANK_LOSS: "met a singular Jacobian (perturb the anchor or the condition)",
}


def summarize(status: Tensor) -> str:
    """Count the samples of each failing status: "2 reached max_steps (...), 1 became ..."."""
    counts = Counter(status.tolist())
    return ", ".join(
        f"{counts[code]} {Status(code).advice}"
        for code in sorted(counts)
        if code != Status.CONVERGED
    )
