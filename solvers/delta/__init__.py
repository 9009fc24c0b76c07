"""Iterations that propagate only what has changed."""

from .picard import DeltaPicard

__all__ = ["DeltaPicard"]
