"""torchdeq's names on this library's solvers and gradients: a script changes its import lines.

from torchdeq import get_deq, reset_deq       ->  from homotopy_deq.compat import ...
from torchdeq.norm import apply_norm          ->  from homotopy_deq.compat import apply_norm
from torchdeq.loss import jac_reg             ->  from homotopy_deq.compat import jac_reg
"""

from .losses import fp_correction, jac_reg, power_method
from .module import DEQ, deq, get_deq
from .norm import apply_norm, remove_norm, reset_deq, reset_norm
from .options import add_deq_args

__all__ = [
    "DEQ",
    "add_deq_args",
    "apply_norm",
    "deq",
    "fp_correction",
    "get_deq",
    "jac_reg",
    "power_method",
    "remove_norm",
    "reset_deq",
    "reset_norm",
]
