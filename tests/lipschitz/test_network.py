"""What a network's bound is made of, what is refused, and radii that hold."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from homotopy_deq.lipschitz import (
    AOL,
    CPL,
    LBEN,
    SLL,
    BoxProof,
    EquilibriumNetwork,
    Form,
    LBENCell,
    Lift,
    MarginProof,
    MonDEQ,
    Sandwich,
    certify_lipschitz,
    certify_margins,
    gain_found,
    interval_bounds,
    to_lben,
)
from homotopy_deq.models.blocks import Normalize
from solvers import ODE, Anderson, Flow, PeacemanRachford, Picard, Robust, Then


def mixed() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(SLL(3, 5, grid=(8, 8)), CPL(3, 4, grid=(8, 8)), AOL(3, 6, grid=(8, 8))),
        nn.AvgPool2d(2),
        Sandwich(6, 6, grid=(4, 4)),
        nn.Flatten(),
        nn.Linear(96, 16),
        nn.ReLU(),
        SLL(16),
        nn.Linear(16, 10),
    ).double().eval()  # fmt: skip


def test_a_mixed_network_keeps_its_map_and_its_bound_as_an_lben() -> None:
    network, x = mixed(), torch.randn(4, 3, 8, 8, dtype=torch.float64)
    lben = to_lben(network)
    for part in lben.children():
        if isinstance(part, EquilibriumNetwork):
            part.layer = part.layer.with_solver(PeacemanRachford(step_size=1.0, rtol=1e-14))
    assert (lben(x) - network(x)).abs().amax() < 1e-12
    assert certify_lipschitz(lben).value == pytest.approx(
        certify_lipschitz(network).value, rel=1e-6
    )


def test_the_bound_is_the_product_of_its_parts_norms() -> None:
    linear = nn.Linear(5, 3).double()
    network = nn.Sequential(linear, nn.ReLU(), nn.Flatten())
    exact = float(torch.linalg.matrix_norm(linear.weight.detach(), 2))
    assert exact < certify_lipschitz(network).value < exact * (1 + 1e-10)
    pool = certify_lipschitz(nn.AvgPool2d(2)).value
    assert 0.5 < pool < 0.5 + 1e-12
    conv = nn.Conv2d(2, 2, 3, padding=1).double()
    x = torch.randn(2, 7, 7, dtype=torch.float64)
    jacobian = torch.func.jacrev(lambda x: conv(x[None])[0].flatten())(x).flatten(1)
    assert float(torch.linalg.svdvals(jacobian.detach())[0]) <= certify_lipschitz(conv).value


class MaxMin(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Doubled(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (nn.MaxPool2d(2), "AvgPool2d"),
        (MaxMin(), "sorts"),
        (nn.BatchNorm2d(3), "statistics"),
        (Normalize(3, mean=0.5, std=0.2), "Conv2d of side 1, with 1 / std on its diagonal"),
        (nn.LayerNorm(3), "no Lipschitz constant"),
        (nn.Bilinear(3, 3, 3), "not known"),
        (Doubled(3, 3), "not known"),
        (nn.Dropout(), "eval"),
        (nn.AvgPool2d(3, 1), "overlap"),
        (nn.AvgPool2d(2, ceil_mode=True), "parts of cells"),
        (nn.Conv2d(4, 4, 3, groups=2), "one group"),
        (nn.Conv2d(4, 4, 2, padding=1, padding_mode="circular"), "repeats pixels"),
        (nn.Flatten(0), "mix the samples"),
        (nn.LeakyReLU(float("nan")), "not finite"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)), "not known"),
    ],
)
def test_a_module_without_a_bound_is_refused_by_its_name(module: nn.Module, words: str) -> None:
    network = nn.Sequential(nn.Sequential(AOL(3, 3)), module)
    with pytest.raises(ValueError, match=r"^1 \(") as caught:
        certify_lipschitz(network)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"^1 \(.*cannot be certified"):
        to_lben(network)


@pytest.mark.parametrize("part", ["", "0", "0.layer", "0.layer.cell", "0.layer.cell.cell"])
def test_what_may_change_a_value_is_refused_at_any_depth(part: str) -> None:
    hooked, replaced = (nn.Sequential(MonDEQ(3, 4, 2)) for _ in range(2))
    hooked.get_submodule(part).register_forward_hook(lambda module, args, out: 2 * out)
    replaced.get_submodule(part).forward = lambda x: 2 * x  # type: ignore[method-assign]
    for network in (hooked, replaced):
        with pytest.raises(ValueError, match="forward hook"):
            certify_lipschitz(network)
    with pytest.raises(ValueError, match="forward hook"):
        interval_bounds(hooked, torch.randn(2, 3), 0.1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "part", "method"),
    [(lambda: SLL(3, 4), "", "apply_with"), (lambda: nn.Conv2d(1, 1, 3), "", "_conv_forward"),
     (lambda: LBEN(3, 4, 2), "layer.cell", "read"), (lambda: LBEN(3, 4, 2), "layer.cell", "_phi")],
)  # fmt: skip
def test_any_method_in_the_place_of_its_classs_is_refused(
    make: Callable[[], nn.Module], part: str, method: str
) -> None:
    network = make()
    assert certify_lipschitz(network).value > 0
    own = getattr(network.get_submodule(part), method)
    setattr(network.get_submodule(part), method, lambda *given: 9 * own(*given))
    with pytest.raises(ValueError, match="a method that is not its class's"):
        certify_lipschitz(network)


@pytest.mark.parametrize("layer", [lambda: SLL(3, 4), lambda: nn.Linear(3, 3)])
def test_a_pruned_part_is_refused_until_its_mask_is_put_into_its_weight(
    layer: Callable[[], nn.Module],
) -> None:
    torch.manual_seed(0)
    network, x = nn.Sequential(layer(), nn.Linear(3, 2)).eval(), torch.randn(4, 3)
    prune.l1_unstructured(network[0], "weight", 0.5)
    for proof in (certify_lipschitz, MarginProof, BoxProof):
        with pytest.raises(ValueError, match=r"^0 \(\w+\) cannot be certified: a forward hook"):
            proof(network)
    prune.remove(network[0], "weight")
    found = certify_margins(network, x)
    assert torch.equal(found.prediction, network(x).argmax(1)) and bool((found.radius > 0).all())


class Louder(LBENCell):
    def read(self, z: torch.Tensor) -> torch.Tensor:
        return 9 * super().read(z)


class Loud(MonDEQ):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 9 * super().forward(x)


def test_a_subclass_of_a_network_or_of_its_cell_proves_nothing() -> None:
    for network in (EquilibriumNetwork(Louder(3, 4, 2)), Loud(3, 4, 2)):
        with pytest.raises(ValueError, match="not known"):
            certify_lipschitz(network)
    with pytest.raises(ValueError, match="not known"):
        interval_bounds(Loud(3, 4, 2), torch.randn(2, 3), 0.1)


def test_a_flow_to_a_finite_time_proves_nothing() -> None:
    network = LBEN(3, 4, 2)
    network.layer = network.layer.with_solver(Flow())  # type: ignore[assignment]
    assert certify_lipschitz(network).value < 1 + 1e-6  # ends at the equilibrium
    network.layer = network.layer.with_solver(ODE())  # type: ignore[assignment]
    with pytest.raises(ValueError, match="not known"):
        certify_lipschitz(network)


def test_a_module_that_comes_twice_counts_twice() -> None:
    linear = nn.Linear(3, 3, bias=False).double()
    twice = nn.Sequential(linear, nn.Sequential(linear))
    assert certify_lipschitz(twice).value == pytest.approx(certify_lipschitz(linear).value ** 2)
    x = torch.randn(2, 3, dtype=torch.float64)
    lben = to_lben(twice)
    assert (lben(x) - twice(x)).abs().amax() < 1e-12


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_proves_nothing(value: float) -> None:
    fresh = nn.Linear(3, 3, bias=False), SLL(3), AOL(3, 3), CPL(3), Sandwich(3, 3)
    for one in (*fresh, LBEN(3, 3, 3), MonDEQ(3, 3, 3)):
        for name, _ in one.named_parameters():
            network = copy.deepcopy(one)
            with torch.no_grad():
                network.get_parameter(name).view(-1)[0] = value
            with pytest.raises(ValueError, match="not finite") as caught:
                certify_lipschitz(network)
            assert "\n" not in str(caught.value)


def test_a_metric_must_be_positive() -> None:
    # z = relu(2 z + x): no equilibrium is unique, yet P = 2 L - 2 L W is above 0 for L = -1.
    one, none = torch.ones(1, 1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    form = Form(2 * one, one, one / 10, 0 * one, none, none, none - 1, 1.0, none.bool())
    assert form._well_posed().item() > 0
    for prove in (form.proved, lambda: form.pairwise(one[0])):
        with pytest.raises(ValueError, match="metric must be above 0"):
            prove()


def test_an_explicit_network_is_bounded_where_nothing_is_well_posed_by_its_metric() -> None:
    """y = relu(3 relu(x)): P = [[2, -3], [-3, 2]] is not positive, but W is triangular."""
    w = torch.tensor([[[0.0, 0.0], [3.0, 0.0]]], dtype=torch.float64)
    u, v = (
        torch.eye(2, dtype=torch.float64)[None, :, :1],
        torch.eye(2, dtype=torch.float64)[None, 1:],
    )
    zero, one = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    form = Form(w, u, v, torch.zeros(1, 1, 1).double(), zero, zero[:1], one, 3.0, zero.bool())
    delta = -float(torch.linalg.eigvalsh(form.inequality()).amin())
    reach = 11.0  # ||(I - W)^-1||^2 ||U||^2 in the Frobenius norm
    assert delta > 0
    assert form.proved() == pytest.approx((9 + 3 * delta * reach) ** 0.5, rel=1e-9)
    assert form.proved() >= 3  # the gain itself


@pytest.mark.parametrize("padding", ["same", "valid", 1, 0])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_a_convolution_is_below_its_bound(padding: str | int, dilation: int, mode: str) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 2, 3, padding=padding, dilation=dilation, padding_mode=mode).double()
    x = torch.randn(2, 7, 6, dtype=torch.float64)
    jacobian = torch.func.jacrev(lambda x: conv(x[None])[0].flatten())(x).flatten(1)
    assert float(torch.linalg.svdvals(jacobian.detach())[0]) <= certify_lipschitz(conv).value


def test_a_certificate_writes_to_no_image_and_takes_any_precision() -> None:
    network = nn.Sequential(nn.ReLU(inplace=True), Sandwich(3, 4), nn.Linear(4, 2))
    x = torch.randn(3, 3, dtype=torch.float64)
    before = x.clone()
    certify_margins(network, x)
    assert torch.equal(x, before)
    half = x.half().requires_grad_()
    assert torch.equal(
        certify_margins(network, half).radius, certify_margins(network, half.double()).radius
    )
    assert certify_margins(network, x[:0]).radius.shape == (0,)
    with pytest.raises(ValueError, match="batch"):
        certify_margins(network, x[0])
    with pytest.raises(ValueError, match="logits"):
        certify_margins(nn.Sequential(SLL(1, grid=(3, 3), kernel=1)), x[None, None])


def test_a_proof_is_of_the_weights_as_they_were_whatever_the_batches() -> None:
    network, x = mixed(), torch.randn(5, 3, 8, 8, dtype=torch.float64)
    whole, proof = certify_margins(network, x), MarginProof(network)
    with torch.no_grad():
        for p in network.parameters():
            p.mul_(2)
    parts = [proof(part) for part in x.split(2)]
    for name in ("radius", "prediction", "slack"):
        found = torch.cat([getattr(part, name) for part in parts])
        assert torch.allclose(found, getattr(whole, name), rtol=1e-9)


def test_any_solver_may_find_what_is_enclosed() -> None:
    torch.manual_seed(0)
    network, x = LBEN(3, 6, 4).double(), torch.randn(5, 3, dtype=torch.float64)
    best = certify_margins(network, x)
    for solver in (Then(Picard(max_steps=3), Anderson()), Robust(), Picard(max_steps=1), Flow()):
        network.layer = network.layer.with_solver(solver)  # type: ignore[assignment]
        found = certify_margins(network, x)
        error = torch.linalg.vector_norm(found.logits - best.logits, dim=1)
        assert bool((error <= found.slack + best.slack).all())


def test_a_map_that_is_constant_or_of_a_gradient_that_is_off_has_its_gain() -> None:
    zero = nn.Linear(3, 2)
    nn.init.zeros_(zero.weight)
    x = torch.randn(2, 3, dtype=torch.float64)
    assert certify_lipschitz(zero).value == 0
    assert torch.allclose(to_lben(zero)(x), zero.bias.double().expand(2, 2))
    with torch.no_grad():
        assert float(gain_found(zero, x.float()).max()) == 0
        assert float(gain_found(Sandwich(3, 3).double(), x).max()) > 0.1


def test_a_layer_that_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match=r"^1 \(Linear\) cannot be certified: a map to 3 channels"):
        to_lben(nn.Sequential(AOL(3, 3, grid=(4, 4)), nn.Linear(3, 3)))


def test_the_certificate_is_of_the_stored_weights_in_double_precision() -> None:
    for network in (MonDEQ(3, 8, 2), LBEN(3, 8, 2), Sandwich(3, 2), SLL(3)):
        assert certify_lipschitz(network) == certify_lipschitz(copy.deepcopy(network).double())


@pytest.mark.parametrize("seed", range(3))
def test_no_attack_within_the_radius_changes_the_class(seed: int) -> None:
    torch.manual_seed(seed)
    network = nn.Sequential(Sandwich(6, 12), Sandwich(12, 12), nn.Linear(12, 4)).double().eval()
    x = torch.randn(40, 6, dtype=torch.float64)
    found = certify_margins(network, x)
    assert float(found.radius.min()) >= 0
    assert float(found.radius.max()) > 0.05
    attacked = x.clone()
    for _ in range(100):
        attacked.requires_grad_()
        logits = network(attacked)
        own = logits.gather(1, found.prediction.clamp_min(0)[:, None])[:, 0]
        best = logits.scatter(1, found.prediction.clamp_min(0)[:, None], -1e9).amax(1)
        (slope,) = torch.autograd.grad((best - own).sum(), attacked)
        step = attacked.detach() + 0.3 * found.radius[:, None] * slope / slope.norm(
            dim=1, keepdim=True
        )
        away = step - x
        attacked = x + away * (found.radius[:, None] / away.norm(dim=1, keepdim=True)).clamp(max=1)
    assert torch.equal(network(attacked).argmax(1), found.prediction)


def test_a_normalised_head_is_certified_by_pairs() -> None:
    torch.manual_seed(0)
    body, head = Sandwich(6, 12), nn.Linear(12, 4, bias=False)
    with torch.no_grad():
        head.weight.copy_(nn.functional.normalize(head.weight))
    network = nn.Sequential(body, head).double().eval()
    x = torch.randn(10, 6, dtype=torch.float64)
    found = certify_margins(network, x)
    logits = network(x).detach()
    weight = head.weight.detach()
    y = logits.argmax(1)
    for k in range(10):
        by_hand = min(
            float((logits[k, y[k]] - logits[k, j]) / (weight[y[k]] - weight[j]).norm())
            for j in range(4)
            if j != int(y[k])
        )
        assert found.radius[k] == pytest.approx(by_hand, rel=1e-6)


def test_the_constant_of_a_pair_of_classes_is_below_that_of_any_two() -> None:
    torch.manual_seed(0)
    network = LBEN(6, 24, 5, gamma=2.0, solver=PeacemanRachford(rtol=1e-10)).double().eval()
    pair = torch.tensor([[1.0, -1, 0, 0, 0]], dtype=torch.float64)
    bound = float(network.form().pairwise(pair))
    x = torch.randn(50, 6, dtype=torch.float64)
    least = gain_found(nn.Sequential(network, Times(pair)), x, steps=20)
    assert float(least.max()) <= bound < 0.95 * 2 * 2**0.5


def test_the_constant_of_a_pair_is_at_most_gamma_times_its_norm_where_the_bound_is_tight() -> None:
    torch.manual_seed(0)
    w = torch.randn(6, 3, dtype=torch.float64)
    w[0] = 0
    for body in (nn.Sequential(Sandwich(4, 4), Sandwich(4, 3)), nn.Sequential(AOL(4, 3))):
        first, *others = (each.double().form() for each in body)
        form = first.then(others[0]) if others else first
        pair, size = form.pairwise(w), w.norm(dim=1)
        assert bool((pair <= form.proved() * size * (1 + 1e-8)).all())
        # With identity neurons only the map is linear, and its norm exact.
        eye = torch.eye(len(form.b), dtype=torch.float64)
        exact = (w @ (form.v @ torch.linalg.solve(eye - form.w, form.u))[0]).norm(dim=1)
        assert bool((pair >= exact).all())


class Times(nn.Module):
    def __init__(self, matrix: torch.Tensor) -> None:
        super().__init__()
        self.matrix = matrix

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.matrix.mT


def test_an_equilibrium_that_is_hardly_solved_is_certified_less() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(MonDEQ(4, 10, 3, monotonicity=0.5)).double().eval()
    x = torch.randn(8, 4, dtype=torch.float64)
    good = certify_margins(network, x)
    network[0].layer = network[0].layer.with_solver(PeacemanRachford(rtol=1e-10, max_steps=1))
    assert float(good.slack.max()) < 1e-6
    # The check evaluates the map itself, so it sees what the solver left.
    assert certify_margins(network, x).slack.isfinite().all()


def small(seed: int) -> MonDEQ:
    torch.manual_seed(seed)
    network = MonDEQ(5, 12, 3, monotonicity=0.9).double()
    with torch.no_grad():
        network.cell.cell.gram.mul_(0.3)  # type: ignore[union-attr]
        network.cell.cell.skew.mul_(0.2)  # type: ignore[union-attr]
    network.layer = network.layer.with_solver(PeacemanRachford(rtol=1e-12))
    return network


def test_no_output_of_a_box_leaves_its_interval() -> None:
    network, radius = small(0), 0.2
    x = torch.randn(4, 5, dtype=torch.float64)
    box = interval_bounds(network, x, radius)
    for _ in range(50):
        offset = radius * torch.sign(torch.randn(200, 1, 5, dtype=torch.float64))
        y = network((x + offset).flatten(0, 1)).unflatten(0, (200, 4))
        assert bool(((y <= box.high) & (y >= box.low)).all())


def test_an_empty_box_is_the_output_itself() -> None:
    network = small(1)
    x = torch.randn(4, 5, dtype=torch.float64)
    box, y = interval_bounds(network, x, 0.0), network(x)
    assert (box.high - y).abs().amax() < 1e-9
    assert (box.low - y).abs().amax() < 1e-9


def test_a_box_goes_through_a_layer_without_neurons() -> None:
    network, x = nn.Sequential(Lift(5, 7), SLL(7)).double().eval(), torch.randn(3, 5).double()
    box = interval_bounds(network[0], x, 0.2)
    assert bool((box.low[:, :5] <= x - 0.2).all() and (x + 0.2 <= box.high[:, :5]).all())
    assert bool((box.size[:, 5:] < 1e-12).all() and ((box.high - box.low) < 0.4 + 1e-12).all())
    box, y = interval_bounds(network, x, 0.2), network(x + 0.2)
    assert bool(((box.low <= y) & (y <= box.high)).all())


def test_an_interval_without_a_fixed_point_is_refused() -> None:
    with pytest.raises(ValueError, match="spectral radius"):
        interval_bounds(MonDEQ(5, 60, 3), torch.randn(2, 5), 0.1)
    with pytest.raises(ValueError, match="finite"):
        interval_bounds(small(0), torch.randn(2, 5), float("inf"))
    with pytest.raises(ValueError, match="MonDEQCell maps"):
        interval_bounds(small(0), torch.randn(2, 4), 0.1)


def test_a_semidefinite_program_proves_less_than_the_closed_form() -> None:
    pytest.importorskip("cvxpy")
    from homotopy_deq.lipschitz import lipsdp

    for m in (0.3, 1.0):
        torch.manual_seed(0)
        network = MonDEQ(6, 20, 4, monotonicity=m).double()
        found = lipsdp(network.form())
        network.layer = network.layer.with_solver(PeacemanRachford(rtol=1e-12))
        x = torch.randn(20, 6, dtype=torch.float64)
        least = float(gain_found(network, x, steps=20).max())
        assert least <= found.proved() < network.gamma
        assert found.proved() == pytest.approx(found.gamma, rel=1e-6)
