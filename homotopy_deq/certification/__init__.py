"""Certify classifiers: claims about images, the evidence that they follow from, and who makes them.

A `Certifier` claims what is certain (`Certain`) or, of a smoothed classifier, what noisy votes make
probable (`Probable`). Either goes with its evidence, and one journal, one table and one figure show
them, each by its label.
"""

from ..training.identity import weights_sha256
from .certificate import ABSTAIN, Certain, Certificate, Certifier, Claim, Probable, Rule
from .evidence import Interval, Intervals, Lipschitz, Margin, Sampling, Tally
from .journal import Journal, JournalError, read
from .noise import Noise, Phase
from .policies import Converged, Policy, Verified
from .prover import PROVERS, IntervalProver, LipschitzProver, Prover
from .smoother import Smoother
from .smoothing import Smoothing
from .starts import Along, Clean, Cold, Serial, Start, Tangent
from .stopped import Audited, Truncated

__all__ = [
    "ABSTAIN",
    "PROVERS",
    "Along",
    "Audited",
    "Certain",
    "Certificate",
    "Certifier",
    "Claim",
    "Clean",
    "Cold",
    "Converged",
    "Interval",
    "IntervalProver",
    "Intervals",
    "Journal",
    "JournalError",
    "Lipschitz",
    "LipschitzProver",
    "Margin",
    "Noise",
    "Phase",
    "Policy",
    "Probable",
    "Prover",
    "Rule",
    "Sampling",
    "Serial",
    "Smoother",
    "Smoothing",
    "Start",
    "Tally",
    "Tangent",
    "Truncated",
    "Verified",
    "read",
    "weights_sha256",
]
