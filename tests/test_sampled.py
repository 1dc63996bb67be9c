"""Sampled values, orders and matrices against enumeration over many seeds; the regression's parts against sums over all coalitions; Theorem 1."""

import itertools
from collections import Counter
from functools import cache
from math import comb, factorial

import pytest
import torch

import irlib
from irlib import interactions, regression, sampled
from irlib.game import AttackGame, TableGame
from irlib.sampled import interaction_matrix, multi_order_interaction, neighbours, shapley_values

STANDARD_ERRORS = 4.5


class FormulaGame:
    """v(S) = formula(1_S), one image."""

    def __init__(self, n, formula):
        self.n, self.formula = n, formula

    def __call__(self, coalitions):
        return self.formula(coalitions.double())[None]


class Counted:
    """A game that keeps the coalitions of each call."""

    def __init__(self, game):
        self.game, self.n, self.calls = game, game.n, []

    def __call__(self, coalitions):
        self.calls.append(coalitions)
        return self.game(coalitions)


@cache
def random_game(n, batch=2, seed=0):
    return TableGame(torch.randn(batch, 2**n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def symmetric(n, seed=0):
    half = normal(n, n, seed=seed)
    return half + half.T


def wave(n):
    weights = normal(n)
    return FormulaGame(n, lambda c: torch.sin(c @ weights))


def quadratic(n):
    g, H = normal(n, seed=1), symmetric(n)
    return FormulaGame(n, lambda c: c @ g + 0.5 * ((c @ H) * c).sum(1)), H - H.diag().diag()


def of_size(n, f):
    return FormulaGame(n, lambda c: f(c.sum(1)) - f(torch.zeros(1).double()))


@cache
def by_order(game):
    """(n − 1, batch, n, n): I_ab^(s), the mean second difference over the contexts of s units, by loops."""
    n, v = game.n, lambda *units: game.values[:, sum(1 << u for u in units)]
    found = torch.zeros(n - 1, len(game.values), n, n, dtype=torch.float64)
    for a, b in itertools.combinations(range(n), 2):
        others = [c for c in range(n) if c not in (a, b)]
        for s in range(n - 1):
            contexts = list(itertools.combinations(others, s))
            found[s, :, a, b] = sum(v(*S, a, b) - v(*S, a) - v(*S, b) + v(*S) for S in contexts) / len(contexts)
    return found + found.transpose(2, 3)


def true_matrix(game):
    return by_order(game).mean(0)


def true_orders(game):
    """(batch, n − 1): I^(s)."""
    return by_order(game).sum((2, 3)).T / (game.n * (game.n - 1))


def true_shapley(game):
    n, v = game.n, lambda *units: game.values[:, sum(1 << u for u in units)]
    phi = torch.zeros(len(game.values), n, dtype=torch.float64)
    for a in range(n):
        for s in range(n):
            weight = factorial(s) * factorial(n - s - 1) / factorial(n)
            for S in itertools.combinations([c for c in range(n) if c != a], s):
                phi[:, a] += weight * (v(*S, a) - v(*S))
    return phi


def upper(matrix):
    a, b = torch.triu_indices(*matrix.shape[-2:], 1)
    return matrix[..., a, b]


def entries(matrix, pairs):
    return matrix[..., pairs[:, 0], pairs[:, 1]]


def row_sums(game):
    """v(Ω) − v(Ω∖a) − v(a) + v(∅)."""
    single = torch.eye(game.n, dtype=torch.bool)
    full = torch.ones(1, game.n, dtype=torch.bool)
    return game(full) - game(~single) - game(single) + game(~full)


def over_seeds(estimate, count):
    found = [estimate(seed) for seed in range(count)]
    return torch.stack([f.value for f in found]), torch.stack([f.stderr for f in found])


def assert_unbiased(values, truth):
    """The mean over seeds is the truth within 4.5 standard errors of that mean, for every entry."""
    away = (values.mean(0) - truth).abs() / (values.std(0) / len(values) ** 0.5)
    assert away.max() < STANDARD_ERRORS, away


def assert_honest(values, stderr, tolerance):
    """The reported stderr, as a root mean square, is the standard deviation over seeds."""
    ratio = stderr.square().mean(0).sqrt() / values.std(0)
    assert ratio.min() > 1 - tolerance and ratio.max() < 1 + tolerance, ratio


SOME = torch.tensor([[0, 1], [5, 2], [3, 6], [1, 2]])

# n = 7, where all coalitions are 128
SAMPLERS = {
    "shapley": (lambda g, seed: shapley_values(g, 100, seed), true_shapley, lambda t: t, 2000, 0.15),
    "one order": (lambda g, seed: multi_order_interaction(g, 2, 40, seed), lambda g: true_orders(g)[:, 2], lambda t: t, 2000, 0.15),
    "all orders": (lambda g, seed: multi_order_interaction(g, range(6), 100, seed), true_orders, lambda t: t, 2000, 0.15),
    "two orders": (lambda g, seed: multi_order_interaction(g, (4, 0), 60, seed), lambda g: true_orders(g)[:, [4, 0]], lambda t: t, 2000, 0.15),
    "contexts": (lambda g, seed: interaction_matrix(g, 127, seed, method="contexts"), true_matrix, upper, 2000, 0.15),
    "regression": (lambda g, seed: interaction_matrix(g, 127, seed, method="regression"), true_matrix, upper, 300, 0.3),
    "pairs": (lambda g, seed: interaction_matrix(g, 60, seed, pairs=SOME), true_matrix, lambda t: entries(t, SOME), 2000, 0.15),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_estimates_are_unbiased_and_their_stderr_is_their_spread_over_seeds(name):
    estimate, truth, chosen, count, tolerance = SAMPLERS[name]
    game = random_game(7)
    values, stderr = over_seeds(lambda seed: estimate(game, seed), count)
    assert values.shape[1:] == stderr.shape[1:] == truth(game).shape
    assert values.dtype == stderr.dtype == torch.float64
    assert_unbiased(chosen(values), chosen(truth(game)))
    assert_honest(chosen(values), chosen(stderr), tolerance)


@pytest.mark.parametrize("name", SAMPLERS)
def test_each_image_of_a_batch_is_estimated_as_if_it_were_alone(name):
    estimate, game = SAMPLERS[name][0], random_game(7)
    together, alone = estimate(game, 5), estimate(TableGame(game.values[1:]), 5)
    torch.testing.assert_close(together.value[1:], alone.value, equal_nan=True, rtol=0, atol=1e-12)
    torch.testing.assert_close(together.stderr[1:], alone.stderr, equal_nan=True, rtol=0, atol=1e-12)


@pytest.mark.parametrize("fit", ["none", "random"])
def test_the_regression_is_unbiased_whatever_the_fit(fit, monkeypatch):
    M = torch.zeros(7, 7).double() if fit == "none" else 0.1 * symmetric(7)
    monkeypatch.setattr(regression, "quadratic_fit", lambda z, e: M)
    game = random_game(7, batch=1)
    values, stderr = over_seeds(lambda seed: interaction_matrix(game, 127, seed, method="regression"), 500)
    assert_unbiased(upper(values), upper(true_matrix(game)))
    assert_honest(upper(values), upper(stderr), 0.15)


def test_the_fit_never_sees_the_coalitions_that_correct_it(monkeypatch):
    fitted, corrected = [], []
    fit, weighted = regression.quadratic_fit, regression._weighted
    monkeypatch.setattr(regression, "quadratic_fit", lambda z, e: fitted.append(z) or fit(z, e))
    monkeypatch.setattr(regression, "_weighted", lambda c, p, r: corrected.append(c) or weighted(c, p, r))
    interaction_matrix(wave(30), 1200, method="regression")
    rows = lambda part: Counter(map(tuple, part.tolist()))
    corrections = [rows(c) for c in corrected]
    everything = sum(corrections, Counter())
    assert everything.total() == (1200 - 61) // 2 and len(everything) > 500
    assert [rows((z + 1) / 2) for z in fitted] == [everything - fold for fold in corrections]
    assert len(fitted) == regression.FOLDS


def test_a_budget_for_all_coalitions_gives_the_exact_answer():
    game = random_game(6)
    for function, truth in ((shapley_values, true_shapley), (interaction_matrix, true_matrix)):
        counted = Counted(game)
        exact = function(counted, 2**6)
        torch.testing.assert_close(exact.value, truth(game), rtol=0, atol=1e-12)
        assert exact.stderr.shape == exact.value.shape and not exact.stderr.any()
        assert exact.evaluations == sum(map(len, counted.calls)) == 2**6
        below = function(game, 2**6 - 1)
        assert below.evaluations < 2**6 and (below.stderr > 0).any() and (below.value - truth(game)).abs().max() > 1e-3


@pytest.mark.parametrize("n", [7, 49])
def test_one_context_is_exact_for_a_quadratic_game(n):
    game, H = quadratic(n)
    least, pairs = n * (n - 1) // 2 + 3 * n + 2, torch.tensor([[0, 3], [4, 2]])
    one = interaction_matrix(game, least, seed=3, method="contexts")
    few = interaction_matrix(game, 4 * least, seed=3, method="contexts")
    chosen = interaction_matrix(game, 14, seed=3, pairs=pairs)
    for found in (one, few):
        torch.testing.assert_close(found.value[0], H, rtol=0, atol=1e-10)
    torch.testing.assert_close(entries(chosen.value[0], pairs), entries(H, pairs), rtol=0, atol=1e-10)
    assert few.stderr.max() < 1e-10 and entries(chosen.stderr[0], pairs).max() < 1e-10


def test_a_perfect_fit_makes_the_regression_exact(monkeypatch):
    """A quadratic game's even part is a quadratic form: without the ridge nothing is left to estimate."""

    def least_squares(z, e):
        n = z.shape[1]
        features = torch.einsum("ka,kb->kab", z, z).flatten(1)
        return torch.linalg.lstsq(features, e[:, None], driver="gelsd").solution.view(n, n)

    monkeypatch.setattr(regression, "quadratic_fit", least_squares)
    game, H = quadratic(8)
    found = interaction_matrix(game, 500, method="regression")
    torch.testing.assert_close(found.value[0], H, rtol=0, atol=1e-9)
    assert found.stderr.max() < 1e-9


def test_the_ridge_leaves_the_regression_a_hundredth_of_a_quadratic_game_to_estimate(monkeypatch):
    """The ridge keeps the fit from being perfect: the correction removes the bias that it makes, at the price of some variance."""
    game, H = quadratic(8)
    found = interaction_matrix(game, 500, method="regression")
    scale = upper(H).square().mean().sqrt()
    assert upper(found.value[0] - H).square().mean().sqrt() < 0.02 * scale
    assert upper(found.stderr[0]).max() < 0.02 * scale
    monkeypatch.setattr(regression, "quadratic_fit", lambda z, e: torch.zeros(8, 8).double())
    assert upper(interaction_matrix(game, 500, method="regression").stderr[0]).min() > 0.1 * scale


@pytest.mark.parametrize("budget", [97, 1000])
def test_an_additive_game_has_its_terms_as_shapley_values(budget):
    terms = normal(49)
    found = shapley_values(FormulaGame(49, lambda c: c @ terms), budget, seed=2)
    torch.testing.assert_close(found.value[0], terms, rtol=0, atol=1e-12)
    assert budget == 97 or found.stderr.max() < 1e-12


def test_where_only_the_size_matters_every_order_and_shapley_value_is_exact():
    f = lambda k: k**3 - 5 * k**2 + torch.cos(k)
    game, orders = of_size(49, f), [30, 0, 47, 12, 13]
    s = torch.tensor(orders).double()
    found = multi_order_interaction(game, orders, 40, seed=1)
    torch.testing.assert_close(found.value[0], f(s + 2) - 2 * f(s + 1) + f(s), rtol=1e-10, atol=1e-9)
    assert found.stderr.max() < 1e-9
    share = (f(torch.tensor(49.0).double()) - 1) / 49  # f(0) = 1
    assert (shapley_values(game, 1000).value.mean() - share).abs() < 1e-9


def test_row_sums_leave_nothing_to_chance_for_three_units():
    game = random_game(3)
    found = interaction_matrix(game, 200, method="contexts")
    torch.testing.assert_close(found.value, true_matrix(game), rtol=0, atol=1e-12)
    assert found.stderr.max() < 1e-12


@pytest.mark.parametrize("budget", [13, 40, 100])
def test_shapley_values_share_out_the_whole_reward(budget):
    game = random_game(7)
    found = shapley_values(game, budget, seed=4)
    torch.testing.assert_close(found.value.sum(1), game(torch.ones(1, 7, dtype=torch.bool))[:, 0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", ["contexts", "regression"])
@pytest.mark.parametrize(("game", "budget"), [(random_game(7), 100), (random_game(7), 1000), (wave(49), 3000)])
def test_matrices_are_symmetric_with_the_row_sums_of_eq_12(method, game, budget):
    found = interaction_matrix(game, budget, seed=1, method=method)
    torch.testing.assert_close(found.value.sum(2), row_sums(game), rtol=0, atol=1e-9)
    for part in (found.value, found.stderr):
        assert part.isfinite().all() and torch.equal(part, part.transpose(1, 2))
        assert not part.diagonal(dim1=1, dim2=2).any()
    assert (upper(found.stderr) > 0).all()


def test_pairs_that_were_not_asked_for_are_nan():
    game, asked = random_game(7), torch.zeros(7, 7, dtype=torch.bool)
    asked[SOME[:, 0], SOME[:, 1]] = asked[SOME[:, 1], SOME[:, 0]] = True
    found = interaction_matrix(game, 60, pairs=SOME)
    for part in (found.value, found.stderr):
        assert torch.equal(part.isfinite(), (asked | torch.eye(7, dtype=torch.bool)).expand(2, -1, -1))
        assert torch.equal(part.nan_to_num(), part.transpose(1, 2).nan_to_num())
        assert not part.diagonal(dim1=1, dim2=2).any()


def test_a_pair_turned_round_or_given_twice_is_one_pair():
    game = random_game(7)
    once = interaction_matrix(game, 60, pairs=torch.tensor([[1, 4], [2, 3]]))
    again = interaction_matrix(game, 60, pairs=torch.tensor([[3, 2], [4, 1], [1, 4], [4, 1]]))
    torch.testing.assert_close(once.value, again.value, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(once.stderr, again.stderr, rtol=0, atol=0, equal_nan=True)
    assert once.evaluations == again.evaluations


THREE = torch.tensor([[0, 1], [1, 2], [7, 3]])

# by the least budget for 20 units
FUNCTIONS = {
    "shapley": (lambda g, b, seed=0: shapley_values(g, b, seed), 2 * 20 - 1, 1),
    "one order": (lambda g, b, seed=0: multi_order_interaction(g, 3, b, seed), 4, 1),
    "two orders": (lambda g, b, seed=0: multi_order_interaction(g, (0, 9), b, seed), 2 + 6, 1),
    "all orders": (lambda g, b, seed=0: multi_order_interaction(g, range(19), b, seed), 19 + 21, 1),
    "contexts": (lambda g, b, seed=0: interaction_matrix(g, b, seed, method="contexts"), 190 + 3 * 20 + 2, 2),
    "regression": (lambda g, b, seed=0: interaction_matrix(g, b, seed, method="regression"), 190 + 3 * 20 + 2, 2),
    "default": (lambda g, b, seed=0: interaction_matrix(g, b, seed), 190 + 3 * 20 + 2, 2),
    "pairs": (lambda g, b, seed=0: interaction_matrix(g, b, seed, pairs=THREE), 1 + 5 + 3, 1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_evaluations_are_counted_and_within_the_budget(name):
    function, least, calls = FUNCTIONS[name]
    for budget in (least, least + 1, 2 * least + 1, 2000, 5003):
        game = Counted(wave(20))
        found = function(game, budget, seed=budget)
        assert sum(map(len, game.calls)) == found.evaluations <= budget
        assert len(game.calls) == calls
        assert all(len(call.unique(dim=0)) == len(call) for call in game.calls)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_budgets_below_one_estimate_are_refused(name):
    function, least, _ = FUNCTIONS[name]
    with pytest.raises(ValueError, match=rf"budget={least - 1} .* {least} evaluations"):
        function(wave(20), least - 1)
    for budget in (0, -3, 2.5):
        with pytest.raises(ValueError, match="budget"):
            function(wave(20), budget)


@pytest.mark.parametrize("name", FUNCTIONS.keys() - {"regression"})
def test_a_single_sample_has_no_stderr(name):
    function, least, _ = FUNCTIONS[name]
    found = function(wave(20), least)
    chosen = {"contexts": upper, "default": upper, "pairs": lambda t: entries(t, THREE)}.get(name, lambda t: t)
    assert chosen(found.value).isfinite().all() and chosen(found.stderr).isnan().all()
    if chosen is upper:
        assert not found.stderr.diagonal(dim1=1, dim2=2).any()
    assert chosen(function(wave(20), 3 * least).stderr).isfinite().all()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_seed_decides_and_no_other_random_state_is_touched(name):
    function, least, _ = FUNCTIONS[name]
    before = torch.get_rng_state()
    first, again, other = (function(wave(20), 3 * least, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    for a, b, c in ((first.value, again.value, other.value), (first.stderr, again.stderr, other.stderr)):
        assert torch.equal(a.nan_to_num(), b.nan_to_num()) and not torch.equal(a.nan_to_num(), c.nan_to_num())


def test_the_budget_is_used_up_where_few_coalitions_recur():
    assert multi_order_interaction(wave(49), 24, 4003).evaluations == 4000
    assert shapley_values(wave(49), 4000).evaluations > 3600
    for method in ("contexts", "regression"):
        assert interaction_matrix(wave(49), 99 + 3 * 1226 + 1, method=method).evaluations > 3500
    assert interaction_matrix(wave(49), 4000, pairs=neighbours(7)).evaluations > 3500


def test_a_coalition_that_is_drawn_often_is_evaluated_once():
    game = random_game(5)
    assert multi_order_interaction(game, range(4), 10_000).evaluations == 2**5
    assert interaction_matrix(game, 10_000, pairs=torch.tensor([[0, 1]])).evaluations == 2**5
    assert interaction_matrix(game, 10_000, method="regression").evaluations == 2**5 - 1  # v(∅) is known


def test_orders_come_in_the_order_asked_for_and_one_alone_without_a_dimension():
    game = random_game(7)
    forth, back = (multi_order_interaction(game, orders, 80, seed=3) for orders in ((1, 4), (4, 1)))
    torch.testing.assert_close(forth.value, back.value.flip(1), rtol=0, atol=0)
    torch.testing.assert_close(forth.stderr, back.stderr.flip(1), rtol=0, atol=0)
    alone, listed = multi_order_interaction(game, 4, 80, seed=3), multi_order_interaction(game, [4], 80, seed=3)
    assert alone.value.shape == alone.stderr.shape == (2,) and torch.equal(alone.value[:, None], listed.value)
    assert torch.equal(alone.stderr[:, None], listed.stderr)


@pytest.mark.parametrize(("order", "message"), [(6, "order=6.*n − 2 = 5"), ((0, 6), "order=6"), (-1, "order"), ((2, -1), "order"), (1.5, "order")])
def test_orders_without_a_context_are_refused(order, message):
    with pytest.raises(ValueError, match=message):
        multi_order_interaction(random_game(7), order, 1000)


def test_a_single_unit_has_no_pair():
    for function in (lambda g: multi_order_interaction(g, 0, 100), lambda g: interaction_matrix(g, 100)):
        with pytest.raises(ValueError, match="two units"):
            function(random_game(1))


@pytest.mark.parametrize("pairs", [[[0, 7]], [[-1, 3]], [[0, 1], [2, 2]]])
def test_pairs_that_are_not_two_units_of_the_game_are_refused(pairs):
    with pytest.raises(ValueError, match="two different units in 0 … 6"):
        interaction_matrix(random_game(7), 100, pairs=torch.tensor(pairs))


@pytest.mark.parametrize(
    "pairs",
    [[[0, 1]], torch.tensor([[0, 1]]).int(), torch.tensor([[0.0, 1.0]]), torch.tensor([0, 1]), torch.tensor([[0, 1, 2]]), torch.zeros(0, 2).long()],
)
def test_pairs_of_another_type_or_shape_are_refused(pairs):
    with pytest.raises(TypeError, match=r"int64 tensor \(k, 2\)"):
        interaction_matrix(random_game(7), 100, pairs=pairs)


def test_an_unknown_method_is_refused_with_the_nearest_known():
    with pytest.raises(ValueError, match="unknown method 'regresion'; did you mean 'regression'"):
        interaction_matrix(random_game(7), 100, method="regresion")


def test_the_regression_needs_four_units_and_two_coalitions_a_fold():
    with pytest.raises(ValueError, match="n ≥ 4"):
        interaction_matrix(random_game(3), 1000, method="regression")
    with pytest.raises(ValueError, match="at least 31, .*30"):
        interaction_matrix(random_game(5), 30, method="regression")
    assert upper(interaction_matrix(random_game(5), 31, method="regression").stderr).isfinite().all()
    assert upper(interaction_matrix(random_game(4), 100, method="regression").value).isfinite().all()


def test_the_better_method_for_the_budget_is_the_default():
    n, game = 10, random_game(10)
    border, context = 2 * n + 1, 1 + n + n * (n - 1) // 2
    threshold = border + sampled.CONTEXTS_FOR_REGRESSION * context
    assert threshold < 2**n  # where both methods would sample
    for budget, better, worse in ((threshold - 1, "contexts", "regression"), (threshold, "regression", "contexts")):
        default, same, other = (interaction_matrix(game, budget, 3, method=method) for method in (None, better, worse))
        assert torch.equal(default.value, same.value) and torch.equal(default.stderr, same.stderr)
        assert default.evaluations == same.evaluations
        assert not torch.equal(default.value, other.value)


@pytest.mark.parametrize("grid", [1, 2, 3, 5])
def test_neighbours_share_an_edge(grid):
    cells = list(itertools.product(range(grid), repeat=2))
    expected = {
        (a, b)
        for (a, (r, c)), (b, (q, d)) in itertools.combinations(enumerate(cells), 2)
        if abs(r - q) + abs(c - d) == 1
    }  # fmt: skip
    found = neighbours(grid)
    assert found.dtype == torch.int64 and found.shape == (2 * grid * (grid - 1), 2)
    assert {tuple(sorted(pair)) for pair in found.tolist()} == expected
    for unit in range(grid * grid):
        of_one = neighbours(grid, unit).tolist()
        assert {tuple(sorted(pair)) for pair in of_one} == {pair for pair in expected if unit in pair}
        assert len(of_one) == sum(0 <= unit // grid + r < grid and 0 <= unit % grid + c < grid for r, c in ((0, 1), (0, -1), (1, 0), (-1, 0)))


def test_corner_edge_and_inner_cells_have_two_three_and_four_neighbours():
    assert [len(neighbours(4, unit)) for unit in (0, 3, 12, 15, 1, 8, 14, 5, 10)] == [2, 2, 2, 2, 3, 3, 3, 4, 4]
    game = random_game(9)
    found = interaction_matrix(game, 500, pairs=neighbours(3, 4)).value
    assert found[0, 4].isfinite().nonzero()[:, 0].tolist() == [1, 3, 4, 5, 7]


def weight(n, k, present):
    """w_ab(S) for a coalition of k units with ``present`` of the pair in it, by factorials."""
    s = k - present
    return (-1) ** present * factorial(s) * factorial(n - s - 2) / factorial(n - 1)


def test_the_weights_over_the_probabilities_are_those_of_eq_6():
    n = 6
    sizes, p = regression.interior_sizes(n)
    assert sizes.tolist() == [2, 3, 4]
    raw = [1 / (k * (n - k)) for k in (2, 3, 4)]
    torch.testing.assert_close(p, torch.tensor([r / sum(raw) for r in raw], dtype=torch.float64))
    for k, probability in zip((2, 3, 4), p, strict=True):
        for S in itertools.combinations(range(n), k):
            c = torch.zeros(1, n, dtype=torch.float64)
            c[0, list(S)] = 1
            mean, square = regression._weighted(c, probability[None], torch.tensor([1.7], dtype=torch.float64))
            for a, b in itertools.combinations(range(n), 2):
                expected = 1.7 * weight(n, k, (a in S) + (b in S)) * comb(n, k) / probability.item()
                assert mean[a, b].item() == pytest.approx(expected, rel=1e-12)
                assert square[a, b].item() == pytest.approx(expected**2, rel=1e-12)
                assert mean[b, a] == mean[a, b] and square[b, a] == square[a, b]


def test_rows_are_averaged_in_the_weighted_mean_and_in_its_square():
    c, p, r = (normal(9, 6) > 0).double(), normal(9, seed=1).abs() + 0.1, normal(9, seed=2)
    c[:, :2], c[:, 2:4] = 1, 0  # no empty, no full coalition
    each = [regression._weighted(c[i : i + 1], p[i : i + 1], r[i : i + 1]) for i in range(9)]
    mean, square = regression._weighted(c, p, r)
    torch.testing.assert_close(upper(mean), upper(torch.stack([m for m, _ in each]).mean(0)))
    torch.testing.assert_close(upper(square), upper(torch.stack([s for _, s in each]).mean(0)))


@pytest.mark.parametrize("n", [4, 5, 6])
def test_the_border_and_the_expected_weighted_part_are_the_sum_over_all_coalitions(n):
    v = normal(2**n, seed=n)  # v(∅) is not 0 here
    coalitions = (torch.arange(2**n)[:, None] >> torch.arange(n) & 1).double()
    even = (v + v.flip(0)) / 2  # coalition 2ⁿ − 1 − S is the complement of S
    size, p = coalitions.sum(1).long(), regression.interior_sizes(n)[1]
    border = regression._border(even[[2**n - 1] + [1 << a for a in range(n)]])
    inner = torch.zeros(n, n, dtype=torch.float64)
    for S in range(2**n):
        k = int(size[S])
        if 2 <= k <= n - 2:
            inner += p[k - 2] / comb(n, k) * regression._weighted(coalitions[S : S + 1], p[k - 2 : k - 1], even[S : S + 1])[0]
    for a, b in itertools.combinations(range(n), 2):
        part = [weight(n, int(size[S]), (S >> a & 1) + (S >> b & 1)) * v[S].item() for S in range(2**n)]
        ends = sum(w for S, w in enumerate(part) if size[S] in (0, 1, n - 1, n))
        assert border[a, b].item() == pytest.approx(ends, abs=1e-12)
        assert (border + inner)[a, b].item() == pytest.approx(sum(part), abs=1e-12)


@pytest.mark.parametrize("rows", [8, 60])
def test_the_fit_solves_the_ridge_normal_equations(rows, monkeypatch):
    """Over the distinct pairs and the diagonal, whose entries are alike: the ridge is on the sum of the squares of M's n² entries."""
    n, (a, b) = 6, torch.triu_indices(6, 6, 1)
    z, e = torch.where(normal(rows, n) > 0, 1.0, -1.0).double(), normal(rows, seed=1)
    features = torch.cat([torch.full((rows, 1), float(n)).double(), 2 * z[:, a] * z[:, b]], 1)
    ridge = regression.RIDGE * rows * torch.tensor([n] + [2] * len(a), dtype=torch.float64)
    solution = torch.linalg.solve(features.T @ features + ridge.diag(), features.T @ e)
    expected = solution[0] * torch.eye(n, dtype=torch.float64)
    expected[a, b] = expected[b, a] = solution[1:]
    close = regression.quadratic_fit(z, e)
    assert (close - expected).norm() < 0.01 * expected.norm()
    monkeypatch.setattr(regression, "ITERATIONS", 40)
    torch.testing.assert_close(regression.quadratic_fit(z, e), expected, rtol=0, atol=1e-10)


def test_nothing_to_fit_gives_nothing():
    z = torch.where(normal(12, 5) > 0, 1.0, -1.0).double()
    assert not regression.quadratic_fit(z, torch.zeros(12).double()).any()
    found = interaction_matrix(FormulaGame(9, lambda c: 0 * c.sum(1)), 500, method="regression")
    assert not found.value.any() and not found.stderr.any()


def test_the_interaction_of_an_order_is_the_mean_over_its_contexts():
    game = random_game(5)
    for s in range(4):
        torch.testing.assert_close(interactions.interaction_matrix(game, order=s), by_order(game)[s], rtol=0, atol=1e-13)


@pytest.mark.parametrize("n", [2, 5, 8, 10])
def test_theorem_1_splits_the_reward_over_the_orders(n):
    game = random_game(n)
    matrices = torch.stack([interactions.interaction_matrix(game, order=s) for s in range(n - 1)])
    torch.testing.assert_close(matrices.mean(0), interactions.interaction_matrix(game), rtol=0, atol=1e-12)

    alone = game(torch.eye(n, dtype=torch.bool)).sum(1)
    s = torch.arange(n - 1).double()
    pairwise = matrices.sum((2, 3)) / (n * (n - 1))
    reward = game(torch.ones(1, n, dtype=torch.bool))[:, 0]
    torch.testing.assert_close(reward, alone + (n - 1 - s) @ pairwise, rtol=0, atol=1e-9)
    assert ((alone + (n - s) @ pairwise - reward).abs() > 1e-3).all()
    if n > 3:  # of up to three units each context is the only one of its size, and its sum is the mean
        contexts = torch.tensor([comb(n - 2, int(k)) for k in s], dtype=torch.float64)
        assert ((alone + (n - 1 - s) * contexts @ pairwise - reward).abs() > 1e-3).all()


def test_theorem_1_holds_for_sampled_orders_of_49_units_under_attack():
    model = irlib.load_model("fmnist-mlp")
    x, y = irlib.load_images("fashion-mnist", n=1)
    attack = irlib.create_attack("pgd", model, eps=16 / 255, alpha=2 / 255, steps=10)
    game, n = AttackGame(model, x, attack(x, y) - x, y, grid=7), 49
    found = [multi_order_interaction(game, s, 2000, seed=s) for s in range(n - 1)]  # a seed each: together they would telescope
    order, stderr = (torch.stack([getattr(f, part)[0] for f in found]) for part in ("value", "stderr"))
    s = torch.arange(n - 1).double()
    rest = (game(torch.ones(1, n, dtype=torch.bool))[0] - game(torch.eye(n, dtype=torch.bool))[0].sum()).item()

    def away(factor):
        """How many standard errors Σ factor·I^(s) lies from v(Ω) − Σ v(a)."""
        return abs(factor @ order - rest) / (factor * stderr).square().sum().sqrt()

    contexts = torch.tensor([comb(n - 2, int(k)) for k in s], dtype=torch.float64)
    assert away(n - 1 - s) < 4
    assert away(n - s) > 5
    assert away((n - 1 - s) * contexts) > 5  # the sum over contexts that Eq. 7 prints


def test_what_has_no_sample_is_refused_by_name():
    game = random_game(5)
    with pytest.raises(ValueError, match="order is empty"):
        sampled.multi_order_interaction(game, [], 100)
    with pytest.raises(ValueError, match="the regression is for all pairs"):
        sampled.interaction_matrix(game, 100, pairs=torch.tensor([[0, 1]]), method="regression")
    with pytest.raises(ValueError, match="budget=1 is too small"):
        sampled.shapley_values(random_game(1), 1)
    with pytest.raises(ValueError, match="budget must be a whole number"):
        sampled.multi_order_interaction(game, 1, 100.5)


def test_a_budget_may_be_a_whole_float():
    game = random_game(5)
    assert torch.equal(sampled.multi_order_interaction(game, 1, 1e3).value, sampled.multi_order_interaction(game, 1, 1000).value)


def test_two_units_have_the_one_interaction_of_eq_12():
    game = random_game(2)
    found = sampled.interaction_matrix(game, 100, method="contexts")
    torch.testing.assert_close(found.value, interactions.interaction_matrix(game), rtol=0, atol=1e-12)


def test_turned_permutations_are_better_than_more_of_them():
    """Of a game in which a late unit adds less; both spend the whole budget, and neither is wrong on average."""
    game, budget = random_game(9, seed=3), 400
    game.values += 3 * torch.linspace(0, 1, 2**9).pow(0.3)
    truth = irlib.shapley_values(game)

    def error(turns, monkeypatch):
        monkeypatch.setattr(sampled, "TURNS", turns)
        return torch.stack([sampled.shapley_values(game, budget, seed).value - truth for seed in range(60)]).square().mean().sqrt()

    with pytest.MonkeyPatch.context() as monkeypatch:
        assert error(4, monkeypatch) < 0.9 * error(1, monkeypatch)
