"""Certify the smoothed classifier: what may be claimed of noisy votes, and at which radius."""

from .certificate import ABSTAIN, Certificate
from .journal import Journal, JournalError, read
from .noise import Noise, Phase
from .policies import Audited, Converged, Policy, Truncated
from .smoothing import Smoother, Smoothing, settings
from .starts import Along, Clean, Cold, Serial, Start, Tangent
from .verified import Verified

__all__ = [
    "ABSTAIN",
    "Along",
    "Audited",
    "Certificate",
    "Clean",
    "Cold",
    "Converged",
    "Journal",
    "JournalError",
    "Noise",
    "Phase",
    "Policy",
    "Serial",
    "Smoother",
    "Smoothing",
    "Start",
    "Tangent",
    "Truncated",
    "Verified",
    "read",
    "settings",
]
