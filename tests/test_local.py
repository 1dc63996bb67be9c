"""The local predictors against dense Hessians and loops of gradients; how fast they approach the total interaction; passes and memory."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import irlib
from irlib.game import AttackGame
from irlib.local import hessian, secant
from tests.conftest import QuadraticLogit, assert_untouched, make_images, make_network, snapshot


def make_delta(x, seed=2, scale=0.3):
    return scale * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_smooth(**kwargs):
    network = make_network(activation=nn.Softplus, **kwargs)
    network[3] = nn.AvgPool2d(2)
    return network.eval()


def one_utility(model, image, d, own, utility):
    """u of one image as a function of its pixels alone; the margin's rival is found at the full perturbation and held."""
    full = model((image + d)[None])[0].tolist()
    rival = max((k for k in range(len(full)) if k != own), key=lambda k: full[k])

    def u(pixels):
        z = model(pixels.view(1, *image.shape))[0]
        return z[rival] - z[own] if utility == "margin" else torch.log(torch.exp(z).sum()) - z[own]

    return u


def unit_parts(d, grid):
    """δ_a of each unit a, flat, pixel by pixel."""
    _, height, width = d.shape
    parts = [torch.zeros_like(d) for _ in range(grid * grid)]
    for r in range(height):
        for c in range(width):
            parts[int(r * grid / height) * grid + int(c * grid / width)][:, r, c] = d[:, r, c]
    return [part.flatten() for part in parts]


def slow_hessian(model, x, delta, y, grid, utility, diagonal):
    values = []
    for image, d, own in zip(x, delta, y.tolist(), strict=True):
        H = torch.autograd.functional.hessian(one_utility(model, image, d, own, utility), image.flatten())
        values.append(d.flatten() @ H @ d.flatten() - (0 if diagonal else sum(part @ H @ part for part in unit_parts(d, grid))))
    return torch.stack(values)


def slow_secant(model, x, delta, y, grid, utility, diagonal):
    values = []
    for image, d, own in zip(x, delta, y.tolist(), strict=True):
        u, clean = one_utility(model, image, d, own, utility), image.flatten()
        slope = lambda at, u=u: torch.autograd.grad(u(at.requires_grad_()), at)[0]
        turn = lambda part, slope=slope, clean=clean: (slope(clean + part) - slope(clean.clone())) @ part
        values.append(turn(d.flatten()) - (0 if diagonal else sum(turn(part) for part in unit_parts(d, grid))))
    return torch.stack(values)


SLOW = {hessian: slow_hessian, secant: slow_secant}
both = pytest.mark.parametrize("predictor", [hessian, secant])


@both
@pytest.mark.parametrize("diagonal", [True, False])
@pytest.mark.parametrize("utility", ["ce", "margin"])
@pytest.mark.parametrize(("size", "grid"), [(6, 3), (7, 2)])
def test_each_image_has_the_value_of_the_loop(predictor, size, grid, utility, diagonal):
    network, x = make_smooth(channels=2, size=size), make_images(channels=2, size=size)
    delta, y = make_delta(x, scale=1), torch.tensor([0, 3, 1])
    found = predictor(AttackGame(network, x, delta, y, grid=grid, utility=utility), diagonal)
    expected = SLOW[predictor](network, x, delta, y, grid, utility, diagonal)
    assert found.dtype == torch.float64 and found.shape == (3,)
    assert expected.abs().min() > 1e-4
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


@both
def test_by_default_the_diagonal_counts(predictor, network, x, y):
    game = AttackGame(network, x, make_delta(x), y, grid=3)
    assert predictor(game).equal(predictor(game, diagonal=True))
    assert (predictor(game) - predictor(game, diagonal=False)).abs().min() > 1e-3


@both
def test_the_rival_is_that_of_the_full_perturbation(predictor):
    network, x = make_smooth(), make_images(batch=8)
    with torch.no_grad():
        network[-1].bias -= network(x).mean(0)
    y, delta = network(x).argmax(1), make_delta(x, scale=1)
    clean, full = (network(v).scatter(1, y[:, None], -torch.inf).argmax(1) for v in (x, x + delta))
    assert (clean != full).any()  # else this test could not tell the two apart
    found = predictor(AttackGame(network, x, delta, y, grid=3, utility="margin"))
    torch.testing.assert_close(found, SLOW[predictor](network, x, delta, y, 3, "margin", True), rtol=0, atol=1e-11)


@both
@pytest.mark.parametrize(("size", "grid"), [(4, 2), (5, 2), (6, 3)])
def test_of_a_quadratic_they_are_the_total_interaction(predictor, size, grid):
    model, x = QuadraticLogit(size * size).eval(), make_images(size=size)
    delta = make_delta(x)
    game = AttackGame(model, x, delta, torch.zeros(3, dtype=torch.int64), grid=grid, utility="margin")
    across = [sum(a @ model.H @ b for a in parts for b in parts if a is not b) for parts in (unit_parts(d, grid) for d in delta)]
    assert min(abs(value) for value in across) > 0.01
    torch.testing.assert_close(predictor(game, diagonal=False), torch.stack(across), rtol=0, atol=1e-10)
    torch.testing.assert_close(predictor(game, diagonal=False), irlib.total_interaction(game), rtol=0, atol=1e-10)


def orders(network, x, direction, y, utility, predictor, diagonal, sizes):
    """(batch,): the power of ε with which the predictor's miss of the total interaction of ε·direction shrinks, a least-squares fit."""
    misses = []
    for epsilon in sizes.tolist():
        game = AttackGame(network, x, epsilon * direction, y, grid=3, utility=utility)
        misses.append(irlib.total_interaction(game) - predictor(game, diagonal=diagonal))
    logs = sizes.log()[:, None] - sizes.log().mean()
    return (logs * torch.stack(misses).abs().log()).sum(0) / (logs**2).sum()


@both
@pytest.mark.parametrize("utility", ["ce", "margin"])
@pytest.mark.parametrize(("diagonal", "order"), [(False, 3), (True, 2)])
def test_of_a_smooth_network_they_miss_the_third_order_and_with_the_diagonal_the_second(predictor, diagonal, order, utility):
    x, sizes = make_images(), torch.logspace(-1, -3, 5, dtype=torch.float64)
    found = orders(make_smooth(), x, make_delta(x, scale=1), torch.tensor([0, 3, 1]), utility, predictor, diagonal, sizes)
    torch.testing.assert_close(found, torch.full((3,), float(order), dtype=torch.float64), rtol=0, atol=0.1)


def coalition_parts(d, grid):
    """δ_S of the coalitions that the total interaction takes: all, each unit, and all but each."""
    units = [part.view_as(d) for part in unit_parts(d, grid)]
    return torch.stack([d, *units, *(d - unit for unit in units)])


def pattern(network, x):
    """Which ReLUs are on, and where each pool has its maximum: the linear region."""
    with torch.no_grad():
        before = network[1](network[0](x))
    return [before > 0, F.max_pool2d(network[2](before), 2, return_indices=True)[1]]


@both
def test_of_a_relu_network_they_miss_the_third_order_inside_one_linear_region(predictor):
    network, x = make_network(), make_images(batch=60)
    with torch.no_grad():
        network[1].bias.copy_(torch.tensor([4, 4, 4, -4, -4, -4]))  # far from the kinks, so that perturbations above rounding stay in the region
    direction, sizes = make_delta(x, scale=1), torch.logspace(-1.75, -2.75, 4, dtype=torch.float64)

    def stays(image, d):
        return all(inside.eq(clean).all() for inside, clean in zip(*(pattern(network, v) for v in (image + d, image[None])), strict=True))

    # a region is convex: a smaller ε is in it as well
    inside = torch.tensor([stays(image, sizes[0] * coalition_parts(d, 3)) for image, d in zip(x, direction, strict=True)])
    assert 3 <= inside.sum() < 60
    x, direction = x[inside], direction[inside]
    found = orders(network, x, direction, torch.arange(len(x)) % 5, "ce", predictor, False, sizes)
    torch.testing.assert_close(found, torch.full_like(found, 3), rtol=0, atol=0.1)


@both
def test_across_regions_they_miss_much_of_the_total(predictor, network, x, y):
    delta = make_delta(x, seed=1)
    assert all(not pattern(network, x)[0].equal(pattern(network, x + part)[0]) for part in (delta, 0.5 * delta))
    game = AttackGame(network, x, delta, y, grid=3)
    total = irlib.total_interaction(game)
    assert ((predictor(game, diagonal=False) - total).abs() > 0.1 * total.abs()).all()


@pytest.mark.parametrize("network", [make_network(), make_network(3, channels=2, classes=3)])
def test_of_a_piecewise_linear_network_the_hessian_is_lemma_2_on_its_closed_form(network):
    x = make_images(channels=network[0].in_channels)
    delta, y = make_delta(x), torch.tensor([0, 2, 1])
    expected = torch.stack([irlib.Quadratic.at(network, x[i : i + 1], y[i : i + 1]).interaction(delta[i]) for i in range(3)])
    assert expected.abs().min() > 1e-4
    torch.testing.assert_close(hessian(AttackGame(network, x, delta, y, grid=3)), expected, rtol=0, atol=1e-11)


def test_the_margin_of_a_linear_model_has_no_interaction(x):
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).double().eval()
    game = AttackGame(model, x, make_delta(x), torch.tensor([0, 1, 2]), grid=3, utility="margin")
    for predictor in (hessian, secant):
        for diagonal in (True, False):
            torch.testing.assert_close(predictor(game, diagonal), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-12)


def counted(network):
    passes = []
    network.register_forward_hook(lambda m, i, o: passes.append(len(o)))
    return passes


@pytest.mark.parametrize(
    ("predictor", "diagonal", "each"), [(hessian, True, 1), (hessian, False, 10), (secant, True, 2), (secant, False, 10)]
)  # 10 = n + 1
def test_passes_of_each_image(predictor, diagonal, each, network, x, y):
    game = AttackGame(network, x, make_delta(x), y, grid=3)
    passes = counted(network)
    predictor(game, diagonal)
    assert passes == [1, 3 * each]  # one image to measure memory, then all at once


@both
@pytest.mark.parametrize("diagonal", [True, False])
def test_a_tiny_memory_budget_takes_image_by_image_and_gives_the_same(predictor, diagonal, monkeypatch, network, x, y):
    game = AttackGame(network, x, make_delta(x), y, grid=3)
    whole, passes = predictor(game, diagonal), counted(network)
    monkeypatch.setattr("irlib.memory.CPU_BYTES", 1)
    cut = predictor(game, diagonal)
    assert set(passes) == {1} and len(passes) > 3
    torch.testing.assert_close(cut, whole, rtol=0, atol=1e-12)


@both
def test_a_larger_budget_allows_larger_passes_that_grow_with_it(predictor, monkeypatch, network, x, y):
    game, largest = AttackGame(network, x, make_delta(x), y, grid=3), []
    for bytes_ in (60_000, 120_000):
        passes = counted(network)
        monkeypatch.setattr("irlib.memory.CPU_BYTES", bytes_)
        predictor(game, diagonal=False)
        largest.append(max(passes))
    assert 1 < largest[0] < largest[1] < 30


@both
def test_a_double_backward_is_measured_as_more_than_a_single_one(predictor, monkeypatch, network, x, y):
    """What the graph keeps for going back bounds the passes, not what the forward needs at one time."""
    monkeypatch.setattr("irlib.memory.CPU_BYTES", 120_000)
    game = AttackGame(network, x, make_delta(x), y, grid=3)
    passes, kept = counted(network), 0

    def keep(tensor):
        nonlocal kept
        kept += tensor.nbytes * all(tensor.data_ptr() != p.data_ptr() for p in network.parameters())
        return tensor

    image = x[:1].clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = F.cross_entropy(network(image).double(), y[:1])
        torch.autograd.grad(loss, image, create_graph=predictor is hessian)
    passes.clear()
    predictor(game, diagonal=False)
    assert 0 < max(passes) * kept <= 1.1 * 120_000


@both
def test_where_memory_runs_out_smaller_passes_give_the_same(predictor, network, x, y):
    class Cramped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network

        def forward(self, images):
            if len(images) > 4:
                raise torch.OutOfMemoryError("more than 4 images")
            return self.inner(images)

    delta = make_delta(x)
    expected = predictor(AttackGame(network, x, delta, y, grid=3), diagonal=False)
    game = AttackGame(Cramped().eval(), x, delta, y, grid=3)
    with pytest.warns(UserWarning, match="out of memory") as warned:
        found = predictor(game, diagonal=False)
    assert len(warned) == 1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@both
@pytest.mark.parametrize("trainable", [True, False])
def test_the_model_stays_as_it_was_and_the_values_carry_no_graph(predictor, trainable, network, x, y):
    network.requires_grad_(trainable)
    before, images, delta = snapshot(network), x.clone(), make_delta(x).requires_grad_()
    game = AttackGame(network, x.requires_grad_(), delta, y, grid=3)
    for diagonal in (True, False):
        value = predictor(game, diagonal)
        assert not value.requires_grad
        with torch.no_grad():
            assert predictor(game, diagonal).equal(value)
            assert not torch.is_grad_enabled()
    assert_untouched(network, before)
    assert all(p.grad is None for p in network.parameters()) and x.grad is None and delta.grad is None
    assert x.detach().equal(images)


@both
def test_float32_networks_agree_with_double_precision(predictor, x, y):
    single = predictor(AttackGame(make_smooth().float(), x.float(), make_delta(x).float(), y, grid=3))
    assert single.dtype == torch.float64
    torch.testing.assert_close(single, predictor(AttackGame(make_smooth(), x, make_delta(x), y, grid=3)), rtol=0, atol=1e-5)
