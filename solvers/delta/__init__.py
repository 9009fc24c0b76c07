"""Iterations that propagate only what has changed."""

from .picard import DeltaPicard
from .together import Blocks, Entries, Together

__all__ = ["Blocks", "DeltaPicard", "Entries", "Together"]
