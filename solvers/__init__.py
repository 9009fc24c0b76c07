"""Solvers for equilibria and initial value problems, and the gradients of their answers."""

from .anderson import Anderson
from .broyden import Broyden
from .compose import Then
from .driver import solve
from .gradient import Adjoint, Gradient, Implicit, Phantom, Unroll
from .homotopy import ArcLength, Continuation, Davidenko
from .newton import NewtonKrylov
from .ode import ODE, SteadyState
from .picard import Picard
from .problem import Equilibrium, InitialValue
from .pseudo_transient import PseudoTransient
from .robust import Robust, solved_by
from .solution import Solution, SolveError, Trajectory
from .solver import Solver, State
from .splitting import DouglasRachford, ForwardBackward, MonotoneInclusion, PeacemanRachford
from .status import Status

__all__ = [
    "ODE",
    "Adjoint",
    "Anderson",
    "ArcLength",
    "Broyden",
    "Continuation",
    "Davidenko",
    "DouglasRachford",
    "Equilibrium",
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
    "Robust",
    "Solution",
    "SolveError",
    "Solver",
    "State",
    "Status",
    "SteadyState",
    "Then",
    "Trajectory",
    "Unroll",
    "solve",
    "solved_by",
]
