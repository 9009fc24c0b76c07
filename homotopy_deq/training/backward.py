"""Gradients that are only approximate, told once an epoch instead of once a batch."""

from __future__ import annotations

import warnings
from types import TracebackType
from typing import Any, TextIO

from solvers.caller import warn_caller
from solvers.gradient.rows import BackwardWarning


class FailedBackward:
    """Count the `BackwardWarning`s of a `with` block; hand every other warning on."""

    def __init__(self) -> None:
        self.count = 0
        self._caught = warnings.catch_warnings()
        self._show = warnings.showwarning

    def __enter__(self) -> FailedBackward:
        self._caught.__enter__()
        warnings.simplefilter("always", BackwardWarning)
        self._show = warnings.showwarning
        warnings.showwarning = self._count
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._caught.__exit__(kind, value, trace)

    def tell(self, epoch: int) -> None:
        """Warn of what was counted since the last time."""
        if self.count:
            warn_caller(
                f"In epoch {epoch} the implicit gradient of {self.count} batches is approximate: "
                "its linear solve did not converge. The map is hardly contractive: a "
                "--jacobian-penalty helps."
            )
        self.count = 0

    def _count(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> Any:
        if issubclass(category, BackwardWarning):
            self.count += 1
        else:
            self._show(message, category, filename, lineno, file, line)
