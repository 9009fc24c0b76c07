"""What is known of DEQs in the limit of width, of training and of both: kernels of infinitely wide
networks, neural collapse, and gradient flow of linear and single-index models."""

from .activations import Activation, Erf, LeakyReLU, ReLU, Smooth, gelu, tanh
from .ensembles import Ensemble, sample_deqs, sample_mlps
from .features import UnconstrainedFeatures
from .gaussianity import Gaussianity, gaussianity
from .gradient_flow import (
    ExplicitSingleIndex,
    LinearDEQ,
    SingleIndexDEQ,
    singular_distance,
    truncated,
)
from .kernels import DEQKernel, KernelWarning, MLPKernel, deq_nngp, deq_ntk, least_eigenvalue
from .networks import DEQSample, empirical_nngp, empirical_ntk, sample_deq, sample_mlp
from .neural_collapse import (
    Collapse,
    CollapseMeter,
    collapse_of,
    make_imbalanced,
    minority_cosine,
    simplex_etf,
    simplex_gram,
)
from .regression import KernelRegression

__all__ = [
    "Activation",
    "Collapse",
    "CollapseMeter",
    "DEQKernel",
    "DEQSample",
    "Ensemble",
    "Erf",
    "ExplicitSingleIndex",
    "Gaussianity",
    "KernelRegression",
    "KernelWarning",
    "LeakyReLU",
    "LinearDEQ",
    "MLPKernel",
    "ReLU",
    "SingleIndexDEQ",
    "Smooth",
    "UnconstrainedFeatures",
    "collapse_of",
    "deq_nngp",
    "deq_ntk",
    "empirical_nngp",
    "empirical_ntk",
    "gaussianity",
    "gelu",
    "least_eigenvalue",
    "make_imbalanced",
    "minority_cosine",
    "sample_deq",
    "sample_deqs",
    "sample_mlp",
    "sample_mlps",
    "simplex_etf",
    "simplex_gram",
    "singular_distance",
    "tanh",
    "truncated",
]
