"""A cell's map that is brought up to date by what has changed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from solvers.gradient.graph import leaves
from solvers.guard import LATE
from solvers.structure import Cached, Map, Threshold, Wrapped

from .kernels.layout import LAST, layout
from .layers import Memory, Site, Tape


@dataclass(frozen=True)
class Plan:
    """What is known of a cell once it was evaluated on one sample.

    Arguments:
        work: multiply-adds of each layer a sample.
        hoisted: the layers whose input no step changes.
        free: those, and the ones that are fed by the state: all changes pass.
        inputs: the shape of what each layer is given of a sample.
        copies: whether the cell writes into what its layers are given or return.
    """

    work: dict[str, int]
    hoisted: frozenset[str]
    free: frozenset[str]
    inputs: dict[str, torch.Size]
    copies: bool

    @cached_property
    def total(self) -> int:
        """The multiply-adds of all layers a sample."""
        return sum(self.work.values())


class Updating(Wrapped):
    """A cell's map for one solve: called it is the cell's own, `updated` it follows the changes.

    Arguments:
        function: the map as the user wrote it.
        evaluate: the same map, its products through the sites.
        sites: by name.
        plans: what is known of the cell, by the shapes of its arguments; it is added to.

    Attributes:
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
        self.rows = 0
        self._dense = 0  # rows of these that were evaluated by the user's map
        self._moved = dict.fromkeys(sites, 0)
        self._plan: tuple[Any, Plan] | None = None
        self._alone = Lock()

    def __call__(self, z: Tensor, *condition: Tensor) -> Tensor:
        """Evaluate the user's map."""
        rows = z.shape[0]
        if rows:
            self.plan(z, *condition)
            self._dense += rows
            self.rows += rows
        return self.function(z, *condition)

    @property
    def spent(self) -> dict[str, int]:
        """The multiply-adds of each layer so far, all samples together."""
        work = {} if self._plan is None else self._plan[1].work
        return {name: n + self._dense * work.get(name, 0) for name, n in self._moved.items()}

    def multiply_adds(self, z: Tensor, *condition: Tensor) -> int:
        """Return how many the user's map takes in its linear layers and convolutions."""
        return z.shape[0] * self.plan(z, *condition).total

    def updated(
        self, last: Cached | None, within: Threshold, z: Tensor, *condition: Tensor
    ) -> Cached:
        """Evaluate the map by the changes since `last`; see `solvers.structure.Structured`."""
        plan = self.plan(z, *condition)
        names = list(plan.work)
        parts = () if last is None else last.parts
        pairs = zip(names, parts[::2], parts[1::2], strict=False)  # none at first
        kept = {name: Memory(reference, product) for name, reference, product in pairs}
        tape = Tape(kept, len(z), within, plan.free, plan.copies, z)
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
            self._moved[name] += each
        self.rows += len(z)
        memories = [tape.kept[n] if n in tape.kept else kept[n] for n in names]
        parts = tuple(part for m in memories for part in (m.reference, m.product))
        rounded = any(getattr(site.product, "rounds", False) for site in self.sites.values())
        exact = not rounded and plan.free >= set(names)
        return Cached(image, parts, sum(tape.work.values()), exact, self._idle(plan))

    def pays(self, z: Tensor, *condition: Tensor) -> bool:
        """Say whether the product of any layer may gain, see `solvers.structure.Structured`."""
        plan = self.plan(z, *condition)
        last = z.dim() == 4 and layout(z) is LAST
        format = torch.channels_last if last else torch.contiguous_format
        for name in plan.work.keys() - plan.hoisted:
            pays = getattr(self.sites[name].product, "pays", None)
            shape = len(z), *plan.inputs[name]
            like = torch.empty(
                shape, device="meta", memory_format=format if len(shape) == 4 else None
            )
            if pays is None or pays(like):
                return True
        return False

    def _idle(self, plan: Plan) -> int:
        """Return for how many evaluations no layer is going to look, and take them off."""
        products = [self.sites[name].product for name in plan.work.keys() - plan.hoisted]
        waits = [getattr(product, "patience", None) for product in products]
        idle = min((0 if each is None else max(each.left, 0) for each in waits), default=0)
        for each in waits:
            if each is not None:
                each.left -= idle
        return idle

    def plan(self, z: Tensor, *condition: Tensor) -> Plan:
        """Return what is known of the cell; where that is nothing, evaluate its first sample."""
        shown = z.shape[1:], z.dtype  # the rest does not change in a solve
        if self._plan is not None and self._plan[0] == shown:
            return self._plan[1]
        training = getattr(self.function, "training", False)
        key = (training, *((x.shape[1:], x.dtype) for x in (z, *condition)))
        if key not in self.plans:
            self.plans[key] = self._planned(z, *condition)
        self._plan = shown, self.plans[key]
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
        shapes = {name: x.shape[1:] for name, x in tape.inputs.items()}
        return Plan(tape.work, fixed, fixed | fed, shapes, wrote)

    def _run(self, tape: Tape, z: Tensor, *condition: Tensor) -> Tensor:
        with self._alone:  # two threads may solve one problem
            for site in self.sites.values():
                site.tape = tape
            try:
                return self.evaluate(z, *condition)
            finally:
                for site in self.sites.values():
                    site.tape = None
