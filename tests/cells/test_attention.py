"""The attention cell is a transformer block, and every solver finds its one equilibrium."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.attention import SDPBackend, sdpa_kernel

from homotopy_deq import (
    BOSH3,
    TSIT5,
    Anderson,
    FlowLayer,
    Implicit,
    ImplicitLayer,
    Phantom,
    Picard,
    RungeKutta,
    Unroll,
)
from homotopy_deq.cells import AttentionCell
from tests.contract.every import EQUILIBRIUM, AnySolver, name, tuned
from tests.problems import DOUBLE, normal

TIGHT = Anderson(rtol=1e-12)
BATCH, TOKENS, CHANNELS = 3, 5, 8


def made(dtype: torch.dtype = DOUBLE, **settings: Any) -> AttentionCell:
    torch.manual_seed(0)
    cell = AttentionCell(CHANNELS, heads=2, hidden=12, **settings).to(dtype)
    return cell


def tokens(dtype: torch.dtype = DOUBLE, seed: int = 1) -> Tensor:
    return normal(seed, BATCH, TOKENS, CHANNELS, dtype=dtype)


def equilibrium(cell: nn.Module, x: Tensor) -> Tensor:
    z: Tensor = ImplicitLayer(cell, Picard(rtol=1e-13)).solve(x).check().value
    return z


@pytest.mark.parametrize("causal", [False, True])
def test_first_application_is_torchs_transformer_block(causal: bool) -> None:
    cell, x = made(causal=causal), tokens()
    block = nn.TransformerEncoderLayer(
        CHANNELS, 2, 12, 0.0, "gelu", batch_first=True, norm_first=True, dtype=DOUBLE
    )
    names = {
        "qkv.weight": "self_attn.in_proj_weight",
        "qkv.bias": "self_attn.in_proj_bias",
        "out": "self_attn.out_proj",
        "widen": "linear1",
        "narrow": "linear2",
    }
    for parameter in ("weight", "bias"):
        nn.init.normal_(getattr(cell.norm1, parameter))
        nn.init.normal_(getattr(cell.norm2, parameter))

    def renamed(key: str) -> str:
        whole, _, last = key.rpartition(".")
        return names.get(key, f"{names.get(whole, whole)}.{last}")

    block.load_state_dict({renamed(key): value for key, value in cell.state_dict().items()})
    mask = nn.Transformer.generate_square_subsequent_mask(TOKENS, dtype=DOUBLE) if causal else None
    wanted = block(x, src_mask=mask, is_causal=causal)
    torch.testing.assert_close(cell(cell.initial(x), *cell.condition(x)), wanted)


@pytest.mark.parametrize("solver", EQUILIBRIUM, ids=name)
@pytest.mark.parametrize(
    ("dtype", "rtol", "apart"), [(torch.float32, 1e-6, 1e-4), (DOUBLE, 1e-11, 1e-9)]
)
def test_every_solver_finds_the_same_equilibrium(
    solver: AnySolver, dtype: torch.dtype, rtol: float, apart: float
) -> None:
    cell, x = made(causal=True), tokens()
    wanted = equilibrium(cell, x)
    layer = ImplicitLayer(cell.to(dtype), tuned(solver, rtol=rtol))
    found = layer.solve(x.to(dtype)).check().value
    # A residual of rtol ||z||, over 1 - ||J||, and ||z|| is about 7.
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=apart)


@pytest.mark.parametrize("tableau", [BOSH3, TSIT5], ids=["bosh3", "tsit5"])
def test_flow_of_the_cell_rests_at_the_equilibrium(tableau: Any) -> None:
    cell, x = made(causal=True), tokens()
    flow = FlowLayer(cell, RungeKutta(tableau, rtol=1e-6, atol=1e-6), t1=50.0)
    # Some local errors of 1e-6. J's eigenvalues are below 1/2: of the slowest mode e^-25 is left.
    torch.testing.assert_close(flow(x), equilibrium(cell, x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("changed", range(TOKENS))
def test_a_changed_token_changes_no_equilibrium_before_it(changed: int) -> None:
    cell, x = made(causal=True), tokens()
    other = x.clone()
    other[:, changed] = normal(2, BATCH, CHANNELS)
    before, after = ImplicitLayer(cell, TIGHT)(x), ImplicitLayer(cell, TIGHT)(other)
    apart = (after - before).abs().amax((0, 2))
    assert bool((apart[:changed] < 1e-10).all())  # solves to 1e-12 of ||z|| = 7
    assert bool((apart[changed:] > 1e-4).all())  # all that follow attend to it


def test_jacobian_of_a_causal_cell_is_block_triangular() -> None:
    cell, x = made(causal=True), tokens()[:1]
    with sdpa_kernel(SDPBackend.MATH):  # the fused one is slow under vmap
        jacobian = torch.func.jacrev(lambda z: cell(z, x))(x)[0, :, :, 0]  # (T, C, T, C)
    late = torch.ones(TOKENS, TOKENS).triu(1).bool()
    blocks = jacobian.abs().amax((1, 3))
    assert bool((blocks[late] == 0).all()) and bool((blocks[~late] > 0).all())


def test_order_of_the_tokens_means_nothing_without_causality() -> None:
    cell, x = made(), tokens()
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(equilibrium(cell, x[:, order]), equilibrium(cell, x)[:, order])


def test_output_is_bounded_whatever_the_state_is() -> None:
    cell, x, z = made(gain=0.5), tokens(), tokens(seed=2)
    # LN divides by sqrt(variance + 1e-5): of the 1e-5 nothing is left, nor of the 1e12.
    torch.testing.assert_close(cell(1e12 * z, x), cell(1e6 * z, x), rtol=1e-9, atol=1e-9)
    still = made(gain=0.0)
    torch.testing.assert_close(still(z, x), still(x, x))  # LN1(z) is its bias


@pytest.mark.parametrize("causal", [False, True])
def test_padding_changes_no_equilibrium_and_keeps_its_own(causal: bool) -> None:
    cell, x = made(causal=causal), tokens()
    keep = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [1, 1, 0, 0, 0]]).bool()
    layer = ImplicitLayer(cell, TIGHT)
    found = layer.solve((x, keep)).check().value  # type: ignore[arg-type]
    for row, kept, of, start in zip(found, keep, x, layer.initial((x, keep)), strict=True):  # type: ignore[arg-type]
        torch.testing.assert_close(
            row[kept], equilibrium(cell, of[kept][None])[0], atol=1e-9, rtol=0
        )
        torch.testing.assert_close(row[~kept], of[~kept], atol=1e-12, rtol=0)  # mixed by Anderson
        assert torch.equal(start, of)


def with_rule(rule: Any, cell: nn.Module) -> Callable[[Tensor], Tensor]:
    solver = Picard(rtol=1e-13) if isinstance(rule, Unroll) else TIGHT
    return ImplicitLayer(cell, solver, rule)


def gradients(layer: Any, x: Tensor) -> list[Tensor]:
    at = x.clone().requires_grad_()
    inputs = [at, *layer.cell.parameters()]
    value = layer(at)
    weights = torch.linspace(-1, 1, value.numel(), dtype=DOUBLE).view_as(value)
    return list(torch.autograd.grad((weights * value).sum(), inputs))


@pytest.mark.parametrize("rule", [Implicit(TIGHT), Phantom(60)], ids=name)
def test_gradients_are_those_of_the_unrolled_iteration(rule: Any) -> None:
    cell, x = made(causal=True), tokens()
    wanted = gradients(with_rule(Unroll(), cell), x)
    for got, one in zip(gradients(with_rule(rule, cell), x), wanted, strict=True):
        torch.testing.assert_close(got, one, rtol=1e-8, atol=1e-9)


def test_first_and_second_derivatives_are_those_of_differences() -> None:
    torch.manual_seed(0)
    cell = AttentionCell(4, heads=2, hidden=3, causal=True).double()
    x, layer = normal(1, 1, 2, 4).requires_grad_(), with_rule(Implicit(TIGHT), cell)
    assert gradcheck(layer, (x,), atol=1e-6)
    assert gradgradcheck(layer, (x,), atol=1e-5)


@pytest.mark.parametrize("rule", [Implicit(TIGHT), Unroll()], ids=name)
def test_second_derivatives_in_the_weights_are_those_of_the_iteration(rule: Any) -> None:
    cell, x = made(causal=True), tokens()
    parameters = list(cell.parameters())

    def second(value: Tensor) -> tuple[Tensor, ...]:
        first = torch.autograd.grad(value.square().sum(), parameters, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), parameters)

    with sdpa_kernel(SDPBackend.MATH):
        z = x
        for _ in range(60):
            z = cell(z, x)
        wanted = second(z)
        got = second(with_rule(rule, cell)(x))
    if isinstance(rule, Implicit):  # which needs no kernel to be chosen
        got = second(with_rule(rule, cell)(x))
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)


def test_autocast_solves_in_single_precision_near_the_full_answer() -> None:
    cell, x = made(torch.float32, causal=True), tokens(torch.float32)
    layer = ImplicitLayer(cell, Anderson(), Implicit(Anderson(rtol=1e-3)))
    wanted, of = layer(x).detach(), []
    for half in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            value = layer(x)
        assert value.dtype == torch.float32
        of.append(torch.autograd.grad(value.square().mean(), list(cell.parameters())))
    eps = torch.finfo(torch.bfloat16).eps  # of each of a few products in a row
    assert float((value.detach() - wanted).norm() / wanted.norm()) < 3 * eps
    full, rounded = (torch.cat([g.flatten() for g in each]) for each in of)
    assert float((rounded - full).norm() / full.norm()) < 10 * eps


def test_one_mask_of_channels_serves_a_solve_of_a_training_cell() -> None:
    cell, x = made(dropout=0.5).train(), tokens()
    _, mask = cell.condition(x)
    assert mask.shape == (BATCH, 1, CHANNELS)
    assert set(mask.unique().tolist()) <= {0.0, 2.0}
    assert len(cell.eval().condition(x)) == 1


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (lambda: AttentionCell(8, heads=3), r"heads must divide channels; got 3 heads for 8"),
        (lambda: AttentionCell(0), r"at least 1; got 0, 4 and 0"),
        (lambda: AttentionCell(8, dropout=1.0), r"dropout must be in \[0, 1\); got 1.0"),
        (lambda: ImplicitLayer(made())(tokens()[..., :4]), r"tokens of 8 channels.*\(3, 5, 4\)"),
        (lambda: ImplicitLayer(made())(tokens()[:, 0]), r"tokens of 8 channels.*\(3, 8\)"),
        (
            lambda: ImplicitLayer(made())((tokens(), torch.ones(3, 4).bool())),  # type: ignore[arg-type]
            r"kept must be bool, \(3, 5\); got torch.bool, \(3, 4\)",
        ),
        (
            lambda: ImplicitLayer(made()).solve(tokens(), tokens()[:, :3]),
            r"AttentionCell cannot be evaluated at the start, z0 \(3, 3, 8\)",
        ),
    ],
)
def test_wrong_shapes_and_settings_are_told_in_one_line(
    given: Callable[[], object], wanted: str
) -> None:
    with pytest.raises(ValueError, match=wanted) as raised:
        given()
    assert "\n" not in str(raised.value)


def test_a_new_cell_contracts() -> None:
    # At its start a cell of the default size contracts, so that the first trainings' solves end.
    torch.manual_seed(0)
    cell, x = AttentionCell(64, causal=True), torch.randn(4, 32, 64)
    found = ImplicitLayer(cell, Picard(rtol=1e-4)).solve(x).check()
    assert int(found.evals.max()) <= 20 and bool(found.value.isfinite().all())
