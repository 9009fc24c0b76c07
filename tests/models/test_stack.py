"""Image models with a Lipschitz constant by construction, explicit and implicit."""

from __future__ import annotations

import copy
import io
import json
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from homotopy_deq import ODE, Anderson, NewtonKrylov
from homotopy_deq.certification import Converged, Smoother, Smoothing
from homotopy_deq.lipschitz import (
    AOL,
    LBEN,
    EquilibriumNetwork,
    MonDEQ,
    Sandwich,
    certify_lipschitz,
    certify_margins,
    departure,
    gain_found,
)
from homotopy_deq.models import (
    AOLNetwork,
    BoundedModel,
    CPLNetwork,
    ExplicitNetwork,
    LBENNetwork,
    MonotoneDEQ,
    SandwichNetwork,
    SLLNetwork,
)
from homotopy_deq.training.objective import margin_loss
from solvers import MonotoneInclusion, PeacemanRachford, Status

EXPLICIT = [CPLNetwork, SLLNetwork, AOLNetwork, SandwichNetwork]
ALL = [*EXPLICIT, LBENNetwork]
SMALL = {"channels": 3, "depth": 2, "kernel": 3, "features": 7, "mean": [0.25], "std": [0.5]}
SHAPE = (1, 8, 8)


def small(kind: type[BoundedModel], **settings: Any) -> BoundedModel:
    torch.manual_seed(0)
    model: BoundedModel = kind(SHAPE, 5, **(SMALL | settings))  # type: ignore[call-arg, arg-type]
    with torch.no_grad():  # no parameter is 0, so that none is forgotten
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model.double().eval()


def images(batch: int = 6) -> torch.Tensor:
    return torch.rand(batch, *SHAPE, dtype=torch.float64)


@pytest.mark.parametrize("kernel", [3, 0])
@pytest.mark.parametrize("kind", ALL)
def test_every_weight_gets_a_gradient_and_config_rebuilds_the_model(
    kind: type[BoundedModel], kernel: int
) -> None:
    model, x = small(kind, kernel=kernel), images()
    logits = model(x)
    logits.square().sum().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    again = kind(**json.loads(json.dumps(model.config))).double().eval()  # type: ignore[call-arg]
    again.load_state_dict(model.state_dict())
    assert again.config == model.config and torch.equal(again(x), logits)


@pytest.mark.parametrize("kind", ALL)
def test_copies_and_whole_module_files_give_the_same_logits(kind: type[BoundedModel]) -> None:
    model, x = small(kind), images()
    with torch.no_grad():
        y = model(x)
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        for other in (copy.deepcopy(model), torch.load(buffer, weights_only=False)):
            assert torch.equal(other(x), y)


@pytest.mark.parametrize("kernel", [3, 0])
@pytest.mark.parametrize("kind", EXPLICIT)
def test_an_explicit_model_as_equilibria_has_the_same_logits_and_certificates(
    kind: type[ExplicitNetwork], kernel: int
) -> None:
    model, x = small(kind, kernel=kernel), images()
    assert isinstance(model, ExplicitNetwork)
    lben = model.to_lben()
    with torch.no_grad():
        assert torch.allclose(lben(x), model(x), rtol=0, atol=1e-12)
    a, b = certify_margins(model.network(), x), certify_margins(lben.network(), x)
    # The bound is the same product of ones; what differs is rounding and the solver's slack.
    assert torch.allclose(a.radius, b.radius, rtol=1e-6) and bool((a.radius > 0).all())
    rebuilt = LBENNetwork(**json.loads(json.dumps(lben.config))).double().eval()
    rebuilt.load_state_dict(lben.state_dict())
    assert torch.equal(rebuilt(x), lben(x))


def test_the_inequality_holds_after_training_the_equilibria_and_the_penalty_sees_it() -> None:
    model = small(SLLNetwork)
    assert isinstance(model, ExplicitNetwork)
    lben, x = model.to_lben().train(), images()
    before = [float(part.cell.departure().detach()) for part in lben.layer.implicit]  # type: ignore
    assert max(before) < 1e-9  # |W| there is rounding, over 2,000 entries
    optimiser = torch.optim.Adam(lben.parameters(), lr=1e-3)
    for _ in range(50):
        optimiser.zero_grad()
        lben(x).square().sum().backward()
        optimiser.step()
    for part in lben.eval().layer.implicit:
        q, least = part.lmi()
        assert least >= -1e-10 * float(torch.linalg.matrix_norm(q).amax())
        assert float(part.cell.departure().detach()) > 1e-3  # type: ignore[union-attr, operator]
    assert certify_lipschitz(lben.network()[:-1]).value <= 2 + 1e-6  # 1 / std


@pytest.mark.parametrize("kind", ALL)
def test_no_pair_of_images_is_driven_further_apart_than_one_over_std(
    kind: type[BoundedModel],
) -> None:
    model = small(kind)
    body = model.network()[:-1]
    for part in body.modules():
        if hasattr(part, "layer"):
            part.layer = part.layer.with_solver(PeacemanRachford(rtol=1e-12, step_size=1.0))
    found = gain_found(body, images(4), steps=10)
    assert 0.01 < float(found.max()) <= 2 * (1 + 1e-9)


@pytest.mark.parametrize("kernel", [3, 0])
@pytest.mark.parametrize("kind", EXPLICIT)
def test_plain_modules_of_torch_give_the_same_logits(
    kind: type[ExplicitNetwork], kernel: int
) -> None:
    model, x = small(kind, kernel=kernel), images()
    plain = model.to_vanilla()
    assert {type(m).__module__.split(".")[0] for m in plain.modules()} == {"torch"}
    with torch.no_grad():
        assert torch.allclose(plain(x), model(x), rtol=0, atol=1e-13)


def test_an_equilibrium_has_no_plain_modules() -> None:
    with pytest.raises(ValueError, match="an equilibrium is solved for"):
        small(LBENNetwork).to_vanilla()


def test_a_stack_reports_the_worst_of_its_equilibria() -> None:
    model, x = small(LBENNetwork), images()
    good = model.solve(x).solution
    assert bool(good.converged.all()) and float(good.residual.max()) <= 1e-4
    assert torch.equal(model.residual(model.solve(x)), good.residual)
    first = model.layer.implicit[0]
    first.layer = first.layer.with_solver(PeacemanRachford(max_steps=1, step_size=1.0))
    bad = model.solve(x).solution
    assert bool((bad.status == Status.MAX_STEPS).all())
    assert float(bad.residual.min()) > 1e-4 and bool((bad.evals < good.evals).all())
    logits = model.solve(torch.cat((x, torch.full_like(x[:1], float("nan"))))).logits
    assert bool(logits[:-1].isfinite().all()) and bool(logits[-1].isnan().all())


@pytest.mark.parametrize("kind", ALL)
def test_no_images_give_no_logits(kind: type[BoundedModel]) -> None:
    assert small(kind)(images(0)).shape == (0, 5)


def test_an_explicit_answer_that_overflows_is_no_success() -> None:
    model = small(AOLNetwork).float()
    with torch.no_grad():
        model.layer.body[0].bias.fill_(1e38)  # type: ignore[union-attr, operator]
    found = model.solve(images().float()).solution
    assert bool((found.status == Status.NONFINITE).all())


def test_no_equilibrium_is_solved_for_unseen() -> None:
    inner = LBEN(4, 6, 3, solver=PeacemanRachford(max_steps=1, step_size=1.0))
    nested = BoundedModel(
        (1, 2, 2), nn.Sequential(nn.Flatten(), nn.Sequential(inner)), 3, 5, on_failure="ignore"
    )
    assert nested.layer.implicit == [inner]
    found = nested.solve(torch.rand(4, 1, 2, 2)).solution
    assert not bool(found.converged.any())

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

    with pytest.raises(ValueError, match="within Wrapped would fail unseen"):
        BoundedModel((1, 2, 2), nn.Sequential(nn.Flatten(), Wrapped()), 3, 5)


def test_any_path_to_the_equilibria_gives_the_logits() -> None:
    model, x = small(LBENNetwork), images()
    with torch.no_grad():
        near = model.with_solver(PeacemanRachford(rtol=1e-10, step_size=1.0))(x)
        assert torch.allclose(model.with_solver(NewtonKrylov(rtol=1e-10))(x), near, atol=1e-8)
        flow = model.with_solver(ODE("rk4"), t1=40.0)
        assert torch.allclose(flow(x), near, atol=1e-3)
        assert float(flow.residual(flow.solve(x)).max()) > 0  # measured, not claimed


def test_an_explicit_model_takes_any_solver_of_equilibria_and_no_flow() -> None:
    model, x = small(SLLNetwork), images()
    assert torch.equal(model.with_solver(Anderson())(x), model(x))
    with pytest.raises(TypeError, match="no flow"):
        model.with_solver(ODE())


def test_bf16_autocast_runs_and_keeps_gradients() -> None:
    mixed = nn.Sequential(
        AOL(1, 3, grid=(8, 8)), Sandwich(3, 3, grid=(8, 8)), nn.AvgPool2d(8), nn.Flatten()
    )
    models = [*(small(kind).float() for kind in ALL), BoundedModel(SHAPE, mixed, 3, 5)]
    for model in models:
        x = images().float()
        model.train()
        with torch.autocast("cpu", torch.bfloat16):
            logits = model.solve(x).logits
        logits.float().square().sum().backward()
        assert bool(logits.isfinite().all())
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"patch": 3}, "patch must divide"),
        ({"channels": 0}, "channels must be at least 1"),
        ({"kernel": 4}, "kernel must be odd"),
        ({"kernel": 9}, "fit on the grid"),
        ({"features": 0}, "features must be at least 1"),
        ({"kernel": 0, "dense_depth": 0}, "dense_depth"),
    ],
)
@pytest.mark.parametrize("kind", [SLLNetwork, AOLNetwork, LBENNetwork])
def test_sizes_that_make_no_model_get_one_line(
    kind: type[BoundedModel], wrong: dict[str, int], words: str
) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        small(kind, **wrong)
    assert "\n" not in str(caught.value)


def test_monotone_deq_and_mondeq_are_one_map_under_two_names() -> None:
    torch.manual_seed(0)
    model = MonotoneDEQ((1, 4, 4), 5, hidden=7, kernel=0).double().eval()
    other = MonDEQ(16, 7, 5).double()
    u, v = model.stem[1], model.head.linear  # type: ignore[index, union-attr]
    parts = {"u": u.weight, "b": u.bias, "v": v.weight, "c": v.bias}
    w = {f"cell.{name}": t for name, t in model.layer.cell.state_dict().items()}
    other.cell.load_state_dict({**parts, **w})  # one cell, by one set of names
    x = torch.rand(6, 1, 4, 4, dtype=torch.float64)
    solver = PeacemanRachford(rtol=1e-12)
    other.layer = other.layer.with_solver(solver)
    with torch.no_grad():
        wanted = model.with_solver(solver)(x)
        assert torch.allclose(other(x.flatten(1)), wanted, rtol=0, atol=1e-10)
    proved = model.lipschitz().value
    assert proved == pytest.approx(other.gamma, rel=1e-2)  # gamma has Gram's upper bounds


def test_sizes_of_equilibria_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="sizes must be 2 of"):
        LBENNetwork(SHAPE, 5, sizes=[[1, 2, 3]])
    with pytest.raises(ValueError, match="Lift takes 3 channels"):
        SLLNetwork((3, 8, 8), 5, channels=2)


def test_a_head_of_normalised_rows_is_refused_as_one_map_and_certified_by_pairs() -> None:
    model, x = small(SLLNetwork), images()
    with pytest.raises(ValueError, match=r"head \(NormalizedLinear\).*pairs of rows"):
        model.lipschitz()
    found = certify_margins(model.network(), x)
    weight = torch.nn.functional.normalize(model.head.weight.detach())  # type: ignore[arg-type]
    top = found.logits.topk(2).indices
    for row in range(len(x)):
        apart = (weight[top[row, 0]] - weight[top[row, 1]]).norm()
        pair = (found.logits[row, top[row, 0]] - found.logits[row, top[row, 1]]) / (2 * apart)
        assert 0 < float(found.radius[row]) <= float(pair)


def test_smoothing_certifies_a_stack_of_equilibria_from_its_own_forward_pass() -> None:
    torch.manual_seed(0)
    model = small(LBENNetwork).float()
    smoother = Smoother(model, Converged(), Smoothing(0.25, n0=10, n=50))
    found = smoother.certify(torch.rand(SHAPE), 0, 0)
    assert found.evaluations > 60  # an equilibrium takes more than one evaluation a vote


@pytest.mark.skipif(
    torch.__version__ < "2.7", reason="torch 2.6 aborts where fftfreq is asked for a fake device"
)
@pytest.mark.parametrize("kind", ALL)
def test_nothing_of_a_step_is_on_another_device_than_the_model(kind: type[BoundedModel]) -> None:
    """A fake tensor knows its device and refuses to meet one of another; no GPU is needed."""
    with FakeTensorMode(), torch.device("cuda"):
        model = kind(SHAPE, 5, **(SMALL | {"mean": 0.0, "std": 1.0}))  # type: ignore[call-arg, arg-type]
        x, labels = torch.rand(4, *SHAPE), torch.zeros(4, dtype=torch.int64)
        x = model.normalize(x)
        for part in model.layer.body:
            if isinstance(part, EquilibriumNetwork):
                equation = part.cell.equation(part.cell.condition(x))
                z = equation(part.cell.initial(x))
                assert isinstance(equation, MonotoneInclusion) and equation.resolvent is not None
                x = part.cell.read(equation.resolvent(1.0)(z))
            else:
                x = part(x)
        loss = margin_loss(model.head(x), labels, 2**0.5, 0.25) + departure(model)
        assert loss.device.type == "cuda"
