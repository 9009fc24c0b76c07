"""Iterations that propagate only what has changed."""

from .anderson import DeltaAnderson
from .picard import DeltaPicard
from .together import Blocks, Entries, Together

__all__ = ["Blocks", "DeltaAnderson", "DeltaPicard", "Entries", "Together"]
