"""Homotopies: deform an easy equation into the one to be solved, and follow its root."""

from .maps import FixedPoint, Homotopy
from .natural import Continuation

__all__ = ["Continuation", "FixedPoint", "Homotopy"]
