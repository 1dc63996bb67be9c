"""What masking does to the orders of a game, against sums over all masks; the tables of FI's theory widget against games played by hand."""

from itertools import combinations, product
from math import comb

import numpy as np
import pytest
import torch

from irlib import AttackGame, create_attack, interaction_matrix, total_interaction
from irlib.game import TableGame
from irlib.widgets.fi import ATTACKS, feature_importance, masked_tables, masked_values, mixture, order_weights
from tests.conftest import make_images, make_resnet

N = 5


@pytest.fixture
def values():
    return torch.randn(2**N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def by_all_masks(values, keep):
    """E v(S∩M) as a sum over the 2ⁿ masks."""
    found = torch.zeros_like(values)
    for bits in product((0, 1), repeat=N):
        mask = sum(bit << a for a, bit in enumerate(bits))
        for S in range(2**N):
            found[S] += keep ** sum(bits) * (1 - keep) ** (N - sum(bits)) * values[S & mask]
    return found


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.7, 1.0])
def test_the_masked_game_is_the_mean_over_all_masks(values, keep):
    torch.testing.assert_close(masked_values(values, keep), by_all_masks(values, keep), rtol=0, atol=1e-13)
    torch.testing.assert_close(masked_values(torch.stack([values, 2 * values]), keep)[1], 2 * masked_values(values, keep))


def order_of_a_pair(v, a, b, s):
    """Eq. 7 as a mean, from lists of sets."""
    total = 0.0
    for S in combinations([c for c in range(N) if c not in (a, b)], s):
        number = sum(1 << c for c in S)
        total += float(v[number | 1 << a | 1 << b] - v[number | 1 << a] - v[number | 1 << b] + v[number])
    return total / comb(N - 2, s)


@pytest.mark.parametrize("keep", [0.2, 0.7, 1.0])
def test_orders_of_the_masked_game_are_mixtures_of_those_of_the_game(values, keep):
    masked, mixed, weights = by_all_masks(values, keep), mixture(N, keep), order_weights(N, keep)
    for a, b in combinations(range(N), 2):
        own = [order_of_a_pair(values, a, b, t) for t in range(N - 1)]
        for s in range(N - 1):
            assert order_of_a_pair(masked, a, b, s) == pytest.approx(mixed[s] @ own, abs=1e-12)
        assert float(interaction_matrix(TableGame(masked))[0, a, b]) == pytest.approx(weights @ own / (N - 1), abs=1e-12)


def test_the_weights_fall_from_keep_to_its_nth_power():
    for n, keep in [(9, 0.7), (9, 0.1), (20, 0.6)]:
        weights = order_weights(n, keep)
        assert (np.diff(weights) < 0).all()
        assert weights[0] == pytest.approx(keep * (1 - (1 - keep) ** (n - 1)))
        assert weights[-1] == pytest.approx(keep**n)
        assert weights.mean() == pytest.approx(keep**2)


@pytest.fixture(scope="module")
def case():
    return make_resnet().float(), make_images(batch=2).float(), torch.tensor([1, 3])


def test_the_tables_are_those_of_games_played_by_hand(case):
    model, x, y = case
    keeps = (1.0, 0.6)
    tables = masked_tables(model, x, y, ATTACKS, keeps)
    for k, name in enumerate(ATTACKS):
        delta = create_attack(name, model)(x, y) - x
        game = AttackGame(model, x, delta, y, grid=3)
        total = total_interaction(game)
        for j, keep in enumerate(keeps):
            for i in range(2):
                values = game((torch.arange(512)[:, None] >> torch.arange(9) & 1).bool())[i]
                masked = TableGame(masked_values(values, keep))
                assert tables["total"].data[k, i] == pytest.approx(float(total[i]), rel=1e-5, abs=1e-6)
                assert tables["masked_total"].data[j, k, i] == pytest.approx(float(total_interaction(masked)), rel=1e-5, abs=1e-6)
                mean = torch.stack([interaction_matrix(masked, order=s)[0].sum() / 72 for s in range(8)])
                whole = torch.stack([interaction_matrix(TableGame(values), order=s)[0].sum() / 72 for s in range(8)])
                np.testing.assert_allclose(tables["masked_orders"].data[j, k, i], mean / keep**2 / whole.abs().max(), atol=1e-4)
                np.testing.assert_allclose(tables["whole_orders"].data[k, i], whole / whole.abs().max(), atol=1e-4)


def test_with_all_units_kept_nothing_changes(case):
    sweep = feature_importance(*case, keeps=(1.0, 0.5, 0.7))
    assert sweep.said("share", q=1.0) == sweep.said("square", q=1.0) == "100 %"
    assert sweep.said("low", q=1.0) == "50 %"
    np.testing.assert_allclose(sweep.at("masked_orders", q=1.0, made_by=1, pictured=1), sweep.at("whole_orders", made_by=1, pictured=1))
