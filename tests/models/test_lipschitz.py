"""A model's Lipschitz constant, in units of images in [0, 1]."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from homotopy_deq.cells import MonotoneCell
from homotopy_deq.layers import ImplicitLayer
from homotopy_deq.lipschitz import certify_margins, gain_found
from homotopy_deq.models import DEQ, HomoODE, ImageModel, MonotoneDEQ, NeuralODE
from homotopy_deq.models.blocks import LinearHead, Normalize
from homotopy_deq.models.lipschitz import SLLNetwork
from solvers import Anderson

SHAPE = (2, 6, 6)
EXACT = Anderson(rtol=1e-12, max_steps=500)


def trained(kind: Any, kernel: int, std: Any = (0.25, 0.5), **settings: Any) -> ImageModel:
    """A model whose norms of batches have statistics, as training leaves them."""
    torch.manual_seed(0)
    model: ImageModel = kind(
        SHAPE, 3, hidden=4, pool=2, kernel=kernel, mean=(0.3, 0.4), std=std, **settings
    )
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
            nn.init.normal_(part.running_mean)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
    return model.double().eval()


CASES = [
    (kind, kernel, settings)
    for kind, settings in (
        (MonotoneDEQ, {"monotonicity": 0.5}),
        (DEQ, {"contraction": 0.7}),
        (HomoODE, {"contraction": 0.7}),
    )
    for kernel in (0, 3)
]


@pytest.mark.parametrize(("kind", "kernel", "settings"), CASES)
def test_a_models_network_has_its_map_and_more_than_its_gain(
    kind: Any, kernel: int, settings: dict[str, Any]
) -> None:
    model, x = trained(kind, kernel, **settings), torch.rand(4, *SHAPE, dtype=torch.float64)
    exact, network = model.with_solver(EXACT), model.network()
    logits = certify_margins(network, x).logits
    # Both equilibria are within rtol 1e-10 / m of exact ones, of norm about 1.
    assert torch.allclose(exact(x), logits, atol=1e-8)
    assert gain_found(exact, x, steps=20).max() <= model.lipschitz().value
    assert model.training is False


@pytest.mark.parametrize("kernel", [0, 3])
def test_the_constant_is_of_images_before_they_are_normalised(kernel: int) -> None:
    # std / 8 makes every slope eight times what it was: all else is the same.
    wide, narrow = (trained(MonotoneDEQ, kernel, std=std) for std in (1.0, 0.125))
    assert narrow.lipschitz().value == pytest.approx(8 * wide.lipschitz().value)
    # The least of two deviations decides.
    mixed = trained(MonotoneDEQ, kernel, std=(2.0, 0.125))
    assert mixed.lipschitz().value == pytest.approx(narrow.lipschitz().value)


def test_a_convolution_and_its_norm_of_batches_are_bounded_together() -> None:
    model = trained(MonotoneDEQ, 3)
    kinds = [kind for _, kind, _ in model.lipschitz().parts]
    assert kinds == ["Conv2d", "Conv2d", "ReLU", "Conv2d", "EquilibriumNetwork", "Flatten",
                     "Linear"]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: trained(MonotoneDEQ, 3).train(), "stem.1 (BatchNorm2d)"),
        (lambda: DEQ(SHAPE, hidden=4).eval(), "layer (ImplicitLayer)"),
        (lambda: NeuralODE(SHAPE, hidden=4).eval(), "layer (FlowLayer)"),
    ],
)
def test_a_model_without_a_constant_says_which_part_has_none(model: Any, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        model().lipschitz()
    assert str(caught.value).startswith(f"{words} cannot be certified: ")
    assert "\n" not in str(caught.value)


def test_the_network_shares_no_weight_with_its_model() -> None:
    model = trained(MonotoneDEQ, 3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for parameter in model.network().parameters():
        nn.init.zeros_(parameter)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def hooked(at: str) -> Any:
    def change(model: ImageModel) -> None:
        model.get_submodule(at).register_forward_hook(lambda part, given, found: -5 * found)

    return change


def replaced(at: str, name: str) -> Any:
    def change(model: ImageModel) -> None:
        part = model.get_submodule(at)
        old = getattr(part, name)
        setattr(part, name, lambda *given: old(*(-5 * each for each in given)))

    return change


@pytest.mark.parametrize("at", ["", "normalize", "stem", "stem.1", "head", "head.linear"])
@pytest.mark.parametrize("change", [hooked, lambda at: replaced(at, "forward")])
def test_a_part_whose_value_something_else_may_change_is_refused(change: Any, at: str) -> None:
    model = trained(MonotoneDEQ, 3)
    change(at)(model)
    with pytest.raises(ValueError, match="a forward hook, or a method that is not its class's"):
        model.lipschitz()


def test_an_equation_in_the_place_of_the_cells_is_refused() -> None:
    model = trained(MonotoneDEQ, 0)
    cell = model.layer.cell
    equation: Any = cell.equation
    cell.equation = lambda condition: equation((-5 * condition[0],))  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"layer.cell \(MonotoneCell\)"):
        model.lipschitz()


class Negated(MonotoneDEQ):
    def forward(self, images: Tensor) -> Tensor:
        return -super().forward(images)


class NegatedHead(LinearHead):
    def forward(self, z: Tensor) -> Tensor:
        return -super().forward(z)


class NegatedFeatures(LinearHead):
    def features(self, z: Tensor) -> Tensor:
        return -super().features(z)


class NegatedCell(MonotoneCell):
    def condition(self, x: Tensor) -> tuple[Tensor, ...]:
        return (-5 * x,)


class NegatedLayer(ImplicitLayer):
    def condition(self, x: Tensor) -> tuple[Tensor, ...]:
        return (-5 * x,)


class Narrowed(Normalize):
    def forward(self, images: Tensor) -> Tensor:
        return 9 * super().forward(images)


class NegatedStack(SLLNetwork):
    def forward(self, images: Tensor) -> Tensor:
        return -super().forward(images)


@pytest.mark.parametrize(
    ("at", "kind", "words"),
    [
        ("", Negated, "Negated has a forward, solve or condition of its own"),
        ("head", NegatedHead, r"head \(NegatedHead\)"),
        ("head", NegatedFeatures, r"head \(NegatedFeatures\)"),
        ("layer", NegatedLayer, r"layer \(NegatedLayer\)"),
        ("layer.cell", NegatedCell, r"layer \(ImplicitLayer\)"),
        ("normalize", Narrowed, r"normalize \(Narrowed\)"),
    ],
)
def test_a_part_of_another_class_with_methods_of_its_own_is_refused(
    at: str, kind: Any, words: str
) -> None:
    model = trained(MonotoneDEQ, 3)
    model.get_submodule(at).__class__ = kind
    with pytest.raises(ValueError, match=words) as caught:
        model.lipschitz()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [NegatedHead, NegatedFeatures])
def test_votes_through_a_head_with_methods_of_its_own_are_not_verified(kind: Any) -> None:
    model = trained(MonotoneDEQ, 3)
    assert model.verifiable
    model.head.__class__ = kind
    assert model.reason == "the head of MonotoneDEQ is not affine."
    with pytest.raises(ValueError, match="is not affine"):
        model.linear_head()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda model: setattr(model.layer, "__class__", NegatedLayer), "of its NegatedLayer"),
        (lambda model: setattr(model.layer.cell, "__class__", NegatedCell), "of its NegatedCell"),
        (replaced("layer", "condition"), "of its MonotoneCell"),
        (replaced("layer.cell", "equation"), "of its MonotoneCell"),
        (hooked("head.linear"), "the head of MonotoneDEQ is not affine"),
    ],
)
def test_votes_of_an_equation_that_is_not_its_cells_are_not_verified(
    change: Any, words: str
) -> None:
    model = trained(MonotoneDEQ, 3)
    change(model)
    assert words in str(model.reason)
    with pytest.raises(ValueError, match=words):
        model.fixed()


def test_a_stack_with_a_forward_of_its_own_has_no_network() -> None:
    sizes = {"channels": 3, "depth": 1, "patch": 2, "features": 4, "kernel": 3}
    with pytest.raises(ValueError, match="NegatedStack has a forward, solve or condition"):
        NegatedStack((1, 4, 4), 3, **sizes).network()
    model = SLLNetwork((1, 4, 4), 3, **sizes)
    model.normalize.register_forward_hook(lambda part, given, found: 9 * found)
    with pytest.raises(ValueError, match=r"normalize \(Normalize\)"):
        model.network()


def test_a_part_keeps_its_mode_in_the_network() -> None:
    model = trained(MonotoneDEQ, 3)
    model.stem = nn.Sequential(model.stem, nn.Dropout(0.5))
    model.eval().lipschitz()
    model.stem[1].train()
    with pytest.raises(ValueError, match=r"stem.3 \(Dropout\).*call eval\(\)"):
        model.lipschitz()


def test_a_cell_that_drops_is_refused_while_it_does() -> None:
    model = trained(MonotoneDEQ, 0, dropout=0.5)
    model.train()
    with pytest.raises(ValueError, match=r"Dropout\).*call eval\(\)"):
        model.lipschitz()
    trained(MonotoneDEQ, 0, dropout=0.0).train().lipschitz()


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def test_a_parametrised_convolution_before_a_norm_of_batches_is_refused_by_name() -> None:
    model = trained(MonotoneDEQ, 3)
    parametrize.register_parametrization(model.get_submodule("stem.0"), "weight", Doubled())
    with pytest.raises(ValueError, match=r"stem.0 \(ParametrizedConv2d\) cannot be certified"):
        model.lipschitz()
