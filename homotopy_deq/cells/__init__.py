"""Cells: modules `cell(z, x)` that map a state and a condition to the next state or a velocity.

`Cell` says what else they may define.
"""

from .attention import AttentionCell
from .bounds import Bounds, error_bound
from .cell import Cell, ProvableCell, dropout_mask
from .conv import ConvCell
from .dense import DenseCell
from .field import ConvField
from .inclusion import ContractiveCell, FixedCell, InclusionCell, MonotoneCell
from .joined import Joined
from .multiscale import MultiscaleCell
from .norm import group_norm

__all__ = [
    "AttentionCell",
    "Bounds",
    "Cell",
    "ContractiveCell",
    "ConvCell",
    "ConvField",
    "DenseCell",
    "FixedCell",
    "InclusionCell",
    "Joined",
    "MonotoneCell",
    "MultiscaleCell",
    "ProvableCell",
    "dropout_mask",
    "error_bound",
    "group_norm",
]
