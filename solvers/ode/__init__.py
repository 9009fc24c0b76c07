"""Ordinary differential equations: our Runge-Kutta methods, the flow to rest, and torchdiffeq."""

from .dense import between
from .flow import Flow, SteadyState
from .initial_value import ODE
from .runge_kutta import RungeKutta
from .tableau import BOSH3, DOPRI5, DOPRI8, EULER, HEUN, MIDPOINT, RK4, TSIT5, Tableau

__all__ = [
    "BOSH3",
    "DOPRI5",
    "DOPRI8",
    "EULER",
    "HEUN",
    "MIDPOINT",
    "ODE",
    "RK4",
    "TSIT5",
    "Flow",
    "RungeKutta",
    "SteadyState",
    "Tableau",
    "between",
]
