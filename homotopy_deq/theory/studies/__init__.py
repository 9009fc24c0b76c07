"""Studies: what the papers claim, measured part by part. Each is a frozen dataclass of settings."""

from .flow import FlowStudy
from .study import Claim, Part, Study, carry_out

__all__ = ["Claim", "FlowStudy", "Part", "Study", "carry_out"]
