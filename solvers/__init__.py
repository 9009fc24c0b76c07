"""Solvers for equilibria and initial value problems, and the gradients of their answers."""

from .anderson import Anderson
from .broyden import Broyden
from .compose import Then, solved_by
from .delta import DeltaAnderson, DeltaPicard
from .driver import solve
from .gradient import SHINE, Adjoint, Gradient, Implicit, Phantom, Reversible, Unroll
from .homotopy import ArcLength, Continuation, Davidenko
from .inclusion import MonotoneInclusion
from .linear import GMRES, BySize, Dense
from .newton import NewtonKrylov
from .ode import (
    BOSH3,
    DOPRI5,
    DOPRI8,
    EULER,
    HEUN,
    MIDPOINT,
    ODE,
    RK4,
    TSIT5,
    Flow,
    RungeKutta,
    SteadyState,
    Tableau,
)
from .picard import Picard
from .problem import Equilibrium, InitialValue
from .pseudo_transient import PseudoTransient
from .robust import Robust
from .solution import Solution, SolveError, Trajectory
from .solver import Evaluated, Solver, State, Tracked
from .splitting import DouglasRachford, ForwardBackward, PeacemanRachford
from .status import Status
from .times import solve_at

__all__ = [
    "BOSH3",
    "DOPRI5",
    "DOPRI8",
    "EULER",
    "GMRES",
    "HEUN",
    "MIDPOINT",
    "ODE",
    "RK4",
    "SHINE",
    "TSIT5",
    "Adjoint",
    "Anderson",
    "ArcLength",
    "Broyden",
    "BySize",
    "Continuation",
    "Davidenko",
    "DeltaAnderson",
    "DeltaPicard",
    "Dense",
    "DouglasRachford",
    "Equilibrium",
    "Evaluated",
    "Flow",
    "ForwardBackward",
    "Gradient",
    "Implicit",
    "InitialValue",
    "MonotoneInclusion",
    "NewtonKrylov",
    "PeacemanRachford",
    "Phantom",
    "Picard",
    "PseudoTransient",
    "Reversible",
    "Robust",
    "RungeKutta",
    "Solution",
    "SolveError",
    "Solver",
    "State",
    "Status",
    "SteadyState",
    "Tableau",
    "Then",
    "Tracked",
    "Trajectory",
    "Unroll",
    "solve",
    "solve_at",
    "solved_by",
]
