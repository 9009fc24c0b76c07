"""A cell's map that is brought up to date by what has changed."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from solvers.gradient.graph import leaves
from solvers.guard import LATE
from solvers.structure import Cached, Map, Threshold, Wrapped

from .layers import Memory, Site, Tape


@dataclass(frozen=True)
class Plan:
    """What is known of a cell once it was evaluated on one sample.

    Arguments:
        work: multiply-adds of each layer a sample.
        hoisted: the layers whose input no step changes.
        free: those, and the ones that are fed by the state: all changes pass.
        copies: whether the cell writes into what its layers are given or return.
    """

    work: dict[str, int]
    hoisted: frozenset[str]
    free: frozenset[str]
    copies: bool


class Updating(Wrapped):
    """A cell's map for one solve: called it is the cell's own, `updated` it follows the changes.

    Arguments:
        function: the map as the user wrote it.
        evaluate: the same map, its products through the sites.
        sites: by name.
        plans: what is known of the cell, by the shapes of its arguments; it is added to.

    Attributes:
        spent: multiply-adds of each layer so far, all samples together.
        rows: samples evaluated so far.
    """

    def __init__(
        self,
        function: Map,
        evaluate: Map,
        sites: dict[str, Site],
        plans: dict[Any, Plan],
    ) -> None:
        self.function = function
        self.evaluate = evaluate
        self.sites = sites
        self.plans = plans
        self.spent = dict.fromkeys(sites, 0)
        self.rows = 0
        self._alone = Lock()

    def __call__(self, z: Tensor, *condition: Tensor) -> Tensor:
        """Evaluate the user's map."""
        if len(z):
            for name, each in self.plan(z, *condition).work.items():
                self.spent[name] += each * len(z)
            self.rows += len(z)
        return self.function(z, *condition)

    def multiply_adds(self, z: Tensor, *condition: Tensor) -> int:
        """Return how many the user's map takes in its linear layers and convolutions."""
        return len(z) * sum(self.plan(z, *condition).work.values())

    def updated(
        self, last: Cached | None, within: Threshold, z: Tensor, *condition: Tensor
    ) -> Cached:
        """Evaluate the map by the changes since `last`; see `solvers.structure.Structured`."""
        plan = self.plan(z, *condition)
        names = list(plan.work)
        parts = () if last is None else last.parts
        pairs = zip(names, parts[::2], parts[1::2], strict=False)  # none at first
        kept = {name: Memory(reference, product) for name, reference, product in pairs}
        tape = Tape(kept, len(z), within, plan.free, plan.copies)
        given = tuple(x.clone() if plan.copies else x for x in (z, *condition))
        before = [x._version for x in given]
        image = self._run(tape, *given)
        wrote = before != [x._version for x in given]
        if tape.spoilt() or (wrote and not plan.copies):
            raise RuntimeError(LATE)
        if not tape.kept.keys() <= {*names} <= tape.kept.keys() | kept.keys():
            raise RuntimeError(
                "The cell calls other layers than in its first evaluation, so what they keep is "
                "not known. Leave those that are not always called dense: delta(..., skip=...)."
            )
        for name, each in tape.work.items():
            self.spent[name] += each
        self.rows += len(z)
        memories = [tape.kept[n] if n in tape.kept else kept[n] for n in names]
        parts = tuple(part for m in memories for part in (m.reference, m.product))
        rounded = any(getattr(site.product, "rounds", False) for site in self.sites.values())
        exact = not rounded and plan.free >= set(names)
        return Cached(image, parts, sum(tape.work.values()), exact)

    def plan(self, z: Tensor, *condition: Tensor) -> Plan:
        """Return what is known of the cell; where that is nothing, evaluate its first sample."""
        training = getattr(self.function, "training", False)
        key = (training, *((x.shape[1:], x.dtype) for x in (z, *condition)))
        if key not in self.plans:
            self.plans[key] = self._planned(z, *condition)
        return self.plans[key]

    def _planned(self, z: Tensor, *condition: Tensor) -> Plan:
        given = tuple(x.detach()[:1].clone() for x in condition)
        with torch.enable_grad(), torch.autocast(z.device.type, enabled=False):
            leaf = z.detach()[:1].clone().requires_grad_()
            state = leaf.clone()
            tape = Tape({}, 1)
            where, before = state.data_ptr(), [x._version for x in (state, *given)]
            self._run(tape, state, *given)
        if not tape.kept:
            raise ValueError(
                "No Linear or Conv2d of the cell was called as a module, so there is nothing to "
                "bring up to date; write nn.Linear or nn.Conv2d in the place of their functions."
            )
        fixed = frozenset(
            name
            for name, x in tape.inputs.items()
            if all(leaf is not each for each in (leaves(x) if x.grad_fn is not None else ()))
        )
        fed = {
            n for n, x in tape.inputs.items() if x.data_ptr() == where and x.numel() == z[0].numel()
        }
        if fixed >= set(tape.kept):
            raise ValueError(
                f"no step changes the input of {', '.join(map(repr, tape.kept))}, and no other "
                "layer of the cell can be brought up to date by changes; delta is of no use to it."
            )
        wrote = tape.spoilt() or before != [x._version for x in (state, *given)]
        return Plan(tape.work, fixed, fixed | fed, wrote)

    def _run(self, tape: Tape, z: Tensor, *condition: Tensor) -> Tensor:
        with self._alone:  # two threads may solve one problem
            for site in self.sites.values():
                site.tape = tape
            try:
                return self.evaluate(z, *condition)
            finally:
                for site in self.sites.values():
                    site.tape = None
