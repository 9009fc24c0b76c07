"""What a newcomer gets wrong is told in one line, which says what was given and what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from homotopy_deq import ConvergenceWarning, FlowLayer, ImplicitLayer, create_model
from homotopy_deq.cells import DenseCell
from homotopy_deq.certification import (
    ABSTAIN,
    Certain,
    Certificate,
    Converged,
    Journal,
    LipschitzProver,
    Margin,
    Smoother,
    Smoothing,
)
from solvers import (
    Anderson,
    Equilibrium,
    InitialValue,
    MonotoneInclusion,
    Picard,
    RungeKutta,
    solve,
)


def from_zero(f: Callable[..., Any], condition: Any = None) -> object:
    return solve(Equilibrium(f, condition), Anderson(), torch.zeros(3, 4))


def layer(cell: nn.Module | None = None) -> ImplicitLayer:
    return ImplicitLayer(DenseCell(4, 8) if cell is None else cell)


def damped(z: Tensor, x: Any) -> Tensor:
    return z / 2 + x


def classifier() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 2))


def from_zero_of(z0: Any) -> object:
    return solve(Equilibrium(lambda z: z), Anderson(), z0)


class Named(NamedTuple):
    """A state by names."""

    u: Tensor
    v: Tensor


class NamedCell(nn.Module):
    """A cell of such a state."""

    def initial(self, x: Tensor) -> Named:
        return Named(0 * x, 0 * x)

    def forward(self, z: Named, x: Tensor) -> Named:
        return Named(z.v / 2 + x, z.u / 2)


class Field(nn.Module):
    """A field as torchdiffeq has them."""

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.cos(y)


x = torch.zeros(3, 4)

MISTAKES: dict[str, tuple[Callable[[], object], str]] = {
    "f returns None": (lambda: from_zero(lambda z: None), r"shape of its state.*got NoneType"),
    "f returns another shape": (lambda: from_zero(lambda z: z[:, :2]), r"\(3, 2\).*\(3, 4\)"),
    "f returns integers": (lambda: from_zero(lambda z: z.long()), "real numbers; got.*int64"),
    "a start without a batch": (
        lambda: solve(Equilibrium(torch.cos), Anderson(), torch.zeros(4)),
        r"batch first.*\(4,\)\. Use z0\[None\]",
    ),
    "a start of integers": (
        lambda: solve(Equilibrium(torch.cos), Anderson(), x.long()),
        "z0 must be a floating-point tensor.*; got.*int64.*belong into the condition",
    ),
    "a start of complex numbers": (
        lambda: solve(Equilibrium(torch.cos), Anderson(), x + 0j),
        r"got a tensor of torch\.complex64.*torch\.view_as_real",
    ),
    "a list for a start": (lambda: from_zero_of([x, x]), "or a tuple of them; got list"),
    "a dictionary for a start": (
        lambda: layer().solve(x, {"z": x}),
        "or a tuple of them; got dict",
    ),  # type: ignore[arg-type]
    "a nested state": (lambda: from_zero_of((x, (x, x))), "neither nested.*float32.*'tuple'"),
    "a named state": (lambda: from_zero_of(Named(x, x)), "neither nested nor named"),
    "whole numbers in a state": (
        lambda: from_zero_of((x, x.long())),
        "of one batch size, dtype and device.*int64.*belong into the condition",
    ),
    "a number a sample in a state": (
        lambda: from_zero_of((x, x[:, 0])),
        r"\(3,\).*Use t\[:, None\] for a number a sample",
    ),
    "a cell's named state": (
        lambda: layer(NamedCell())(x),
        "neither nested nor named; got a Named",
    ),
    "a nested tensor": (
        lambda: layer(nn.Bilinear(4, 4, 4))(torch.nested.nested_tensor([x, x[:1]])),
        "must be a dense.*nested",
    ),
    "a condition that is no tuple": (
        lambda: from_zero(damped, x),
        r"tuple of tensors; got a tensor.*Write condition=\(x,\)",
    ),
    "the same, of a flow": (
        lambda: InitialValue(lambda t, z, x: z + x, condition=x),  # type: ignore[arg-type]
        r"Write condition=\(x,\)",
    ),
    "the same, of an inclusion": (
        lambda: MonotoneInclusion(linear=nn.Identity(), condition=x),  # type: ignore[arg-type]
        r"Write condition=\(x,\)",
    ),
    "a number in a condition": (
        lambda: from_zero(lambda z, x, a: z / 2 + a * x, (x, 0.5)),
        r"condition\[1\] must be a tensor.*got float.*close over it",
    ),
    "a solver before the problem": (
        lambda: solve(Anderson(), Equilibrium(torch.cos), x),  # type: ignore[type-var]
        r"problem must be an Equilibrium.*got Anderson\(.*Write solve\(problem, solver, z0\)",
    ),
    "a map for a problem": (
        lambda: solve(torch.cos, Anderson(), x),  # type: ignore[type-var]
        "problem must be an Equilibrium.*got <built-in method cos",
    ),
    "a problem for a solver": (
        lambda: layer().with_solver(Equilibrium(damped, (x,))),  # type: ignore[arg-type]
        "solver must be a Solver such as.*got an object of Equilibrium",
    ),
    "a solver's name": (lambda: layer().with_solver("anderson"), "Anderson.*got 'anderson'"),  # type: ignore[arg-type]
    "a negative tolerance": (lambda: Anderson(rtol=-1e-3), "rtol and atol must be >= 0.*-0.001"),
    "a tolerance in words": (lambda: Picard(rtol="1e-3"), "rtol must be a number; got '1e-3'"),  # type: ignore[arg-type]
    "1e3 steps": (lambda: Anderson(max_steps=1e3), "max_steps must be a whole number; got 1000.0"),  # type: ignore[arg-type]
    "half an iterate": (lambda: Anderson(memory=2.5), "memory must be a whole number; got 2.5"),  # type: ignore[arg-type]
    "a step in words": (lambda: RungeKutta(step_size="1"), "step_size must be a number; got '1'"),  # type: ignore[arg-type]
    "x in another precision than the weights": (
        lambda: layer(nn.Bilinear(4, 4, 4))(x.double()),
        r"weights are in torch\.float32 and the start in torch\.float64: convert one",
    ),
    "weights in half precision": (
        lambda: layer(nn.Bilinear(4, 4, 4).half())(x),
        r"weights are in torch\.float16 and the start in torch\.float32: convert one",
    ),
    "one sample": (lambda: layer()(x[0]), r"x has shape \(4,\).*x\[None\] for one sample"),
    "another width": (
        lambda: layer()(x[:, :3]),
        r"DenseCell.condition\(x\) failed for x, a tensor of torch.float32 of shape \(3, 3\): mat1",
    ),
    "integers": (lambda: layer()(x.long()), r"condition\(x\) failed.*int64 of shape \(3, 4\): mat"),
    "an array": (lambda: layer()(x.numpy()), r"condition\(x\) failed for x, a ndarray: linear"),
    "a cell of one argument": (
        lambda: layer(nn.Linear(4, 4))(x),
        r"Linear cannot be evaluated.*takes 2 positional.*called as cell\(z, x\)",
    ),
    "a field of torchdiffeq": (
        lambda: FlowLayer(Field(), rest_point=False),
        r"Field.forward takes t first.*rename it velocity\(t, z, x\)",
    ),
    "a field of torchdiffeq for a map": (lambda: layer(Field()), r"a cell is cell\(z, x\)"),
    "a model that nobody knows": (lambda: create_model("dqe"), "unknown model 'dqe'.*'deq'"),
    "a setting that nobody knows": (lambda: create_model("deq", hiden=3), "Did you mean 'hidden'"),
    "a number for a shape": (
        lambda: create_model("deq", shape=64),
        r"shape must be \(channels, height, width\); got 64",
    ),
    "a shape without channels": (lambda: create_model("sll", shape=(8, 8)), r"got \(8, 8\)"),
    "a shape of fractions": (lambda: create_model("deq", shape=(1, 8 / 2, 4)), r"\(1, 4\.0, 4\)"),
    "a shape in words": (lambda: create_model("mdeq", shape="1x8x8"), "got '1x8x8'"),
    "a classifier in training": (
        lambda: Smoother(classifier(), Converged(), Smoothing(sigma=0.5)),
        r"eval mode: Sequential is training. Call model.eval\(\)",
    ),
    "a model for its network": (
        lambda: LipschitzProver(create_model("monotone", shape=(1, 8, 8), hidden=4), (1, 8, 8)),
        r"MonotoneDEQ\) cannot be certified: .*network\(\).*pass that",
    ),
    "1e3 samples": (
        lambda: Smoothing(sigma=0.5, n=1e3),  # type: ignore[arg-type]
        "n must be a whole number; got 1000.0",
    ),
    "a decision on no radius": (
        lambda: Smoother(classifier().eval(), Converged(), Smoothing(sigma=0.5)).decide(
            torch.rand(1, 2, 2), 0, 0, radius=0.0
        ),
        "radius must be above 0, where a claim begins; got 0",
    ),
    "a policy's name": (
        lambda: Smoother(classifier().eval(), "converged", Smoothing(sigma=0.5)),  # type: ignore[arg-type]
        r"policy must be a Policy such as Converged\(\); got 'converged'",
    ),
    "a policy's class": (
        lambda: Smoother(classifier().eval(), Converged, Smoothing(sigma=0.5)),  # type: ignore[arg-type]
        r"got the class Converged, not an object of it; write Converged\(\)",
    ),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_in_one_line(name: str) -> None:
    make, said = MISTAKES[name]
    with pytest.raises((TypeError, ValueError, RuntimeError)) as caught:
        make()
    message = str(caught.value)
    assert re.search(said, message) and len(message.splitlines()) == 1


@pytest.mark.parametrize("ask", ["certify", "decide", "predict"])
@pytest.mark.parametrize("image", [torch.ones(3, 2, 2), torch.ones(1, 2, 2).double()])
def test_an_image_that_a_classifier_cannot_take_is_told_before_any_noise_is_drawn(
    ask: str, image: Tensor
) -> None:
    drawn: list[int] = []
    plain = Smoother(classifier().eval(), Converged(), Smoothing(sigma=0.5), drawn.append)
    radius = (0.1,) if ask == "decide" else ()
    label = () if ask == "predict" else (0,)
    said = rf"clean image \(C, H, W\) of shape {re.escape(str(tuple(image.shape)))}, {image.dtype}"
    with pytest.raises(ValueError, match=rf"{said} on cpu: mat1.*Give images") as caught:
        getattr(plain, ask)(image, *label, 0, *radius)
    assert len(str(caught.value).splitlines()) == 1 and not drawn
    assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.parametrize("images", ["alone", "together"])
def test_an_image_in_another_precision_than_a_model_is_told_as_a_classifiers(images: str) -> None:
    model = create_model("deq", shape=(1, 4, 4), hidden=4, groups=2).eval()
    smoother = Smoother(model, Converged(), Smoothing(sigma=0.5))
    one = torch.ones(1, 4, 4).double()
    with pytest.raises(ValueError, match="classifier failed on a clean image.*torch.float64"):
        if images == "alone":
            smoother.certify(one, 0, 0)
        else:
            list(smoother.decide_all(torch.stack([one, one]), [0, 0], [0, 1], 0.1))


def test_an_image_without_values_is_told_as_one() -> None:
    smoother = Smoother(classifier().eval(), Converged(), Smoothing(sigma=0.5))
    with pytest.raises(ValueError, match=r"image 7 of shape \(0, 2, 2\) has no values"):
        smoother.certify(torch.ones(0, 2, 2), 0, 7)


@pytest.mark.parametrize(
    ("ask", "more"), [("certify", (0, 7)), ("decide", (0, 7, 0.1)), ("predict", (7,))]
)
def test_an_image_that_is_not_finite_has_no_values_in_0_to_1(ask: str, more: Any) -> None:
    # A layer leaves what it cannot solve at its start, of which the logits are finite.
    network = nn.Sequential(nn.Flatten(), layer(), nn.Linear(8, 2)).eval()
    smoother = Smoother(network, Converged(), Smoothing(sigma=0.5))
    for value in (float("nan"), float("inf")):
        image = torch.tensor([0.5, 0.5, 0.5, value]).view(1, 2, 2)
        with pytest.raises(ValueError, match=r"image 7 should have values in \[0, 1\]"):
            getattr(smoother, ask)(image, *more)


def test_weights_that_are_not_finite_are_among_the_causes_that_a_warning_names() -> None:
    broken = layer()
    for parameter in broken.parameters():
        parameter.data.fill_(float("nan"))
    with pytest.warns(ConvergenceWarning, match="3 of 3.*their input or the weights are"):
        broken(x)


def test_label_and_index_of_a_certificate_may_be_numbers_of_tensors(tmp_path: Path) -> None:
    torch.manual_seed(0)
    smoothing = Smoothing(sigma=0.5, n=20, n0=5)
    smoother, image = Smoother(classifier().eval(), Converged(), smoothing), torch.rand(1, 2, 2)
    label, index = torch.tensor([1, 0])[1], torch.tensor(3)
    found = smoother.certify(image, label, index)  # type: ignore[arg-type]
    assert found == smoother.certify(image, 0, np.int64(3)) == smoother.certify(image, 0, 3)  # type: ignore[arg-type]
    assert type(found.label) is int and found.correct is (found.prediction == 0)
    journal = Journal(tmp_path, {"smoothing": asdict(smoothing), "policy": {"name": "converged"}})
    journal.begin()
    journal.append(found, 0.1)
    assert journal.done()[3][0] == found and found.row().split("\t")[:2] == ["3", "0"]


@pytest.mark.parametrize("number", [-1, 1.5, None])
@pytest.mark.parametrize("name", ["label", "index"])
def test_an_abstention_is_right_about_no_image(name: str, number: Any) -> None:
    # It is written as class -1, by which data sets say that an image has no label.
    drawn: list[int] = []
    plain = Smoother(classifier().eval(), Converged(), Smoothing(sigma=0.5), drawn.append)
    image, given = torch.rand(1, 2, 2), {"label": 0, "index": 0, name: number}
    said = f"^{name} must be a whole number, 0 or more; got {number}"
    with pytest.raises(ValueError, match=said):
        plain.certify(image, **given)
    with pytest.raises(ValueError, match=said):
        plain.decide(image, **given, radius=0.1)
    assert not drawn
    abstention = {"claim": Certain(ABSTAIN, 0.0), "evidence": Margin(0, 0.0, 1.0)}
    with pytest.raises(ValueError, match=said):
        Certificate(**given, **abstention, evaluations=1)  # type: ignore[arg-type]
