"""Studies: what the papers claim, measured part by part. Each is a frozen dataclass of settings."""

from .collapse import CollapseStudy
from .flow import FlowStudy
from .nngp import NNGPStudy
from .study import Claim, Part, Study, carry_out

__all__ = ["Claim", "CollapseStudy", "FlowStudy", "NNGPStudy", "Part", "Study", "carry_out"]
