"""Networks with Lipschitz constants that are proved: equilibrium networks and their special cases.

Every layer is a `Form`, z = phi(W z + U x + b), y = V z + D x + c, with a diagonal metric whose
matrix inequality proves the constant. Circular convolutions are treated frequency by frequency.
"""

from .cells import LBENCell, departure
from .form import Form
from .ibp import Box, Boxed, BoxProof, interval_bounds
from .layers import AOL, CPL, SLL, BoundedLayer, Sandwich
from .lben import LBEN, EquilibriumNetwork, MonDEQ
from .linear import Lift, NormalizedLinear
from .lipsdp import lipsdp
from .lower import gain_found
from .margin import MarginProof, Margins, certify_margins
from .mondeq import MonDEQCell
from .network import LipschitzBound, certify_lipschitz, to_lben
from .pairs import Margin
from .vanilla import to_vanilla

__all__ = [
    "AOL",
    "CPL",
    "LBEN",
    "SLL",
    "BoundedLayer",
    "Box",
    "BoxProof",
    "Boxed",
    "EquilibriumNetwork",
    "Form",
    "LBENCell",
    "Lift",
    "LipschitzBound",
    "Margin",
    "MarginProof",
    "Margins",
    "MonDEQ",
    "MonDEQCell",
    "NormalizedLinear",
    "Sandwich",
    "certify_lipschitz",
    "certify_margins",
    "departure",
    "gain_found",
    "interval_bounds",
    "lipsdp",
    "to_lben",
    "to_vanilla",
]
