"""A model's Lipschitz constant, in units of images in [0, 1]."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from homotopy_deq.lipschitz import certify_margins, gain_found
from homotopy_deq.models import DEQ, HomoODE, ImageModel, MonotoneDEQ, NeuralODE
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
