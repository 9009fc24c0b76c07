"""docs/transforms.md says what happens: its tables are run cell by cell, no row goes without."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from homotopy_deq import (
    ODE,
    SHINE,
    Adjoint,
    Anderson,
    Broyden,
    FlowLayer,
    Implicit,
    ImplicitLayer,
    Phantom,
    Picard,
    Reversible,
    Unroll,
)
from homotopy_deq.layers import Layer
from solvers.gradient.coupled import CoupledPicard

PAGE = (Path(__file__).parents[1] / "docs" / "transforms.md").read_text()
Case = Callable[[Layer], object]


class Cell(nn.Module):
    """tanh(W z + x) with ||W|| = 1/2, so that every solve is short."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4, dtype=torch.float64)
        nn.init.orthogonal_(self.linear.weight, gain=0.5)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.linear(z) + x)


LAYERS: dict[str, Callable[[nn.Module], Layer]] = {
    "Implicit": lambda cell: ImplicitLayer(
        cell, Anderson(rtol=1e-11), Implicit(Anderson(rtol=1e-11))
    ),
    "Phantom": lambda cell: ImplicitLayer(cell, Anderson(rtol=1e-11), Phantom(40)),
    "Unroll": lambda cell: ImplicitLayer(cell, Picard(rtol=1e-11), Unroll()),
    "Adjoint": lambda cell: FlowLayer(
        cell, ODE("dopri5", rtol=1e-9, atol=1e-11), Adjoint(), t1=1.0
    ),
}
COLUMNS = {name: column for column, name in enumerate(LAYERS)}
# Rules that the page says belong to another's column.
LAYERS["Unroll(checkpoint=k)"] = lambda cell: ImplicitLayer(
    cell, Picard(rtol=1e-11), Unroll(checkpoint=4)
)
COLUMNS["Unroll(checkpoint=k)"] = COLUMNS["Unroll"]
LAYERS["Reversible"] = lambda cell: ImplicitLayer(
    cell, Picard(damping=0.5, max_steps=8), Reversible(), on_failure="ignore"
)
COLUMNS["Reversible"] = COLUMNS["Adjoint"]
LAYERS["SHINE(solver)"] = lambda cell: ImplicitLayer(
    cell, Broyden(rtol=1e-11), SHINE(Anderson(rtol=1e-11))
)
COLUMNS["SHINE(solver)"] = COLUMNS["Implicit"]
# The same answers by solves that torch differentiates itself, in reverse.
ORACLES = LAYERS | {
    "Adjoint": lambda cell: FlowLayer(cell, ODE("dopri5", rtol=1e-9, atol=1e-11), Unroll(), t1=1.0)
}
# Gradients of solves to 1e-11 and of an integration to 1e-9 a step, 0.5^40 = 1e-12 for Phantom.
NEAR = {"rtol": 1e-6, "atol": 1e-7}


def rows(heading: str) -> Iterator[list[str]]:
    """Yield the cells of each row of the table below a heading of the page."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    for line in re.findall(r"^\|(.*)\|$", section, re.MULTILINE)[2:]:
        yield [cell.strip() for cell in line.split("|")]


def data() -> Tensor:
    return torch.linspace(-1, 1, 12, dtype=torch.float64).view(3, 4)


def reference(layer: Layer) -> Layer:
    """Return the layer whose gradients the others are compared with."""
    if isinstance(layer.gradient, Reversible):
        return layer.with_solver(CoupledPicard.of(cast("Picard", layer.solver)), Unroll())
    kind = "Adjoint" if isinstance(layer, FlowLayer) else "Unroll"
    return ORACLES[kind](layer.cell)


def jacobian(layer: Layer, x: Tensor) -> Tensor:
    """Return d layer(x) / dx, row by row."""
    at = x.clone().requires_grad_()
    out = layer(at)
    each = [torch.autograd.grad(value, at, retain_graph=True)[0] for value in out.flatten()]
    return torch.stack(each).view(*out.shape, *x.shape)


def near(found: object, wanted: object) -> None:
    torch.testing.assert_close(found, wanted, **NEAR)


def loss(layer: Layer) -> Callable[[Tensor], Tensor]:
    return lambda x: layer(x).square().sum()


def plain_gradient(layer: Layer) -> None:
    near(jacobian(layer, data()), jacobian(reference(layer), data()))


def whole_jacobian(layer: Layer, **how: Any) -> None:
    found = torch.autograd.functional.jacobian(layer, data(), **how)
    near(found, jacobian(reference(layer), data()))


def second_derivative(layer: Layer) -> None:
    x, v = data(), torch.ones_like(data())
    wanted = jacobian(reference(layer), x).flatten(2).sum(2)
    near(torch.autograd.functional.jvp(layer, x, v)[1], wanted)
    _, found = torch.autograd.functional.hvp(loss(layer), x, v)
    near(found, torch.autograd.functional.hvp(loss(reference(layer)), x, v)[1])


def forward_mode(layer: Layer) -> None:
    with forward_ad.dual_level():
        out = layer(forward_ad.make_dual(data(), torch.ones_like(data())))
        found = forward_ad.unpack_dual(out).tangent
    assert found is not None
    near(found, jacobian(reference(layer), data()).flatten(2).sum(2))


def weights(layer: Layer) -> dict[str, Tensor]:
    return {k: (0.8 * v).detach().requires_grad_() for k, v in layer.named_parameters()}


def called_with_other_weights(layer: Layer) -> None:
    def gradients(one: Layer) -> list[Tensor | None]:
        slow = weights(one)
        functional_call(one, slow, (data(),)).sum().backward()
        return [v.grad for v in slow.values()]

    near(gradients(layer), gradients(reference(layer)))


def first_order_maml(layer: Layer) -> None:
    def gradients(one: Layer) -> tuple[Tensor, ...]:
        fast = {k: 1.1 * v for k, v in weights(one).items()}
        return torch.autograd.grad(functional_call(one, fast, (data(),)).sum(), list(fast.values()))

    near(gradients(layer), gradients(reference(layer)))


def maml(layer: Layer) -> None:
    def gradients(one: Layer) -> tuple[Tensor, ...]:
        slow = weights(one)
        fast = dict(slow)
        for target in (0.3, -0.1):
            inner = (functional_call(one, fast, (data(),)) - target).square().sum()
            steps = torch.autograd.grad(inner, list(fast.values()), create_graph=True)
            fast = {k: v - 0.05 * g for (k, v), g in zip(fast.items(), steps, strict=True)}
        outer = functional_call(one, fast, (2 * data(),)).square().sum()
        return torch.autograd.grad(outer, list(slow.values()))

    near(gradients(layer), gradients(reference(layer)))


def checkpointed(layer: Layer) -> None:
    x = data().requires_grad_()
    (found,) = torch.autograd.grad(checkpoint(layer, x, use_reentrant=False).sum(), x)
    near(found, jacobian(reference(layer), data()).flatten(0, 1).sum(0))


def every(*calls: Callable[[], object]) -> None:
    """Do each, where all must do the same: return, or raise."""
    outcomes = []
    for call in calls:
        try:
            call()
            outcomes.append(None)
        except NotImplementedError as error:
            outcomes.append(error)
    assert all((one is None) == (outcomes[0] is None) for one in outcomes)
    if outcomes[0] is not None:
        raise outcomes[0]


def functions(layer: Layer) -> None:
    of = loss(layer)
    every(
        lambda: torch.func.grad(of)(data()),
        lambda: torch.func.grad(lambda w: functional_call(layer, w, (data(),)).sum())(
            weights(layer)
        ),
        lambda: torch.func.vjp(layer, data()),
        lambda: torch.func.jacrev(layer)(data()),
        lambda: torch.func.hessian(of)(data()),
        lambda: torch.func.vmap(torch.func.grad(lambda x: of(x[None])))(data()),
    )


def functional_jvps(layer: Layer) -> None:
    every(
        lambda: torch.func.jvp(layer, (data(),), (data(),)),
        lambda: torch.func.jacfwd(layer)(data()),
    )


def vmapped(layer: Layer) -> None:
    stack = {k: torch.stack([v, v]) for k, v in weights(layer).items()}
    every(
        lambda: torch.func.vmap(lambda x: layer(x[None])[0])(data()),
        lambda: torch.func.vmap(lambda w: functional_call(layer, w, (data(),)))(stack),
    )


def vectorized(layer: Layer) -> None:
    whole_jacobian(layer, vectorize=True)
    x = data().requires_grad_()
    out = layer(x)[:, 0].sum()
    torch.autograd.grad(out, x, torch.ones(2, dtype=torch.float64), is_grads_batched=True)


def compiled(layer: Layer, **how: Any) -> None:
    torch._dynamo.reset()
    net = nn.Sequential(nn.Identity(), layer)
    near(torch.compile(net, backend="eager", **how)(data()), layer(data()))


def from_meta(layer: Layer) -> None:
    built = copy.deepcopy(layer).to("meta").to_empty(device="cpu")
    built.load_state_dict(layer.state_dict())
    near(built(data()), layer(data()))


def faked(layer: Layer) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True):
        layer(torch.empty(3, 4, dtype=torch.float64))


def onnx(layer: Layer) -> None:
    torch.onnx.export(layer, (data(),), "never.onnx", dynamo=False)


TRANSFORMS: dict[str, Case] = {
    "`torch.autograd.grad`": plain_gradient,
    "`torch.autograd.functional.jacobian`": whole_jacobian,
    "`torch.autograd.functional.jacobian(vectorize=True)`, `grad(is_grads_batched=True)`": (
        vectorized
    ),
    "`torch.autograd.functional.jvp`, `hvp`, `create_graph=True`": second_derivative,
    "`torch.autograd.forward_ad`": forward_mode,
    "`torch.func.functional_call`, then `backward`": called_with_other_weights,
    "`autograd.grad` in weights that are no leaves (first-order MAML)": first_order_maml,
    "MAML: two inner steps with `create_graph=True`": maml,
    "`torch.utils.checkpoint`": checkpointed,
    "`torch.func.vmap`": vmapped,
    "`torch.func.grad`, `vjp`, `jacrev`, `hessian`": functions,
    "`torch.func.jvp`, `jacfwd`": functional_jvps,
    "`torch.compile(model)`": compiled,
    "`torch.compile(model, fullgraph=True)`": lambda layer: compiled(layer, fullgraph=True),
    "`torch.export.export`": lambda layer: torch.export.export(layer, (data(),), strict=False),
    "`torch.onnx.export`": onnx,
    "`torch.jit.trace`": lambda layer: torch.jit.trace(layer, (data(),)),
    "`torch.jit.script`": lambda layer: torch.jit.script(nn.Sequential(layer)),
    "`torch.fx.symbolic_trace`": lambda layer: torch.fx.symbolic_trace(nn.Sequential(layer)),
    "a layer built on the meta device, then `to_empty` and its weights": from_meta,
    "a call with meta tensors": lambda layer: copy.deepcopy(layer).to("meta")(data().to("meta")),
    "a call with fake tensors": faked,
}
TABLE = {name: verdicts for name, *verdicts in rows("What works with which gradient")}


def test_each_transform_has_a_row_and_each_row_a_run() -> None:
    assert list(TABLE) == list(TRANSFORMS)


@pytest.mark.filterwarnings("ignore:.*(deprecated|removed|legacy):Warning")
@pytest.mark.parametrize("rule", LAYERS)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transform_works_or_is_refused_in_one_line(name: str, rule: str) -> None:
    layer = LAYERS[rule](Cell())
    if TABLE[name][COLUMNS[rule]] == "yes":
        TRANSFORMS[name](layer)
        return
    with pytest.raises((NotImplementedError, RuntimeError)) as refused:
        TRANSFORMS[name](layer)
    ours = "loop over numbers|loop reads numbers|loop by|freeze|cannot compile a solve"
    ours += "|steps of Unroll|no derivative itself"
    lines = [line for line in str(refused.value).splitlines() if re.search(ours, line)]
    assert len(lines) == 1  # the compiler adds its own around it
