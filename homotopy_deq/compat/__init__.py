"""torchdeq's names on this library's solvers and gradients: a script changes its import lines.

Whatever torchdeq keeps in which module, all is here:

from torchdeq import get_deq, reset_deq       ->  from homotopy_deq.compat import ...
from torchdeq.norm import apply_norm          ->  from homotopy_deq.compat import apply_norm
from torchdeq.utils.mem import mem_gc         ->  from homotopy_deq.compat import mem_gc
"""

from .dropout import (
    VariationalDropout,
    VariationalDropout1d,
    VariationalDropout2d,
    VariationalDropout3d,
    VariationalDropToken1d,
    VariationalDropToken2d,
    VariationalDropToken3d,
    reset_dropout,
)
from .losses import fp_correction, jac_reg, power_method
from .memory import mem_gc
from .module import DEQ, deq, get_deq
from .norm import apply_norm, register_norm_module, remove_norm, reset_deq, reset_norm
from .options import add_deq_args
from .stat import solver_stat_from_final_step

__all__ = [
    "DEQ",
    "VariationalDropToken1d",
    "VariationalDropToken2d",
    "VariationalDropToken3d",
    "VariationalDropout",
    "VariationalDropout1d",
    "VariationalDropout2d",
    "VariationalDropout3d",
    "add_deq_args",
    "apply_norm",
    "deq",
    "fp_correction",
    "get_deq",
    "jac_reg",
    "mem_gc",
    "power_method",
    "register_norm_module",
    "remove_norm",
    "reset_deq",
    "reset_dropout",
    "reset_norm",
    "solver_stat_from_final_step",
]
