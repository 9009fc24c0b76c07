"""What is trained, and how its answer is found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from .declare import above, at_least, described, setting

MODELS: dict[str, str] = {
    "homoode": "homotopy_deq.models.equilibrium:HomoODE",
    "deq": "homotopy_deq.models.equilibrium:DEQ",
    "neural-ode": "homotopy_deq.models.neural_ode:NeuralODE",
    "augmented-neural-ode": "homotopy_deq.models.neural_ode:AugmentedNeuralODE",
    "mdeq": "homotopy_deq.models.mdeq:MDEQ",
    "residual": "homotopy_deq.models.residual:ResidualNetwork",
    "monotone": "homotopy_deq.models.equilibrium:MonotoneDEQ",
    "cpl": "homotopy_deq.models.lipschitz:CPLNetwork",
    "sll": "homotopy_deq.models.lipschitz:SLLNetwork",
    "aol": "homotopy_deq.models.lipschitz:AOLNetwork",
    "sandwich": "homotopy_deq.models.lipschitz:SandwichNetwork",
    "lben": "homotopy_deq.models.lipschitz:LBENNetwork",
}
"""Classes by name, as "module:Class". A model takes those of `ModelSettings` that its constructor
names, beside `shape`, `num_classes`, `mean` and `std` of the images."""

# Havens et al. (2023), appendix; the offset and the temperature are those of Araujo et al. (2023).
BOUNDED: Mapping[str, float | str] = MappingProxyType(
    {
        "lr": 1e-2, "final_lr": 0.0, "beta1": 0.5, "beta2": 0.9, "schedule": "triangular",
        "offset": 2**0.5, "temperature": 0.25, "batch": 128,
    }
)  # fmt: skip
"""What differs for models with a Lipschitz bound, whatever the data set."""
_NUMBERS = {name: value for name, value in BOUNDED.items() if isinstance(value, float | int)}


@described
@dataclass(frozen=True)
class ModelSettings:
    """The model and its sizes; None stands for the model's own choice."""

    PANEL: ClassVar[str] = "What is trained"

    name: str = setting(
        "homoode",
        f"{', '.join(MODELS)}. cpl, sll, aol, sandwich and lben have a Lipschitz bound, and a "
        "recipe: "
        f"{', '.join(f'{name} {value:.4g}' for name, value in _NUMBERS.items())}, a triangular "
        "schedule.",
        option="model",
    )
    rest_point: bool | None = setting(
        None,
        "homoode: dz/dt = f(z; x) - z, which rests at an equilibrium, or dz/dt = f(z; x) as "
        "published. Default: --rest-point.",
    )
    contraction: float | None = setting(
        None,
        "deq, homoode: ||W|| in (0, 1) of a cell relu(W z + x), whose votes certify can verify. "
        "Default: the published cell.",
    )
    monotonicity: float | None = setting(
        None, "monotone: m in (0, 1] of I - W >= m I. Default: 0.1."
    )
    kernel: int | None = setting(
        None,
        "monotone, or with --contraction: side of the cell's kernel; 0 for a state that is a "
        "vector of --hidden numbers (then 128); residual: 3, or 0 likewise. Default: 3. Of models "
        "with a Lipschitz bound (cpl, sll, aol, sandwich, lben): of the convolutions; 0 for dense "
        "layers alone. Default: 5.",
        at_least(0),
    )
    channels: int | None = setting(
        None, "With a Lipschitz bound: channels of the convolutions. Default: 8."
    )
    depth: int | None = setting(
        None,
        "residual: blocks. With a Lipschitz bound: convolutional layers. Default: 4.",
        at_least(1),
    )
    parameters: int | None = setting(
        None,
        "residual: of the whole model at most; the blocks are as wide as this allows. Default: as "
        "many as homoode and deq of these sizes have.",
        at_least(1),
    )
    scales: int | None = setting(
        None,
        "mdeq: resolutions, each half as high and wide as the one before it. Default: as many as "
        "keep 2 x 2 pixels, and 3 at most.",
        at_least(1),
    )
    patch: int | None = setting(
        None, "With a Lipschitz bound: side of the patches summed behind them. Default: 4."
    )
    features: int | None = setting(
        None, "With a Lipschitz bound: neurons of a dense layer. Default: 512."
    )
    dense_depth: int | None = setting(None, "With a Lipschitz bound: dense layers. Default: 2.")
    start: str | None = setting(
        None,
        "Where solves begin, learned beside the task: shared (one point, constant over space, as "
        "published), spatial (one point of the state's shape), input (a map of the input), or "
        "none: zero. Default: shared for homoode, deq and mdeq, else none.",
    )
    hidden: int | None = setting(None, "Channels of the state.")
    head: int | None = setting(None, "Channels of the head.")
    pool: int | None = setting(None, "Side of the head's pooling grid.")
    groups: int | None = setting(None, "GroupNorm groups at most.")
    dropout: float | None = setting(None, "Probability of dropping a channel, one mask a solve.")
    stride: int | None = setting(
        None,
        "Of the stem, 1, 2 or 4: the state is so many times less high and wide than the images.",
    )


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How far a forward pass goes; None stands for the solver's own choice."""

    PANEL: ClassVar[str] = "The forward pass"

    rtol: float | None = setting(
        None,
        "Relative tolerance: of the residual ||f(z) - z|| / ||f(z)||, or of a flow's local error. "
        "Default: the solver's, 1e-4 or 1e-3; 1e-2 for equilibria trained in bf16.",
    )
    atol: float | None = setting(None, "Absolute tolerance. Default: the solver's, 0 or 1e-3.")
    max_steps: int | None = setting(None, "Solver steps at most. Default: the solver's.")
    step_size: float | None = setting(
        None,
        "Step in t of methods without error control (rk4, euler, ...). Default: 1 towards a rest "
        "point (explicit_adams and the like: 0.1), else 0.1. Of forward-backward, "
        "peaceman-rachford and douglas-rachford: alpha; default: of the best proved rate.",
    )
    horizon: float | None = setting(
        None, "Time t at which a flow ends. Default: the model's.", above(0)
    )


@described
@dataclass(frozen=True)
class ForwardPass(Limits):
    """A forward pass by name.

    The solver is one of equilibria, or a method for flows. Several joined by "+" take over each
    other's failed samples: "rk4+anderson". Limits are of every part.
    """

    solver: str = setting(
        ...,
        "Forward pass: anderson, ..., or a method for flows (homotopy-deq info lists them). "
        "Default: rk4 for homoode, peaceman-rachford for monotone and lben, anderson for other "
        "equilibria, else dopri5.",
    )


@described
@dataclass(frozen=True)
class BackwardPass:
    """How the answer is differentiated; None stands for what goes with the forward pass."""

    PANEL: ClassVar[str] = "The forward pass"

    gradient: str | None = setting(
        None,
        "implicit, phantom[:STEPS], jfb, unroll[:CHECKPOINT], reversible (with picard), shine "
        "(with broyden) of an equilibrium; unroll, adjoint, reversible (with equal steps, such as "
        "rk4) of a flow. Default: implicit for an equilibrium, unroll for a flow.",
    )
    rtol: float | None = setting(
        None,
        "Relative tolerance of the implicit gradient's linear solve. Default: 1e-6; in bf16 1e-2.",
        above(0),
        option="backward_rtol",
    )


# Ours. Small centred images in which left and right, and the place of a stroke, matter: no flips,
# a head that sees where things are; learning rates for runs of a few epochs.
GREY = {
    "hidden": 32, "head": 128, "pool": 4, "groups": 8, "lr": 3e-3,
}  # fmt: skip

RECIPES: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "digits": GREY,
        "mnist": GREY,
        "fashion-mnist": GREY,
        "svhn": {"pad": 4},  # a mirrored digit is another one
        # Those of CIFAR are those of the release of Ding et al. (2023).
        "cifar10": {"flip": 0.2, "pad": 4},
        "cifar100": {
            "hidden": 128, "head": 512, "dropout": 0.15,
            "flip": 0.5, "pad": 4,
        },
        # So is this, but for the rate of its start, see docs/start.md.
        "tiny-imagenet": {
            "hidden": 128, "head": 512, "groups": 8, "dropout": 0.15, "stride": 4,
            "flip": 0.5, "pad": 8,
        },
    }
)  # fmt: skip
"""What differs from the settings' defaults for a data set, by its name."""
