"""Delta updates: solves of implicit layers that propagate only what has changed."""

from .accounts import Account, LayerWork, account, layered_bound
from .delta import DeltaLayer, delta
from .increments import Anchored, Half
from .kernels import Auto
from .layers import DeltaConv2d, DeltaLinear, Memory
from .products import Convolution, Entrywise, Gathered, Product, Products, Simulated
from .tune import Tuned, tune

__all__ = [
    "Account",
    "Anchored",
    "Auto",
    "Convolution",
    "DeltaConv2d",
    "DeltaLayer",
    "DeltaLinear",
    "Entrywise",
    "Gathered",
    "Half",
    "LayerWork",
    "Memory",
    "Product",
    "Products",
    "Simulated",
    "Tuned",
    "account",
    "delta",
    "layered_bound",
    "tune",
]
