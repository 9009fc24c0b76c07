"""Why a layer does not converge: how its map behaves, what solvers make of it, what to try."""

from .advice import Advice, Remedy
from .conduct import Conduct
from .diagnosis import Diagnosis, diagnose, diagnose_equation
from .spectrum import Spectrum
from .tried import Tried

__all__ = [
    "Advice",
    "Conduct",
    "Diagnosis",
    "Remedy",
    "Spectrum",
    "Tried",
    "diagnose",
    "diagnose_equation",
]
