"""What seven papers claim, and the results that bear on each claim, by stated rules."""

from .claim import HOLDS, NOT, NOT_RUN, NOT_TESTED, PART, Claim, Found, Paper, Source
from .collapse import COLLAPSE
from .deltadeq import DELTADEQ
from .flow import FLOW
from .homoode import HOMOODE
from .lben import LBEN
from .nngp import NNGP
from .srs import SRS

PAPERS = (HOMOODE, SRS, LBEN, DELTADEQ, NNGP, COLLAPSE, FLOW)

__all__ = [
    "HOLDS", "NOT", "NOT_RUN", "NOT_TESTED", "PAPERS", "PART", "Claim", "Found", "Paper", "Source",
]  # fmt: skip
