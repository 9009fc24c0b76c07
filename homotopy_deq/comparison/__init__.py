"""Families of models beside each other: what a training step takes, and what several seeds say."""

from .step import Step, measure_step
from .summary import Row, bands, cells, markdown, summarise, unequal

__all__ = ["Row", "Step", "bands", "cells", "markdown", "measure_step", "summarise", "unequal"]
