"""Stop at the end of a batch, not in the middle of an optimiser's step."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class Interrupted(RuntimeError):
    """Training was stopped by a signal, after its state was saved."""


class Interrupt:
    """Note SIGINT and SIGTERM while the `with` block runs; a second signal stops at once.

    Outside the main thread, where Python allows no handlers, it notes nothing.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for each in self.SIGNALS:
                self._before[each] = signal.signal(each, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def _restore(self) -> None:
        while self._before:
            each, handler = self._before.popitem()
            signal.signal(each, handler)  # type: ignore[arg-type]  # what signal.signal returned
