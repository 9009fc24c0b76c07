"""Products with a change of some entries, at the cost of these entries."""

from .auto import Auto

__all__ = ["Auto"]
