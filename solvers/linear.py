"""Matrix-free linear algebra on a batch: exact Jacobian-vector products and GMRES."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .norms import TINY, norm
from .problem import Counter
from .twice import by_formula

LinearMap = Callable[[Tensor], Tensor]


def jvp(function: LinearMap, z: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return f(z) and J(z) v, exactly, by forward-mode differentiation.

    Where an operator of f has no forward-mode rule, J v is the derivative of the linear map
    w -> J^T w instead (two reverse passes, equally exact).
    """
    function = by_formula(function)
    _load_forward_rules()
    try:
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(z, v)  # type: ignore[no-untyped-call]
            value, tangent = forward_ad.unpack_dual(function(dual))  # type: ignore[no-untyped-call]
            return value, torch.zeros_like(value) if tangent is None else tangent
    except (NotImplementedError, RuntimeError) as error:
        if "forward" not in str(error).lower():
            raise
    return _double_vjp(function, z, v)


@cache
def _load_forward_rules() -> None:
    """Import torch's forward-mode rules, which the first dual tensor does with a FutureWarning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        import torch._decomp.decompositions_for_jvp  # noqa: F401


def _double_vjp(function: LinearMap, z: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    keep = torch.is_grad_enabled()
    with torch.enable_grad():
        z = z if keep and z.requires_grad else z.detach().requires_grad_()
        value = function(z)
        w = torch.zeros_like(value, requires_grad=True)
        try:
            (pulled,) = torch.autograd.grad(value, z, w, create_graph=True)
            (tangent,) = torch.autograd.grad(pulled, w, v, create_graph=keep)
        except (NotImplementedError, RuntimeError) as error:
            raise RuntimeError(
                "No product J v of this map can be formed: an operator of it has neither a "
                f"forward-mode rule nor a second derivative ({error}). Write that operator by its "
                "formula, or use a solver without products: Anderson, Broyden, SteadyState."
            ) from error
    return (value, tangent) if keep else (value.detach(), tangent)


def linearize(
    function: LinearMap, z: Tensor, counter: object = None
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return f(z) and the map v -> J(z) v, exact, for many products at one point.

    f is evaluated once. J v is the derivative of w -> J^T w, whose graph is kept: a product is
    one reverse pass over the graph of J^T w, without evaluating f again (for a small dense map
    2 to 15 times faster than `jvp`). Where an operator of f has no second derivative, products
    are those of `jvp`.

    Arguments:
        function: f; row i of its output may depend on row i of z alone.
        z: where it is linearised, (B, ...).
        counter: the `Counter` of f's evaluations, if any: a product counts as one.
    """
    keep = torch.is_grad_enabled()
    with torch.enable_grad():
        at = z if keep and z.requires_grad else z.detach().requires_grad_()
        value = by_formula(function)(at)
        weight = torch.zeros_like(value, requires_grad=True)
        pulled = None
        if value.requires_grad:
            (pulled,) = torch.autograd.grad(
                value, at, weight, create_graph=True, materialize_grads=True
            )

    def push(v: Tensor) -> Tensor:
        if isinstance(counter, Counter):
            counter.count += 1
        if pulled is None:  # constant, or evaluated under no_grad
            return jvp(function, z, v)[1]
        if not pulled.requires_grad:
            return torch.zeros_like(value)
        try:
            (tangent,) = torch.autograd.grad(
                pulled, weight, v, retain_graph=True, create_graph=keep, allow_unused=True
            )
        except (NotImplementedError, RuntimeError) as error:
            if "not implemented" not in str(error).lower():
                raise
            return jvp(function, z, v)[1]
        # J^T w depends on w unless an operator hides that, as once_differentiable does.
        return jvp(function, z, v)[1] if tangent is None else tangent

    return (value if keep else value.detach()), push


def gmres(
    operator: LinearMap,
    rhs: Tensor,
    *,
    rtol: float | Tensor,
    max_steps: int,
) -> tuple[Tensor, Tensor]:
    """Solve A d = rhs for each sample by GMRES from d = 0, without restarts.

    Minimises ||rhs - A d|| over the Krylov space. Each sample stops at its own tolerance; the
    residual norm costs one inner product a step: with w the left null vector of the Hessenberg
    matrix, w_0 = 1, it is ||rhs|| / ||w||.

    Arguments:
        operator: v -> A v on (B, ...); row i may depend on row i alone.
        rhs: (B, ...).
        rtol: stop at ||rhs - A d|| <= rtol ||rhs||; a float or (B,).
        max_steps: dimension of the Krylov space at most; as many products.

    Returns:
        d, (B, ...), and the relative residual reached, (B,).

    References:
        Y. Saad, M. Schultz (1986), GMRES.
    """
    batch, n = rhs.shape[0], rhs[0].numel()
    max_steps = min(max_steps, n)
    beta = norm(rhs)
    v = rhs.flatten(1) / beta.clamp_min(TINY)[:, None]
    basis = [v]
    columns: list[Tensor] = []  # column k of the Hessenberg matrix, (B, k + 2)
    null = rhs.new_ones(batch, 1)
    open_ = beta > 0  # samples whose space still grows
    relative = open_.to(beta.dtype)
    for _ in range(max_steps):
        stacked = torch.stack(basis, dim=1)  # (B, k + 1, n)
        image = operator(basis[-1].view_as(rhs)).flatten(1)
        size = norm(image)
        h = torch.zeros_like(null)
        for _ in range(2):  # twice is enough (Giraud, Langou, Rozloznik 2005)
            overlap = torch.bmm(image.unsqueeze(1), stacked.mT)
            image = image - torch.bmm(overlap, stacked).squeeze(1)
            h = h + overlap.squeeze(1)
        left = norm(image)
        breakdown = left <= 10 * torch.finfo(rhs.dtype).eps * size
        grows = open_ & ~breakdown & torch.isfinite(left)
        reach = -(null * h).sum(1)
        # On breakdown the system is solved exactly, unless A maps the space into a smaller one.
        exact = breakdown & (reach.abs() > 10 * torch.finfo(rhs.dtype).eps * size * norm(null))
        entry = reach / torch.where(grows, left, 1)
        null = torch.cat((null, torch.where(grows, entry, 0).unsqueeze(1)), dim=1)
        relative = torch.where(open_, torch.where(exact, 0, 1 / norm(null)), relative)
        # A sample that has stopped keeps the rest of its system trivial: y_k = 0.
        column = torch.cat((h, torch.where(grows, left, 0).unsqueeze(1)), dim=1)
        unit = torch.zeros_like(column)
        unit[:, -1] = 1  # a row of its own: the rows before are the system's
        columns.append(torch.where(open_[:, None], column, unit))
        v = torch.where(grows[:, None], image / torch.where(grows, left, 1)[:, None], 0)
        open_ = grows & (relative > rtol)
        if not bool(open_.any()):
            break
        basis.append(torch.where(open_[:, None], v, 0))
    steps = len(columns)
    if steps == 0:
        return torch.zeros_like(rhs), relative
    hessenberg = rhs.new_zeros(batch, steps + 1, steps)
    for k, column in enumerate(columns):
        hessenberg[:, : k + 2, k] = column
    target = torch.zeros_like(hessenberg[:, :, 0])
    target[:, 0] = beta
    y = _least_squares(hessenberg, target)
    stacked = torch.stack(basis[:steps], dim=1)
    d = torch.bmm(y.unsqueeze(1), stacked).view_as(rhs)
    missed = target - torch.bmm(hessenberg, y.unsqueeze(2)).squeeze(2)
    return d, norm(missed) / beta.clamp_min(TINY)


def _least_squares(a: Tensor, b: Tensor) -> Tensor:
    """Return argmin ||a y - b|| per sample, a (B, k + 1, k), with y_k = 0 where r_kk vanishes.

    That happens where A is singular; the direction in which A v = 0 is then left alone.
    """
    q, r = torch.linalg.qr(a)
    diagonal = r.diagonal(dim1=1, dim2=2)
    largest = diagonal.abs().amax(1, keepdim=True)
    null = (diagonal.abs() <= 10 * torch.finfo(a.dtype).eps * largest).unsqueeze(2)
    r = torch.where(null, 0, r.triu(1)) + torch.diag_embed(torch.where(null[..., 0], 1, diagonal))
    rhs = torch.where(null, 0, torch.bmm(b.unsqueeze(1), q).mT)
    solution: Tensor = torch.linalg.solve_triangular(r, rhs, upper=True)
    return solution.squeeze(2)
