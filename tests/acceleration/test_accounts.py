"""Where the multiply-adds of a delta solve went is counted as torch counts them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from homotopy_deq import DEQ, Picard
from homotopy_deq.acceleration import (
    Convolution,
    Entrywise,
    account,
    delta,
)
from tests.acceleration.cases import every_case, layer_of
from tests.problems import DOUBLE, normal


def test_a_model_is_accounted_as_its_layer_is() -> None:
    model = DEQ((1, 8, 8), hidden=8, groups=2).eval()
    images, fast = torch.rand(3, 1, 8, 8), delta(model, tau=1e-2)
    x = fast.condition(images).detach()
    found, same = account(fast, images), account(fast.layer, x, fast.start(x))
    assert found.spent == same.spent > 0 and found.samples == 3
    with pytest.raises(TypeError, match="account takes what delta or tune returned; got a DEQ"):
        account(model, images)


def flops(f: Callable[[], Any]) -> int:
    """torch's count of a dense call, which is right for products and convolutions."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        f()
    return counter.get_total_flops() // 2


@every_case
def test_dense_count_of_each_layer_is_that_of_torch(name: str) -> None:
    layer, x = layer_of(name)
    made = account(delta(layer, theta=0.1), x)
    condition = layer.condition(x)
    map = layer.equation(condition).map
    z = made.solution.value.clone()
    assert sum(each.dense for each in made.layers) * len(x) == flops(lambda: map(z, *condition))


def test_work_of_a_solve_is_what_torch_counts() -> None:
    """Gathers, products and convolutions: all that Gathered does is seen by torch's counter."""
    for name in ("dense", "perceptron", "inclusion", "circular", "convolutional"):
        layer, x = layer_of(name, Picard(rtol=1e-6))
        fast = delta(layer, theta=0.3)
        with torch.no_grad():
            fast(x)  # one sample is evaluated the first time, to see what the cell is
            condition = fast.condition(x)
            problem = fast.problem(condition)
            with FlopCounterMode(display=False) as counter:
                found = fast.gradient.apply(problem, fast.solver, fast.initial(x))
        checks = found.checks * problem.map.multiply_adds(found.value, *condition)
        assert found.work is not None
        assert counter.get_total_flops() == 2 * (found.work + checks)


def test_injection_is_hoisted_on_both_sides() -> None:
    layer, x = layer_of("perceptron", Picard(rtol=1e-8))
    made = account(delta(layer, theta=0.1, products=Entrywise()), x)
    a, b, u = made.layers
    assert [each.name for each in made.layers if each.hoisted] == ["u"]
    assert (a.dense, b.dense, u.dense) == (144, 144, 60)
    steps = int(made.solution.steps.max())
    # The user's own map computes it at the start, at the end and in the check of the batch; the
    # one that follows computes it once.
    assert u.spent <= (3 + made.solution.checks) * 60 * len(x) < steps * 60 * len(x)
    assert made.dense(40) == 6 * (40 * (144 + 144) + 60)
    assert made.spent < made.dense()


def test_entrywise_count_takes_in_the_area_of_the_kernel() -> None:
    weight, x = normal(0, 5, 4, 3, 3), torch.zeros(2, 4, 6, 6, dtype=DOUBLE)
    for convolution, inner, corner in (
        (Convolution(weight, padding=(1, 1, 1, 1)), 9 * 5, 4 * 5),
        (Convolution(weight, padding=(1, 1, 1, 1), mode="circular"), 9 * 5, 9 * 5),
        (Convolution(weight[:4, :2], padding=(1, 1, 1, 1), groups=2), 9 * 2, 4 * 2),
        (Convolution(weight, padding=(1, 1, 1, 1), stride=(2, 2)), 1 * 5, 1 * 5),
    ):
        kernel = Entrywise().convolution(convolution)
        once = convolution.weight.shape[1] * convolution.groups * convolution.reads(x).sum()
        padded = convolution.mode == "constant"  # whose zeros the dense count multiplies, too
        assert (2 * once < kernel.multiply_adds(x)) == padded
        assert (2 * once == kernel.multiply_adds(x)) != padded
        change = x.clone()
        change[1, 2, 2, 2] = 1.0
        assert kernel.moved(convolution(x), x, x + change)[1] == inner
        change = x.clone()
        change[0, 0, 0, 0] = 1.0
        assert kernel.moved(convolution(x), x, x + change)[1] == corner
