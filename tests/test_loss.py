"""The interaction loss against a loop over images and coalitions, by autograd and by enumeration of all draws (the samplers have a file)."""

import itertools

import pytest
import torch

from irlib.game import AttackGame
from irlib.interactions import mean_interaction
from irlib.loss import contrasts, interaction_loss
from tests.conftest import QuadraticLogit, assert_untouched, make_images, make_network, snapshot


def make_delta(x, seed=1, scale=0.3):
    return scale * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_loss(model, x, delta, y, grid, draws, coalition, utility, scaling, seed):
    """The mean of v(Ω) − v(Ω∖A) − v(A) + v(∅), image by image and coalition by coalition; differentiable."""
    height, width = x.shape[-2:]
    n = grid * grid
    drawn = torch.randint(n, (1, draws, coalition), generator=torch.Generator().manual_seed(seed))[0].tolist()
    cell = [[int(r * grid / height) * grid + int(c * grid / width) for c in range(width)] for r in range(height)]
    losses = []
    for image, d, own in zip(x, delta, y.tolist(), strict=True):
        full = model((image + d)[None])[0].tolist()
        rival = max((k for k in range(len(full)) if k != own), key=lambda k, full=full: full[k])

        def u(members, image=image, d=d, own=own, rival=rival):
            mask = torch.tensor([[float(cell[r][c] in members) for c in range(width)] for r in range(height)], dtype=torch.float64)
            z = model((image + d * mask)[None])[0]
            return z[rival] - z[own] if utility == "margin" else torch.log(torch.exp(z).sum()) - z[own]

        everyone = set(range(n))
        terms = [u(everyone) - u(everyone - set(A)) - u(set(A)) + u(set()) for A in drawn]
        losses.append(sum(terms) / draws)
    loss = torch.stack(losses)
    return (
        loss
        if scaling == "authors"
        else loss / sum(len(set(A)) * (n - len(set(A))) for A in itertools.product(range(n), repeat=coalition)) * n**coalition
    )


@pytest.mark.parametrize("scaling", ["authors", "paper"])
@pytest.mark.parametrize("utility", ["ce", "margin"])
@pytest.mark.parametrize(("size", "grid", "draws", "coalition", "seed"), [(6, 2, 5, 1, 0), (7, 3, 4, 3, 1), (7, 2, 9, 5, 2)])
def test_value_and_gradient_are_the_loops(size, grid, draws, coalition, seed, utility, scaling):
    network, x = make_network(channels=2, size=size), make_images(channels=2, size=size)
    y, weights = torch.tensor([0, 3, 1]), torch.tensor([1.0, -2.5, 0.3], dtype=torch.float64)
    settings = dict(grid=grid, draws=draws, coalition=coalition, utility=utility, scaling=scaling, seed=seed)
    delta = make_delta(x).requires_grad_()
    found, expected = interaction_loss(network, x, delta, y, sampler="authors", **settings), slow_loss(network, x, delta, y, **settings)
    assert found.dtype == torch.float64 and found.shape == (3,)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    slope, slow_slope = (torch.autograd.grad(loss @ weights, delta)[0] for loss in (found, expected))
    assert slow_slope.abs().amax((1, 2, 3)).min() > 1e-4
    torch.testing.assert_close(slope, slow_slope, rtol=0, atol=1e-12)


def test_the_rival_is_that_of_the_full_perturbation():
    network, x = make_network(), make_images(batch=8)
    with torch.no_grad():
        network[-1].bias -= network(x).mean(0)
    y, delta = network(x).argmax(1), make_delta(x)
    clean, full = (network(v).scatter(1, y[:, None], -torch.inf).argmax(1) for v in (x, x + delta))
    assert (clean != full).any()
    settings = dict(grid=2, draws=4, coalition=2, utility="margin", scaling="authors", seed=3)
    torch.testing.assert_close(
        interaction_loss(network, x, delta, y, sampler="authors", **settings), slow_loss(network, x, delta, y, **settings), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize(("size", "grid", "coalition"), [(6, 3, 1), (9, 4, 2), (20, 10, 12), (33, 16, 32), (40, 16, 32)])
def test_by_default_the_authors_sampler_takes_32_coalitions_of_an_eighth_of_the_cells_and_seed_0(size, grid, coalition):
    network, x = make_network(size=size), make_images(size=size, batch=1)
    delta, y = make_delta(x), torch.tensor([2])
    expected = slow_loss(network, x, delta, y, grid, 32, coalition, "ce", "authors", 0)
    torch.testing.assert_close(interaction_loss(network, x, delta, y, sampler="authors"), expected, rtol=0, atol=1e-11)


def test_the_seed_decides_the_coalitions_whatever_the_global_state(network, x, y):
    loss = lambda seed: interaction_loss(network, x, make_delta(x), y, grid=3, draws=4, coalition=2, seed=seed)
    first = loss(5)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert loss(5).equal(first) and not loss(6).allclose(first)
    assert torch.get_rng_state().equal(before)


def test_float32_networks_agree_with_double_precision(x, y):
    single = interaction_loss(make_network().float(), x.float(), make_delta(x).float(), y, grid=3, coalition=2)
    assert single.dtype == torch.float64
    torch.testing.assert_close(single, interaction_loss(make_network(), x, make_delta(x), y, grid=3, coalition=2), rtol=0, atol=1e-5)


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("utility", ["ce", "margin"])
def test_a_tiny_and_a_huge_memory_budget_give_the_same(monkeypatch, network, x, y, utility, wanted):
    passes, results = [], []
    network.register_forward_hook(lambda m, i, o: passes.append(len(o)))
    for bytes_ in (1, 2**60):
        monkeypatch.setattr("irlib.loss.budget", lambda device, bytes_=bytes_: bytes_)
        passes.clear()
        delta = make_delta(x).requires_grad_(wanted)
        loss = interaction_loss(network, x, delta, y, grid=3, draws=6, coalition=2, utility=utility)
        assert passes == ([3] * 14 if bytes_ == 1 else [3, 36, 3])
        results.append([loss, *([torch.autograd.grad(loss.sum(), delta)[0]] if wanted else [])])
    for tiny, huge in zip(*results, strict=True):
        torch.testing.assert_close(tiny, huge, rtol=0, atol=1e-12)


def test_the_budget_is_that_of_the_games_and_bounds_each_pass(monkeypatch, network, x, y):
    passes = []
    network.register_forward_hook(lambda m, i, o: passes.append(len(o)))
    loss = lambda: interaction_loss(network, x, make_delta(x).requires_grad_(), y, grid=3, draws=20, coalition=2)
    monkeypatch.setattr("irlib.memory.CPU_BYTES", 100_000)
    loss()
    some = max(passes)
    assert 3 < some < 3 * 40
    passes.clear()
    monkeypatch.setattr("irlib.memory.CPU_BYTES", 200_000)
    loss()
    assert some < max(passes) < 3 * 40


@pytest.mark.parametrize("silent", [torch.no_grad, torch.inference_mode])
def test_each_pass_is_bounded_without_gradients_too(monkeypatch, network, x, y, silent):
    passes = []
    network.register_forward_hook(lambda m, i, o: passes.append(len(o)))
    monkeypatch.setattr("irlib.memory.CPU_BYTES", 100_000)
    with silent():
        interaction_loss(network, x, make_delta(x), y, grid=3, draws=20, coalition=2)
    assert max(passes) < 3 * 40


@pytest.mark.parametrize("utility", ["ce", "margin"])
def test_a_delta_without_gradient_has_the_same_value(network, x, y, utility):
    settings = dict(grid=2, draws=7, coalition=2, utility=utility, scaling="paper", seed=4)
    delta = make_delta(x)
    expected = slow_loss(network, x, delta, y, **settings)
    torch.testing.assert_close(interaction_loss(network, x, delta, y, sampler="authors", **settings), expected, rtol=0, atol=1e-12)
    with torch.no_grad():
        silent = interaction_loss(network, x, delta.requires_grad_(), y, sampler="authors", **settings)
    assert not silent.requires_grad
    torch.testing.assert_close(silent, expected, rtol=0, atol=1e-12)


def test_it_can_be_differentiated_once(network, x, y):
    delta = make_delta(x).requires_grad_()
    (slope,) = torch.autograd.grad(interaction_loss(network, x, delta, y, grid=2).square().sum(), delta, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def pair_by_pair(model, delta, grid):
    """The mean of δ_aᵀHδ_b over ordered pairs of cells of square images."""
    size = delta.shape[-1]
    cell = torch.tensor([int(r * grid / size) * grid + int(c * grid / size) for r in range(size) for c in range(size)])
    means = []
    for d in delta.flatten(1):
        pairs = [((d * (cell == a)) @ model.H @ (d * (cell == b))).item() for a, b in itertools.permutations(range(grid * grid), 2)]
        means.append(sum(pairs) / len(pairs))
    return torch.tensor(means, dtype=torch.float64)


@pytest.mark.parametrize(("size", "grid", "coalition"), [(4, 2, 1), (4, 2, 3), (5, 2, 4), (6, 3, 2)])
def test_over_all_draws_the_papers_scaling_is_the_mean_interaction_of_a_quadratic(monkeypatch, size, grid, coalition):
    model, x = QuadraticLogit(size * size).eval(), make_images(size=size)
    delta, y = make_delta(x), torch.zeros(3, dtype=torch.int64)
    expected = pair_by_pair(model, delta, grid)
    assert expected.abs().min() > 0.01
    game = AttackGame(model, x, delta, y, grid=grid, utility="margin")
    torch.testing.assert_close(mean_interaction(game), expected, rtol=0, atol=1e-11)

    every = torch.tensor(list(itertools.product(range(grid**2), repeat=coalition)))[None]
    monkeypatch.setattr(torch, "randint", lambda n, shape, generator, device: every[0])
    loss = interaction_loss(
        model, x, delta, y, grid=grid, draws=every.shape[1], coalition=coalition, utility="margin", scaling="paper", sampler="authors"
    )
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("sampler", ["authors", "distinct", "partition"])
@pytest.mark.parametrize("coalition", [None, 3])
def test_its_own_draws_estimate_the_mean_interaction_of_a_quadratic(sampler, coalition):
    model, x = QuadraticLogit(36).eval(), make_images(batch=1)
    delta, y = make_delta(x), torch.tensor([0])
    exact = mean_interaction(AttackGame(model, x, delta, y, grid=3, utility="margin")).item()
    settings = dict(grid=3, draws=5, coalition=coalition, utility="margin", scaling="paper", sampler=sampler)
    losses = torch.stack([interaction_loss(model, x, delta, y, **settings, seed=seed) for seed in range(400)])
    error = losses.std().item() / 400**0.5
    assert abs(losses.mean().item() - exact) < 4 * error
    assert error < 0.2 * abs(exact)


@pytest.mark.parametrize("sampler", ["distinct", "partition", "stratified"])
def test_the_authors_scaling_is_the_same_whichever_the_sampler(sampler, network, x, y):
    """The mean interaction times what the authors' sampler counts: λ keeps its meaning."""
    kw = dict(grid=6, draws=5, coalition=3, seed=2, sampler=sampler)
    loss = {scaling: interaction_loss(network, x, make_delta(x), y, scaling=scaling, **kw) for scaling in ("authors", "paper")}
    pairs = 36 * 35 * ((1 - 1 / 36) ** 4 - (1 - 2 / 36) ** 4)  # of n/8 = 4 cells
    torch.testing.assert_close(loss["authors"], pairs * loss["paper"], rtol=1e-12, atol=0)


def test_one_round_of_single_cells_is_the_exact_mean(network, x, y):
    delta = make_delta(x)
    exact = mean_interaction(AttackGame(network, x, delta, y, grid=3))
    for sampler in ("partition", "stratified"):
        found = interaction_loss(network, x, delta, y, grid=3, draws=9, sampler=sampler, scaling="paper")
        torch.testing.assert_close(found, exact, rtol=0, atol=1e-12)


def test_each_coalition_of_each_image_is_its_own_in_contrasts(network, x, y):
    present = torch.rand(3, 5, 9, generator=torch.Generator().manual_seed(0)) < 0.5
    units = torch.arange(36).view(6, 6) % 9
    delta = make_delta(x)
    z, rival, mean = contrasts(network, x, delta, y, present, units, "ce")
    torch.testing.assert_close(z, network(x + delta), rtol=0, atol=1e-14)
    for i in range(3):
        assert rival[i] == max((k for k in range(5) if k != y[i]), key=lambda k, i=i: z[i, k].item())
        u = lambda members, i=i: -network((x[i] + delta[i] * members[units])[None])[0].log_softmax(0)[y[i]]
        terms = [u(torch.ones(9)) - u((~A).double()) - u(A.double()) for A in present[i]]
        torch.testing.assert_close(mean[i], sum(terms) / 5, rtol=0, atol=1e-12)


@pytest.mark.parametrize("utility", ["ce", "margin"])
@pytest.mark.parametrize("draws", [1, 6])
def test_it_takes_2_draws_plus_2_forwards_an_image(network, x, y, utility, draws):
    counted = []
    network.register_forward_hook(lambda m, i, o: counted.append(len(o)))
    delta = make_delta(x).requires_grad_()
    interaction_loss(network, x, delta, y, grid=2, draws=draws, utility=utility).sum().backward()
    assert sum(counted) == 3 * (2 * draws + 2)


def test_a_zero_perturbation_has_no_interaction(network, x, y):
    for utility in ("ce", "margin"):
        loss = interaction_loss(network, x, torch.zeros_like(x), y, utility=utility)
        torch.testing.assert_close(loss, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-14)


def test_model_images_and_delta_stay_as_they_were(network, x, y):
    before, images, delta = snapshot(network), x.clone(), make_delta(x).requires_grad_()
    values = delta.detach().clone()
    torch.autograd.grad(interaction_loss(network, x, delta, y, grid=3).sum(), delta)
    assert_untouched(network, before)
    assert x.equal(images) and delta.detach().equal(values) and delta.grad is None


def test_one_cell_has_no_pairs_to_average_over(network, x, y):
    with pytest.raises(ValueError, match="two units"):
        interaction_loss(network, x, make_delta(x), y, grid=1, scaling="paper")


def test_bad_input_is_refused_by_name(network, x, y):
    before = snapshot(network)
    nan = x.clone()
    nan[0, 0, 0, 0] = torch.nan
    train = make_network()
    train[1].train()
    ok = dict(model=network, x=x, delta=0.1 * x, y=y, grid=2)
    for change, error, words in [
        (dict(draws=0), ValueError, "draws"),
        (dict(draws=2.5), ValueError, "draws"),
        (dict(coalition=0), ValueError, "coalition"),
        (dict(coalition=-3), ValueError, "coalition"),
        (dict(grid=0), ValueError, "grid"),
        (dict(grid=7), ValueError, "larger than the 6×6 image"),
        (dict(utility="cr"), ValueError, "unknown utility.*did you mean 'ce'"),
        (dict(utility="margins"), ValueError, "did you mean 'margin'"),
        (dict(scaling="author"), ValueError, "unknown scaling.*did you mean 'authors'"),
        (dict(scaling="papers"), ValueError, "did you mean 'paper'"),
        (dict(coalition=4), ValueError, "leaves no cell of 4 outside.*at most 2"),
        (dict(coalition=9, sampler="distinct"), ValueError, "leaves no cell of 4 outside"),
        (dict(sampler="strata"), ValueError, "did you mean 'stratified'"),
        (dict(x=x.half(), delta=x.half(), model=make_network().half()), TypeError, "float16 on the CPU: use float32"),
        (dict(delta=x[:2]), ValueError, "delta must have x's shape"),
        (dict(delta=x.float()), ValueError, "delta must have x's shape"),
        (dict(delta=nan), ValueError, "delta holds NaN"),
        (dict(x=x + 0.5), ValueError, r"\[0, 1\]"),
        (dict(x=x.float(), delta=x.float()), TypeError, "float32"),
        (dict(y=y + 5), ValueError, "0 … 4 for a model of 5 logits"),
        (dict(y=-1 - y), ValueError, "labels"),
        (dict(y=y[:2]), ValueError, "y must have shape"),
        (dict(y=y.double()), TypeError, "int64"),
        (dict(model=train), ValueError, "module '1'.*model.eval()"),
        (dict(model=lambda images: images), TypeError, "nn.Module"),
    ]:
        with pytest.raises(error, match=words):
            interaction_loss(**(ok | change))
    assert_untouched(network, before)
