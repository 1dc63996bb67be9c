"""The chapter on orders: orders from one table, the ends of large games, and the widget's tables, against plain loops."""

from itertools import combinations
from math import comb

import pytest
import torch
import torch.nn.functional as F

from irlib import AttackGame, create_attack
from irlib.game import TableGame
from irlib.interactions import interaction_matrix
from irlib.widgets.orders import end_orders, mean_by_size, mean_over_pairs, orders, orders_tables, study
from tests.conftest import make_images, make_network


def random_game(n, seed=0):
    return TableGame(torch.randn(2, 2**n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def number(units):
    return sum(1 << a for a in units)


def by_definition(values, n, s):
    """I_ab^(s), context by context."""
    found = torch.zeros(n, n, dtype=torch.float64)
    for a in range(n):
        for b in range(n):
            if a != b:
                contexts = list(combinations(set(range(n)) - {a, b}, s))
                for S in contexts:
                    v = [values[number({*S, *more})] for more in ((a, b), (a,), (b,), ())]
                    found[a, b] += (v[0] - v[1] - v[2] + v[3]) / len(contexts)
    return found


def test_every_order_is_the_mean_over_its_contexts():
    from irlib.widgets.orders import order_matrices

    game = random_game(5)
    found = order_matrices(game)
    assert found.shape == (2, 4, 5, 5)
    for s in range(4):
        for k in range(2):
            torch.testing.assert_close(found[k, s], by_definition(game.values[k], 5, s))
    with pytest.raises(ValueError, match="needs two units"):
        order_matrices(random_game(1))


@pytest.mark.parametrize("n", [2, 3, 6])
def test_the_first_and_the_last_order_need_no_enumeration(n):
    game = random_game(n, seed=n)
    found = end_orders(game)
    torch.testing.assert_close(found[:, 0], interaction_matrix(game, order=0))
    torch.testing.assert_close(found[:, 1], interaction_matrix(game, order=n - 2))


def test_means_by_size_and_over_pairs():
    game = random_game(5)
    found = mean_by_size(game.values)
    for k in range(6):
        expected = sum(game.values[0, number(S)] for S in combinations(range(5), k)) / comb(5, k)
        torch.testing.assert_close(found[0, k], expected)
    matrix = torch.tensor([[0.0, 1, 2], [3, 0, 4], [5, 6, 0]])
    assert mean_over_pairs(matrix) == 3.5


@pytest.fixture
def sources():
    x = make_images(batch=2)
    models = [make_network(seed) for seed in (0, 1)]
    return models, x, torch.tensor([1, 3])


def loss(model, x, delta, y, units):
    """The loss increase of δ on these cells of a 3 × 3 grid over a 6 × 6 image: two pixels a side each."""
    mask = torch.zeros(6, 6, dtype=x.dtype)
    for a in units:
        mask[2 * (a // 3) : 2 * (a // 3) + 2, 2 * (a % 3) : 2 * (a % 3) + 2] = 1
    return F.cross_entropy(model(x + mask * delta), y) - F.cross_entropy(model(x), y)


def test_the_sweep_is_plain_loops(sources):
    models, x, y = sources
    tables = orders_tables(models, x, y, [4, 32])
    for e, eps in enumerate((4, 32)):
        for m, model in enumerate(models):
            for k in range(2):
                image, label = x[k : k + 1], y[k : k + 1]
                # each image of a batch is attacked by itself, so alone it is attacked alike
                delta = create_attack("pgd", model, eps=eps / 255, alpha=eps / 2040, steps=10)(image, label) - image
                v = {S: loss(model, image, delta, label, S).detach() for s in range(10) for S in combinations(range(9), s)}
                values = torch.stack([v[tuple(a for a in range(9) if c >> a & 1)] for c in range(512)])
                at = lambda name: torch.as_tensor(tables[name].data[e, m, k])  # noqa: B023
                close = lambda name, other: torch.testing.assert_close(at(name), other, rtol=1e-8, atol=1e-10)  # noqa: B023
                single = sum(v[(a,)] for a in range(9))
                each = [by_definition(values, 9, s) for s in (0, 3, 7)]
                close("whole", values[-1])
                close("single", single)
                close("first", each[0].sum() / 72)
                close("last", each[2].sum() / 72)
                close("parts", torch.cat([single[None], at("parts")[1:]]))
                close("parts", at("parts").index_copy(0, torch.tensor([4]), 5 * each[1].sum()[None] / 72))
                torch.testing.assert_close(at("parts").sum(), values[-1])
                close("low", at("parts")[1:5].sum())
                close("high", at("parts")[5:].sum())
                ratio = each[0].abs().sum() / each[2].abs().sum()
                torch.testing.assert_close(at("magnitude")[0] / at("magnitude")[-1], ratio)
                assert at("magnitude").max() == 1
                mean = torch.stack([torch.stack([v[S] for S in v if len(S) == s]).mean() for s in range(10)])
                close("curve", mean / values[-1].abs())
                close("straight", torch.arange(10) * mean[1] / values[-1].abs())
    assert tables["size"].data.tolist() == list(range(10))


def test_the_sweep_shows_its_tables_and_says_them(sources):
    models, x, y = sources
    sweep = orders(dict(zip("ab", models, strict=True)), x, y, [4, 16])
    assert sweep.said("whole") == f"{sweep.at('whole', eps=16, network=0, image=0):.3g}".replace("-", "−")


def test_the_study_has_the_orders_of_every_perturbation(sources):
    models, x, y = sources
    found = study(models[0], x, y, [2, 16], strength=0.3, fine=6, sampled_orders=(0, 34))
    for k, eps in enumerate((2, 16)):
        delta = create_attack("pgd", models[0], eps=eps / 255, alpha=eps / 2040, steps=10)(x, y) - x
        game = AttackGame(models[0], x, delta, y, grid=3)
        for s in (0, 4, 7):
            matrix = interaction_matrix(game, order=s)
            torch.testing.assert_close(torch.tensor(found["pgd"][k]["mean"], dtype=torch.float64)[:, s], matrix.sum((1, 2)) / 72)
            torch.testing.assert_close(torch.tensor(found["pgd"][k]["magnitude"], dtype=torch.float64)[:, s], matrix.abs().sum((1, 2)) / 72)
        torch.testing.assert_close(torch.tensor(found["pgd"][k]["whole"], dtype=torch.float64), game(torch.ones(1, 9, dtype=torch.bool))[:, 0])
    ends = end_orders(AttackGame(models[0], x, delta, y, grid=6))
    torch.testing.assert_close(torch.tensor(found["fine"]["mean"], dtype=torch.float64), ends.sum((2, 3)) / (36 * 35))
    torch.testing.assert_close(torch.tensor(found["fine"]["magnitude"], dtype=torch.float64), ends.abs().sum((2, 3)) / (36 * 35))
    coarse = AttackGame(models[0], x, delta, y, grid=3, utility="margin")
    torch.testing.assert_close(torch.tensor(found["margin"]["mean"], dtype=torch.float64)[:, 2], interaction_matrix(coarse, order=2).sum((1, 2)) / 72)
    value, stderr = (torch.tensor(found["sampled"][key]) for key in ("value", "stderr"))
    exact = torch.tensor(found["fine"]["mean"])
    assert ((value - exact).abs() < 5 * stderr).all()
    # raw ascent, step by step, in the first image
    image, label = x[:1], y[:1]
    H = torch.autograd.functional.hessian(lambda z: F.cross_entropy(models[0](z.view(image.shape)), label), image.flatten())
    alpha, delta = 0.03 / torch.linalg.eigvalsh(H)[-1], torch.zeros_like(image)
    for _ in range(10):
        delta = delta + alpha * torch.autograd.functional.jacobian(lambda z: F.cross_entropy(models[0](z), label), image + delta)
    torch.testing.assert_close(torch.tensor(found["raw"]["whole"][0], dtype=torch.float64), loss(models[0], image, delta, label, range(9)).detach())
