"""Ordinary differential equations: torchdiffeq for initial values, our own flow to a rest point."""

from .initial_value import ODE
from .steady_state import SteadyState

__all__ = ["ODE", "SteadyState"]
