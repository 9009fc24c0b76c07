"""A vote that is counted is the vote of the exact equilibrium."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from homotopy_deq import DEQ, HomoODE
from homotopy_deq.cells.bounds import uncovered
from homotopy_deq.certification import (
    Clean,
    Cold,
    Converged,
    Serial,
    Smoother,
    Smoothing,
    Tangent,
    Verified,
    verified,
)
from homotopy_deq.certification.proof import iteration
from homotopy_deq.certification.starts import Start
from homotopy_deq.certification.statistics import clopper_pearson
from homotopy_deq.certification.verified import EnclosedSession
from homotopy_deq.certification.votes import UNDECIDED
from homotopy_deq.models import ImageModel, MonotoneDEQ
from solvers import (
    ODE,
    Anderson,
    ArcLength,
    Continuation,
    Equilibrium,
    Flow,
    PeacemanRachford,
    Picard,
    Robust,
    Then,
    solve,
)
from solvers.until import Until

SHAPE = (1, 4, 4)
KINDS = ("contractive", "contractive convolution", "monotone", "monotone convolution", "flow")


def model(kind: str, seed: int = 0) -> ImageModel:
    torch.manual_seed(seed)
    sizes = {"hidden": 6, "pool": 2, "kernel": 3 if "convolution" in kind else None}
    made: ImageModel
    if kind.startswith("monotone"):
        made = MonotoneDEQ(SHAPE, 4, **sizes)  # type: ignore[arg-type]
    elif kind == "flow":
        made = HomoODE(SHAPE, 4, contraction=0.95, solver=ODE("rk4"), **sizes)  # type: ignore[arg-type]
    else:
        made = DEQ(SHAPE, 4, contraction=0.95, **sizes)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(1.5)
    return made.eval()


def exact(made: ImageModel, images: Tensor) -> Tensor:
    """Return the logits at the equilibrium of the float32 condition, to 1e-11."""
    fixed = made.fixed()
    with torch.no_grad():
        condition = fixed.layer.condition(fixed.condition(images))
        weight, bias = fixed.linear_head()
        problem = fixed.layer.cell.double().equation(tuple(t.double() for t in condition))  # type: ignore[operator]
        found = solve(
            problem, PeacemanRachford(rtol=1e-13, max_steps=5000), torch.zeros_like(problem.x)
        )
    return found.check().value.flatten(1) @ weight.mT + bias


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "start", (Cold(), Clean(), Tangent(), Serial()), ids=lambda s: type(s).__name__
)
def test_decided_votes_are_those_of_the_exact_equilibrium(kind: str, start: object) -> None:
    made = model(kind)
    policy = Verified(start=start)  # type: ignore[arg-type]
    torch.manual_seed(1)
    image = torch.rand(SHAPE)
    images = image + 0.5 * torch.randn(300, *SHAPE)
    truth = exact(made, images).argmax(1).numpy()
    with torch.no_grad():
        session = policy.prepare(made)(image)
        for target in (None, 0, 1):
            labels = policy.vote(session, images, target)
            decided = labels != UNDECIDED
            assert decided.all()  # what single precision leaves open, double decides
            if target is None:
                assert (labels == truth)[decided].all()
            else:
                assert ((labels == target) == (truth == target))[decided].all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("start", (Clean(), Tangent()), ids=lambda s: type(s).__name__)
def test_votes_judged_before_any_evaluation_are_those_of_the_plain_path(
    kind: str, start: Start
) -> None:
    made, policy = model(kind), Verified(start=start)
    torch.manual_seed(1)
    image = torch.rand(SHAPE)
    images = image + 0.2 * torch.randn(300, *SHAPE)
    with torch.no_grad():
        plain, judged = (policy.prepare(made)(image) for _ in range(2))
        judged.tried = judged.free = 1  # as if the free evaluation had decided
        for target in (None, 0, 1):
            wanted, found = (policy.vote(session, images, target) for session in (plain, judged))
            if target is not None:  # a vote against it need not say which it is
                wanted, found = wanted == target, found == target
            assert (found == wanted).all()
    assert judged.evaluations < plain.evaluations


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "start", (Cold(), Clean(), Tangent(), Serial()), ids=lambda s: type(s).__name__
)
def test_samples_that_wait_for_those_of_later_batches_fare_as_without(
    kind: str, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, policy = model(kind), Verified(start=start)
    torch.manual_seed(1)
    image = torch.rand(SHAPE)
    batches = (image + 0.3 * torch.randn(400, *SHAPE)).split(90)
    for target in (None, 1):
        found, evaluations = [], []
        for room in (None, 1, 60, 1000):
            with monkeypatch.context() as plain, torch.no_grad():
                if room is None:  # every batch by one solve to its end
                    plain.setattr(verified, "parted", lambda solver: (solver, None))
                session = policy.prepare(made)(image)
                asked = [(session, images, target) for images in batches]
                labels = np.concatenate(policy.vote_all(asked, room or 1))
            found.append(labels if target is None else labels == target)
            evaluations.append(session.evaluations)
        assert all((each == found[0]).all() for each in found)
        # The iterates are the same; one that is given up just there costs one more.
        assert max(evaluations) - min(evaluations) <= 0.01 * min(evaluations)


def test_the_free_evaluation_is_asked_where_it_decided_enough_of_the_selection() -> None:
    policy = Verified(start=Clean())
    torch.manual_seed(1)
    image = torch.rand(SHAPE)
    calm, wild = (image + size * torch.randn(100, *SHAPE) for size in (1e-3, 3.0))
    spent = {}
    with torch.no_grad():
        for name, seen in (("calm", calm), ("wild", wild)):
            session = policy.prepare(model("monotone"))(image)
            policy.propose(session, seen)
            before = session.evaluations
            policy.vote(session, calm, 0)
            spent[name] = session.evaluations - before
    assert spent["calm"] == 0 and spent["wild"] >= 100


@pytest.mark.parametrize("kind", ("monotone dense", "monotone convolution"))
def test_where_w_is_large_votes_are_decided_too(kind: str) -> None:
    """Anderson's fixed-point steps run away there, and nothing was decided."""
    torch.manual_seed(0)
    dense = {"hidden": 24, "kernel": 0}
    sizes = dense if kind == "monotone dense" else {"hidden": 6, "pool": 2}
    made = MonotoneDEQ((1, 6, 6), 3, **sizes).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        made.layer.cell.gram.mul_(3)  # type: ignore[operator, union-attr]
        made.layer.cell.skew.mul_(9)  # type: ignore[operator, union-attr]
    assert made.bounds().norm > 7
    image = torch.rand(1, 6, 6)
    found = Smoother(made, Verified(Clean()), Smoothing(0.25, n=500)).certify(image, 0, 0)
    assert found.evidence.undecided == 0 and found.claim.prediction == found.evidence.selected
    assert found.evaluations <= 30 * 600  # 18 each on the dense model, where 400 were in vain
    images = image + 0.25 * torch.randn(200, 1, 6, 6)
    with torch.no_grad():
        policy = Verified(Clean())
        labels = policy.vote(policy.prepare(made)(image), images, None)
    assert (labels == exact(made, images).argmax(1).numpy()).all()


def test_where_w_is_small_the_cheaper_iteration_is_kept() -> None:
    made = MonotoneDEQ(SHAPE, 4, hidden=6, pool=2)
    assert isinstance(iteration(made.bounds())[0], Anderson)


def test_enclosed_votes_are_counted_where_the_images_are() -> None:
    """Whose each sample is, is known on the device of the images, and counts must be there, too."""

    class Counting(EnclosedSession):
        def each(self, counts: Tensor, rows: Tensor | None = None) -> Any:
            assert counts.device.type == "meta"
            return iter(())

    session = object.__new__(Counting)
    session.proof = SimpleNamespace(classes=lambda images: torch.zeros(len(images)))  # type: ignore[assignment]
    labels, _ = session.look(torch.zeros(3, *SHAPE, device="meta"), None, Anderson())
    assert len(labels) == 3


def test_votes_without_the_budget_to_prove_them_are_not_counted() -> None:
    made = model("monotone")
    torch.manual_seed(1)
    image = torch.rand(SHAPE)
    images = image + 0.5 * torch.randn(300, *SHAPE)
    truth = exact(made, images).argmax(1).numpy()
    policy = Verified(start=Cold(), solver=Picard(rtol=1e-6, max_steps=0))
    with torch.no_grad():
        labels = policy.vote(policy.prepare(made)(image), images, 0)
    decided = labels != UNDECIDED
    assert 0.02 < decided.mean() < 0.98  # else this test would show nothing
    assert ((labels == 0) == (truth == 0))[decided].all()


def test_undecided_votes_count_against_the_class() -> None:
    made = model("monotone")
    torch.manual_seed(1)
    policy = Verified(start=Cold(), solver=Picard(rtol=1e-6, max_steps=2))
    found = Smoother(made, policy, Smoothing(0.5, n=500)).certify(torch.rand(SHAPE), 0, 0)
    assert 0 < found.evidence.undecided < 500
    assert found.claim.lower == clopper_pearson(found.evidence.votes, 500, 1e-3)


def test_a_wrong_bound_is_noticed_by_these_tests() -> None:
    # The same budget, believed without proof: some votes are not those of the equilibrium.
    made = model("monotone")
    torch.manual_seed(1)
    images = torch.rand(SHAPE) + 0.5 * torch.randn(300, *SHAPE)
    truth = exact(made, images).argmax(1)
    with torch.no_grad():
        hasty = made.with_solver(Picard(rtol=1e-6, max_steps=1)).solve(images).logits.argmax(1)
    assert bool((hasty != truth).any())


def test_solvers_that_keep_no_value_of_the_map_prove_nothing_and_are_refused() -> None:
    made = model("contractive")
    for solver in (Continuation(), Robust(), Then(Anderson(), Picard()), ArcLength()):
        with pytest.raises(ValueError, match="does not keep"):
            Smoother(made, Verified(solver=solver), Smoothing(0.25))
        undecided = Until(solver, lambda problem, state: state.residual < 1)
        with pytest.raises(TypeError, match="does not keep"):
            solve(Equilibrium(lambda z: 0.5 * z, rowwise=True), undecided, torch.ones(2, 3))


def test_a_warm_converged_vote_counts_only_where_its_answer_proves_it() -> None:
    # At a tolerance of 0.3 the clean image's state answers for its neighbours, as it is.
    made = model("contractive").with_solver(Anderson(rtol=0.3))
    torch.manual_seed(1)
    image = torch.rand(SHAPE)
    images = image + 0.5 * torch.randn(400, *SHAPE)
    truth = exact(made, images).argmax(1).numpy()
    policy = Converged(start=Clean())
    with torch.no_grad():
        session = policy.prepare(made)(image)
        labels = policy.vote(session, images, None)
        hasty = session.vote(images, Anderson(rtol=0.3))
    decided = labels != UNDECIDED
    assert (hasty != truth).any()  # believed as they are, some votes are wrong
    assert 0.2 < decided.mean() < 1
    assert (labels == truth)[decided].all()


def test_arithmetic_that_the_bounds_do_not_cover_is_replaced_by_double_precision() -> None:
    made = model("monotone convolution")
    torch.manual_seed(1)
    image = torch.rand(SHAPE)
    images = image + 0.5 * torch.randn(100, *SHAPE)
    truth = exact(made, images).argmax(1).numpy()
    before = torch.get_float32_matmul_precision()
    policy = Verified(start=Clean())
    try:
        torch.set_float32_matmul_precision("medium")
        assert uncovered(torch.zeros(1, 2, 3, 3)) is not None
        with torch.no_grad():
            labels = policy.vote(policy.prepare(made)(image), images, None)
    finally:
        torch.set_float32_matmul_precision(before)
    assert (labels == truth).all()


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_proved_of_a_product_that_was_kept_from_half_precision(kind: str) -> None:
    made = model(kind)
    torch.manual_seed(1)
    image = torch.rand(SHAPE)
    images = image + 1e-3 * torch.randn(50, *SHAPE)
    policy = Verified(start=Clean())
    with torch.no_grad():
        with torch.autocast("cpu"):
            assert "autocast" in str(uncovered(torch.zeros(1, 4)))
            session = policy.prepare(made)(image)
        policy.propose(session, images)
        before = session.evaluations
        labels = policy.vote(session, images, None)
    assert session.free == 0 and session.evaluations > before
    assert (labels == exact(made, images).argmax(1).numpy()).all()


def test_reduced_precision_of_the_processor_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    image, vector = torch.zeros(1, 2, 3, 3), torch.zeros(1, 4)
    assert uncovered(image) is None and uncovered(vector) is None
    monkeypatch.setenv("ONEDNN_DEFAULT_FPMATH_MODE", "BF16")
    assert "BF16" in str(uncovered(image)) and "BF16" in str(uncovered(vector))
    assert uncovered(image.double()) is None
    monkeypatch.delenv("ONEDNN_DEFAULT_FPMATH_MODE")
    with torch.backends.mkldnn.flags(enabled=False):
        assert "Winograd" in str(uncovered(image))
    assert "float32 or float64" in str(uncovered(image.half()))


def test_models_that_nothing_bounds_are_refused_with_the_reason() -> None:
    torch.manual_seed(0)
    plain = DEQ(SHAPE, 4, hidden=4, head=8, groups=2).eval()
    with pytest.raises(ValueError, match=r"ConvCell.*contraction="):
        Smoother(plain, Verified(), Smoothing(0.25))
    flow = HomoODE(SHAPE, 4, hidden=4, head=8, groups=2, rest_point=False).eval()
    with pytest.raises(ValueError, match="no equilibrium"):
        Smoother(flow, Verified(), Smoothing(0.25))


def test_weights_that_break_their_promise_are_refused() -> None:
    made = model("contractive").fixed()
    made.layer.cell.matrix.mul_(3)  # type: ignore[operator]
    with pytest.raises(ValueError, match="strongly monotone"):
        Smoother(made, Verified(), Smoothing(0.25))


def test_a_flow_to_rest_and_its_deq_have_the_same_verified_votes() -> None:
    flow = model("flow")
    deq = flow.with_solver(Anderson())
    torch.manual_seed(1)
    image = torch.rand(SHAPE)
    smoothing = Smoothing(0.25, n0=64, n=500)
    first, second = (
        Smoother(each, Verified(start=Clean()), smoothing).certify(image, 0, 0)
        for each in (flow.with_solver(Then(Flow(rtol=1e-5), Anderson(rtol=1e-5))), deq)
    )
    assert first.evidence.votes == second.evidence.votes
    assert first.radius == second.radius
