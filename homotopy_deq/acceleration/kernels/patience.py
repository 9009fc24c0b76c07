"""When to look again after a look that was in vain."""

from __future__ import annotations

from ..cost import Costs

LONGEST = 16
"""Steps without a look, at most."""


class Patience:
    """Wait longer each time that too much has changed for a sparse step to pay.

    So looking costs next to nothing where all entries converge alike.

    Attributes:
        left: steps to go without a look; who goes them elsewhere takes them off.
    """

    def __init__(self) -> None:
        self.left = 0
        self._last = 0

    def waits(self) -> bool:
        """Say whether to go without a look, and count the step."""
        self.left -= 1
        return self.left >= 0

    def pays(self, costs: Costs, seconds: float) -> bool:
        """Say whether to take a step of so many seconds, and remember it if not."""
        found = costs.pays(seconds)
        self._last = 0 if found else min(2 * self._last + 1, LONGEST)
        self.left = self._last
        return found
