"""Shapley values and interactions against permutations, the three definitions of the paper, a quadratic game, and shapiq."""

import itertools
import math

import numpy as np
import pytest
import torch

from irlib.game import AttackGame, TableGame
from irlib.interactions import interaction_matrix, mean_interaction, total_interaction
from irlib.quadratic import Quadratic
from irlib.shapley import shapley_values
from tests.conftest import make_images, make_network


def random_game(n, batch=2, seed=0):
    return TableGame(torch.randn(batch, 2**n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def value(game, *units):
    row = torch.zeros(1, game.n, dtype=torch.bool)
    row[0, list(units)] = True
    return game(row)[0, 0].item()


def shapley_by_orders(v, players):
    """The mean marginal contribution over all orders of arrival: the Shapley value's first definition."""
    phi = dict.fromkeys(players, 0.0)
    for order in itertools.permutations(players):
        for i, a in enumerate(order):
            phi[a] += (v(*order[: i + 1]) - v(*order[:i])) / math.factorial(len(players))
    return phi


def by_merging(game, a, b):
    """Eq. 5: the pair as one player, less what each contributes where the other is always absent."""
    others = [c for c in range(game.n) if c not in (a, b)]
    merged = shapley_by_orders(lambda *s: value(game, *[u for p in s for u in ((a, b) if p == "ab" else (p,))]), [*others, "ab"])["ab"]
    alone = lambda u: shapley_by_orders(lambda *s: value(game, *s), [*others, u])[u]
    return merged - alone(a) - alone(b)


def by_contexts(game, a, b):
    """Eq. 6: the mean second difference, over the size of the context first and then over the contexts of that size."""
    others = [c for c in range(game.n) if c not in (a, b)]
    means = []
    for s in range(len(others) + 1):
        second = [value(game, *S, a, b) - value(game, *S, a) - value(game, *S, b) + value(game, *S) for S in itertools.combinations(others, s)]
        means.append(sum(second) / len(second))
    return sum(means) / len(means)


def by_formula(game, a, b):
    """Eq. 4 of the appendix: the Shapley interaction index with its factorials."""
    others = [c for c in range(game.n) if c not in (a, b)]
    total = 0.0
    for s in range(len(others) + 1):
        weight = math.factorial(s) * math.factorial(game.n - s - 2) / math.factorial(game.n - 1)
        for S in itertools.combinations(others, s):
            total += weight * (value(game, *S, a, b) - value(game, *S, a) - value(game, *S, b) + value(game, *S))
    return total


def test_shapley_values_are_the_mean_over_orders():
    game = random_game(5)
    expected = shapley_by_orders(lambda *s: value(game, *s), range(5))
    torch.testing.assert_close(shapley_values(game)[0], torch.tensor([expected[a] for a in range(5)], dtype=torch.float64), rtol=0, atol=1e-13)


@pytest.mark.parametrize("definition", [by_merging, by_contexts, by_formula])
def test_interactions_are_each_of_the_three_definitions(definition):
    game = random_game(5)
    matrix = interaction_matrix(game)[0]
    for a, b in itertools.combinations(range(5), 2):
        assert matrix[a, b].item() == pytest.approx(definition(game, a, b), abs=1e-13)
    assert torch.equal(matrix, matrix.T) or torch.allclose(matrix, matrix.T, rtol=0, atol=1e-14)
    assert not matrix.diagonal().any()


def test_efficiency_linearity_dummy_symmetry():
    v, w = random_game(6, seed=1), random_game(6, seed=2)
    torch.testing.assert_close(shapley_values(v).sum(1), v(torch.ones(1, 6, dtype=torch.bool))[:, 0])
    both = TableGame(2 * v.values - 3 * w.values)
    torch.testing.assert_close(shapley_values(both), 2 * shapley_values(v) - 3 * shapley_values(w))
    torch.testing.assert_close(interaction_matrix(both), 2 * interaction_matrix(v) - 3 * interaction_matrix(w))

    numbers = torch.arange(2**6)
    dummy = TableGame(v.values[:, numbers & ~(1 << 4)] + 0.7 * (numbers >> 4 & 1))  # unit 4 adds 0.7 to whoever it joins
    torch.testing.assert_close(shapley_values(dummy)[:, 4], torch.full((2,), 0.7, dtype=torch.float64))
    torch.testing.assert_close(interaction_matrix(dummy)[:, 4], torch.zeros(2, 6, dtype=torch.float64), rtol=0, atol=1e-13)

    swapped = (numbers & ~0b11) | (numbers & 1) << 1 | (numbers >> 1 & 1)
    symmetric = TableGame(v.values + v.values[:, swapped])  # units 0 and 1 are interchangeable
    phi, matrix = shapley_values(symmetric), interaction_matrix(symmetric)
    torch.testing.assert_close(phi[:, 0], phi[:, 1])
    torch.testing.assert_close(matrix[:, 0, 2:], matrix[:, 1, 2:])


@pytest.mark.parametrize("n", [2, 3, 9])
def test_the_total_of_eq_12_is_the_sum_of_the_matrix(n):
    game = random_game(n)
    matrix = interaction_matrix(game)
    torch.testing.assert_close(total_interaction(game), matrix.sum((1, 2)), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(mean_interaction(game), matrix.sum((1, 2)) / (n * (n - 1)), rtol=1e-11, atol=1e-12)


def test_sixteen_units_by_enumeration_agree_with_eq_12():
    game = random_game(16, batch=1)
    torch.testing.assert_close(total_interaction(game), interaction_matrix(game).sum((1, 2)), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(shapley_values(game).sum(1), game(torch.ones(1, 16, dtype=torch.bool))[:, 0])


def test_the_total_takes_2n_plus_2_evaluations():
    network, x = make_network(), make_images(batch=1)
    counted = []
    game = AttackGame(network, x, 0.1 * x, torch.tensor([0]), grid=3)
    network.register_forward_hook(lambda m, i, o: counted.append(len(o)))
    total_interaction(game)
    assert sum(counted) == 2 * 9 + 1  # and v(∅), once, when the game was made


def quadratic_game(n=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    g = torch.randn(n, generator=generator, dtype=torch.float64)
    half = torch.randn(n, n, generator=generator, dtype=torch.float64)
    delta = torch.randn(n, generator=generator, dtype=torch.float64)
    H = half + half.T
    subsets = (torch.arange(2**n)[:, None] >> torch.arange(n) & 1) * delta
    return TableGame((subsets @ g + 0.5 * ((subsets @ H) * subsets).sum(1))[None]), g, H, delta


def test_a_quadratic_game_has_interactions_delta_a_H_ab_delta_b():
    game, _g, H, delta = quadratic_game()
    expected = delta[:, None] * H * delta
    torch.testing.assert_close(interaction_matrix(game)[0], expected - expected.diag().diag(), rtol=0, atol=1e-12)


def test_lemma_2_counts_the_diagonal_that_eq_12_leaves_out():
    game, g, H, delta = quadratic_game()
    lemma2 = Quadratic(g, H).interaction(delta)
    assert abs(lemma2 - total_interaction(game)[0]) > 0.1
    torch.testing.assert_close(lemma2 - (H.diag() * delta**2).sum(), total_interaction(game)[0])


def test_shapiq_agrees_on_a_real_attack_game():
    shapiq = pytest.importorskip("shapiq")
    network, x = make_network(), make_images(batch=1)
    game = AttackGame(network, x, torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64), torch.tensor([1]), grid=3)
    exact = shapiq.ExactComputer(n_players=9, game=lambda rows: game(torch.from_numpy(rows.astype(bool)))[0].numpy())
    pairs = exact("SII", order=2).get_n_order_values(2)
    single = exact("SV", order=1)
    np.testing.assert_allclose(interaction_matrix(game)[0].numpy(), pairs - np.diag(np.diag(pairs)), atol=1e-12)
    np.testing.assert_allclose(shapley_values(game)[0].numpy(), [single[(a,)] for a in range(9)], atol=1e-12)


@pytest.mark.parametrize("utility", ["ce", "margin"])
def test_a_zero_perturbation_interacts_with_nothing(utility):
    network, x = make_network(), make_images()
    game = AttackGame(network, x, torch.zeros_like(x), torch.tensor([0, 1, 2]), grid=3, utility=utility)
    for zero in (total_interaction(game), mean_interaction(game), interaction_matrix(game), shapley_values(game)):
        torch.testing.assert_close(zero, torch.zeros_like(zero), rtol=0, atol=1e-13)


def test_too_many_and_too_few_units_are_refused():
    network, x = make_network(), make_images()
    game = AttackGame(network, x, 0.1 * x, torch.tensor([0, 1, 2]), grid=5)
    for function in (shapley_values, interaction_matrix):
        with pytest.raises(ValueError, match=r"n=25.*n ≤ 16.*irlib.sampled"):
            function(game)
    one = AttackGame(network, x, 0.1 * x, torch.tensor([0, 1, 2]), grid=1)
    for function in (interaction_matrix, total_interaction, mean_interaction):
        with pytest.raises(ValueError, match="two units"):
            function(one)
    torch.testing.assert_close(shapley_values(one), one(torch.ones(1, 1, dtype=torch.bool)))
