"""torchdeq's normalisation of weights, as parametrizations: right after every update."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .dropout import reset_dropout

Names = str | Sequence[str]
Dims = int | Sequence[int]
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
PLAIN = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
KINDS = ("weight_norm", "spectral_norm", "none")
REGISTERED: dict[tuple[type[nn.Module], str], tuple[Names, Dims]] = {}
"""What `register_norm_module` was told: torchdeq's scripts do so where they are imported."""


class Normed(nn.Module):
    """Scale a weight to a norm: w <- w min(g / ||w||, clip), of each row or of the whole matrix.

    The spectral norm is that of the matrix (rows, the rest), computed exactly at each use, so a
    weight that was updated is never used at an old scale. A solve of `compat.DEQ` uses it once.

    Arguments:
        weight: as it is now.
        dim: of its rows.
        spectral: whether the norm is the matrix's largest singular value, not each row's 2-norm.
        target: the norm aimed at, or the first value of g.
        learn: whether g is learned, one number a row.
        clip: largest factor, or None.
    """

    def __init__(
        self,
        weight: Tensor,
        dim: int,
        *,
        spectral: bool,
        target: float,
        learn: bool,
        clip: float | None,
    ) -> None:
        super().__init__()
        self.dim, self.spectral, self.target, self.clip = dim, spectral, target, clip
        rows = self._rows(weight.detach())
        if not bool((rows.amax() if spectral else rows.amin()) > 0):
            what = "is 0" if spectral else "has a row of zeros"
            raise ValueError(
                f"A weight {tuple(weight.shape)} {what}, which no factor scales to a norm: start "
                "it at other values, or leave its module out by filter_out."
            )
        first = torch.full_like(rows, target) if spectral else rows
        self.scale = nn.Parameter(first) if learn else None

    def forward(self, weight: Tensor) -> Tensor:
        """Return the normed weight."""
        if self.spectral:
            matrix = weight.transpose(0, self.dim).flatten(1)
            size: Tensor = torch.linalg.matrix_norm(matrix, 2)
        else:
            size = self._rows(weight)
        factor = (self.target if self.scale is None else self.scale) / size
        if self.clip is not None:
            factor = factor.clamp(max=self.clip)
        return weight * factor

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Refuse a weight that is assigned, as g and w are not known from it."""
        raise NotImplementedError(
            f"A normed weight {tuple(weight.shape)} is computed and cannot be assigned to: leave "
            "its module out by filter_out, or norm_type='none', or call remove_norm first."
        )

    def _rows(self, weight: Tensor) -> Tensor:
        """Return the 2-norm of each row, in a shape that multiplies the weight."""
        others = [k for k in range(weight.dim()) if k != self.dim]
        size: Tensor = torch.linalg.vector_norm(weight, dim=others, keepdim=True)
        return size


def apply_norm(
    model: nn.Module,
    norm_type: str = "weight_norm",
    prefix_filter_out: str | Sequence[str] | None = None,
    filter_out: str | Sequence[str] | None = None,
    args: Any = None,
    *,
    learn_scale: bool = True,
    target_norm: float = 1.0,
    clip: bool = False,
    clip_value: float = 1.0,
    n_power_iterations: int | None = None,
    names: Names | None = None,
    dims: Dims | None = None,
) -> None:
    """Parametrize the weights of all linear and convolutional modules, see `Normed`.

    Arguments:
        model: changed in place: its weights become `parametrizations.weight`.
        norm_type: "weight_norm", "spectral_norm" or "none".
        prefix_filter_out: leave modules out whose names begin with one of these.
        filter_out: leave modules out whose names contain one of these.
        args: a namespace or dict with norm_type, norm_no_scale, norm_target_norm, norm_clip and
            norm_clip_value, which go before the others.
        learn_scale: learn g.
        target_norm: what weights are scaled to.
        clip: never scale up by more than `clip_value`.
        clip_value: see `clip`.
        n_power_iterations: nothing is iterated; taken and left.
        names: of parameters: every module that has them, of whatever type, has these normed in
            the place of `weight`, as has one of a type of `register_norm_module`.
        dims: of their rows, one each or one for all; 0 by default.

    Raises:
        ValueError: the norm is none of these, or a weight is parametrized already, or 0.
    """
    held = {} if args is None else args if isinstance(args, dict) else vars(args)
    norm_type = held.get("norm_type", norm_type)
    if norm_type not in KINDS:
        raise ValueError(f"norm_type must be one of {', '.join(KINDS)}; got {norm_type!r}.")
    if norm_type == "none":
        return
    most = held.get("norm_clip_value", clip_value) if held.get("norm_clip", clip) else None
    settings: dict[str, Any] = {
        "spectral": norm_type == "spectral_norm",
        "target": held.get("norm_target_norm", target_norm),
        "learn": not held.get("norm_no_scale", not learn_scale),
        "clip": most,
    }
    for name, module in _chosen(model, prefix_filter_out, filter_out):
        for parameter, dim in _weights(module, norm_type, names, dims):
            if parametrize.is_parametrized(module, parameter):
                raise ValueError(
                    f"{name}.{parameter} is parametrized already: call remove_norm first."
                )
            norm = Normed(getattr(module, parameter), dim, **settings)
            parametrize.register_parametrization(module, parameter, norm)


def register_norm_module(
    module_class: type[nn.Module], norm_type: str, names: Names = "weight", dims: Dims = 0
) -> None:
    """Have `apply_norm` norm these parameters of the modules of a class.

    Arguments:
        module_class: of the modules; a subclass is another.
        norm_type: "weight_norm" or "spectral_norm".
        names: of their parameters.
        dims: of the parameters' rows, one each or one for all.

    Raises:
        ValueError: the norm is none of these.
    """
    if norm_type not in KINDS[:2]:
        raise ValueError(f"norm_type must be one of {', '.join(KINDS[:2])}; got {norm_type!r}.")
    REGISTERED[module_class, norm_type] = names, dims


def remove_norm(model: nn.Module) -> None:
    """Make the weights that `apply_norm` computes plain parameters of the same values.

    Arguments:
        model: changed in place.
    """
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            parametrizations: Any = module.parametrizations
            for name, made in list(parametrizations.items()):
                if any(isinstance(each, Normed) for each in made):
                    parametrize.remove_parametrizations(module, name, leave_parametrized=True)


def reset_norm(model: nn.Module) -> None:
    """Do nothing: a weight is computed when it is used, and there is nothing to reset.

    Arguments:
        model: left as it is.
    """


def reset_deq(model: nn.Module) -> None:
    """Forget the masks of dropout, so that the next solve draws new ones.

    Arguments:
        model: its masks are forgotten, in place.
    """
    reset_dropout(model)


def _chosen(
    model: nn.Module, prefixes: str | Sequence[str] | None, parts: str | Sequence[str] | None
) -> Iterator[tuple[str, nn.Module]]:
    begins = (prefixes,) if isinstance(prefixes, str) else tuple(prefixes or ())
    within = (parts,) if isinstance(parts, str) else tuple(parts or ())
    for name, module in list(model.named_modules()):
        left = bool(begins) and name.startswith(begins) or any(part in name for part in within)
        if not left and not isinstance(module, Normed):
            yield name, module


def _weights(
    module: nn.Module, norm_type: str, names: Names | None, dims: Dims | None
) -> Iterator[tuple[str, int]]:
    """Yield the parameters of a module that are normed, and the dimension of their rows."""
    if names is None:
        kind = parametrize.type_before_parametrizations(module)
        if (kind, norm_type) in REGISTERED:
            names, dims = REGISTERED[kind, norm_type]
        elif kind in (*PLAIN, *TRANSPOSED):
            names, dims = "weight", int(kind in TRANSPOSED)
        else:
            return
    listed = (names,) if isinstance(names, str) else tuple(names)
    rows = (dims or 0,) * len(listed) if dims is None or isinstance(dims, int) else tuple(dims)
    for name, dim in zip(listed, rows, strict=True):
        if name in module._parameters or parametrize.is_parametrized(module, name):
            yield name, dim
