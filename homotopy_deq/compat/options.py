"""torchdeq's options: read from a namespace, a dict or keywords, and made into our settings."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from solvers import Anderson, Broyden, Equilibrium, Implicit, NewtonKrylov, Picard, Solver

SOLVERS: Mapping[str, Callable[[], Solver[Equilibrium, Any]]] = {
    "fixed_point_iter": Picard,
    "simple_fixed_point_iter": Picard,
    "anderson": Anderson,
    "broyden": Broyden,
    "newton": NewtonKrylov,  # not torchdeq's
}
CORES = ("sliced", "indexing")
MODES = ("abs", "rel")
PER_CALL = ("f_max_iter", "tau", "m", "threshold", "lam", "ls", "return_final")
"""What torchdeq's solvers take in `solver_kwargs`; the last three are not ours."""


@dataclass(frozen=True)
class Options:
    """What `get_deq` takes, by torchdeq's names and with its defaults; see there.

    A solver may be an object of this library in the place of a name; then it has its own
    tolerance and limit.
    """

    core: str = "sliced"
    f_solver: str | Solver[Equilibrium, Any] = "fixed_point_iter"
    b_solver: str | Solver[Equilibrium, Any] = "fixed_point_iter"
    no_stat: bool | None = None
    f_max_iter: int = 40
    b_max_iter: int = 40
    f_tol: float = 1e-3
    b_tol: float = 1e-6
    f_stop_mode: str = "abs"
    b_stop_mode: str = "abs"
    eval_factor: float = 1.0
    eval_f_max_iter: int = 0
    ift: bool = False
    hook_ift: bool = False
    grad: int | tuple[int, ...] = 1
    tau: float = 1.0
    sup_gap: int = -1
    sup_loc: tuple[int, ...] | None = None
    n_states: int = 1
    indexing: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name, value, valid in (
            ("core", self.core, CORES),
            ("f_stop_mode", self.f_stop_mode, MODES),
            ("b_stop_mode", self.b_stop_mode, MODES),
            ("f_solver", self.f_solver, (*SOLVERS,)),
            ("b_solver", self.b_solver, (*SOLVERS,)),
        ):
            if not isinstance(value, Solver) and value not in valid:
                raise ValueError(f"{name} must be one of {', '.join(valid)}; got {value!r}.")
        for name, least in (("f_max_iter", 0), ("b_max_iter", 1), ("n_states", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}; got {getattr(self, name)}.")
        if min(self.grads) < 1:
            raise ValueError(f"grad must be at least 1; got {self.grad}.")
        if len(self.grads) not in (1, len(self.counts(self.f_max_iter))):
            raise ValueError(
                f"grad must be one number or {len(self.counts(self.f_max_iter))}, one a state; "
                f"got {self.grad}."
            )
        if not 0 < self.tau <= 1:
            raise ValueError(f"tau must be in (0, 1]; got {self.tau}.")

    @classmethod
    def of(cls, args: Any = None, **given: Any) -> Options:
        """Read options; keywords go before `args`, which may hold others, as a script's has.

        Raises:
            TypeError: a keyword is none of torchdeq's.
        """
        known = {each.name for each in fields(cls)}
        if unknown := sorted(given.keys() - known):
            raise TypeError(f"{', '.join(unknown)}: no option of get_deq; it has {_listed(known)}.")
        held = {} if args is None else args if isinstance(args, Mapping) else vars(args)
        named = {**{k: v for k, v in held.items() if k in known and v is not None}, **given}
        for name in ("grad", "sup_loc", "indexing"):
            if isinstance(named.get(name), list):
                named[name] = tuple(named[name])
        return cls(**named)

    @property
    def grads(self) -> tuple[int, ...]:
        """Steps of the phantom gradient of each state, or of all."""
        return (self.grad,) if isinstance(self.grad, int) else tuple(self.grad)

    @property
    def exact(self) -> bool:
        """Whether the last state has the implicit gradient."""
        return self.ift or self.hook_ift

    def forward(self, limit: int, call: Mapping[str, Any]) -> Solver[Equilibrium, Any]:
        """Return the path of so many iterations at most."""
        if unknown := sorted(call.keys() - {*PER_CALL}):
            raise TypeError(f"{', '.join(unknown)}: no setting of a solver; {_listed(PER_CALL)}.")
        if left := [name for name in PER_CALL[-3:] if call.get(name)]:
            raise TypeError(
                f"{', '.join(left)} of torchdeq's solvers are not offered: give an object of this "
                "library as f_solver, such as Anderson(regularization=1e-8)."
            )
        solver = _solver(self.f_solver, limit, self.f_tol, self.f_stop_mode)
        memory = call.get("m") or call.get("threshold")
        named = {
            "damping": call.get("tau") if hasattr(solver, "damping") else None,
            "memory": memory if hasattr(solver, "memory") else None,
        }
        return replace(solver, **{k: v for k, v in named.items() if v is not None})

    @property
    def implicit(self) -> Implicit:
        """The implicit gradient; its tolerance is relative, whatever the stop mode."""
        return Implicit(_solver(self.b_solver, self.b_max_iter, self.b_tol, "rel"))

    def counts(self, limit: int) -> list[int]:
        """Return after how many iterations in all each state is taken, the last at the limit."""
        if self.n_states > 1:
            if self.core == "sliced":
                return [(k + 1) * (limit // self.n_states) for k in range(self.n_states)]
            states = max(1, min(self.n_states, limit))
            each = limit // states
            return [limit - (states - k - 1) * each for k in range(states)]
        return [*(k for k in self.indexing or () if k < limit), limit]


def _solver(
    given: str | Solver[Equilibrium, Any], limit: int, tol: float, mode: str
) -> Solver[Equilibrium, Any]:
    if isinstance(given, Solver):
        return given
    stop = {"rtol": tol, "atol": 0.0} if mode == "rel" else {"rtol": 0.0, "atol": tol}
    return replace(SOLVERS[given](), max_steps=limit, **stop)


def _listed(names: Any) -> str:
    return ", ".join(sorted(names))


HELP = {
    "f_solver": "path forward: " + ", ".join(SOLVERS),
    "b_solver": "path of the implicit gradient, with --ift",
    "f_tol": "tolerance of the path, absolute or relative by --f_stop_mode",
    "grad": "steps of the phantom gradient, one number or one a state",
    "n_states": "states of the path that losses are taken of",
}


def add_deq_args(parser: ArgumentParser) -> None:
    """Add the options of `get_deq` and `apply_norm` to a parser, by torchdeq's names.

    Also those that a script's own loop reads: gamma, jac_loss_weight, jac_loss_freq,
    jac_incremental and sradius_mode.
    """
    for each in fields(Options):
        flag, about = f"--{each.name}", HELP.get(each.name, "as torchdeq's")
        if each.name in ("grad", "sup_loc", "indexing"):
            default = [1] if each.name == "grad" else []
            parser.add_argument(flag, type=int, nargs="+", default=default, help=about)
        elif isinstance(each.default, bool):
            parser.add_argument(flag, action="store_true", help=about)
        elif each.default is not None:
            parser.add_argument(flag, type=type(each.default), default=each.default, help=about)
    parser.add_argument("--norm_type", default="weight_norm", help="none or a norm of apply_norm")
    for flag in ("--norm_no_scale", "--norm_clip", "--sradius_mode"):
        parser.add_argument(flag, action="store_true", help="as torchdeq's")
    for flag, value in NUMBERS.items():
        parser.add_argument(f"--{flag}", type=type(value), default=value, help="as torchdeq's")


NUMBERS: Mapping[str, float] = {
    "norm_clip_value": 1.0,
    "norm_target_norm": 1.0,
    "sn_n_power_iters": 1,
    "gamma": 0.8,
    "jac_loss_weight": 0.0,
    "jac_loss_freq": 0.0,
    "jac_incremental": 0,
}
"""Options of a script that are no options of the solve, with torchdeq's defaults."""
