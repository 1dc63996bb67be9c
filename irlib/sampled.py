"""Shapley values and interactions of any number of units, estimated from sampled coalitions: unbiased, with standard errors.

Three estimators, each where it measured best at equal evaluations (`python -m irlib.bench interactions` compares them):

* chains, for Shapley values and orders: the prefixes of a random permutation, shared by all units and all orders;
* contexts, for chosen pairs and for all pairs on a small budget: a coalition C of uniformly drawn size, each unit toggled, each pair toggled.
  Whether a and b are in C or not, C∖{a, b} is then a context of the distribution of Eq. 6, so one C serves every pair;
* regression, for all pairs on a larger budget: a quadratic game is fitted to complementary coalitions, and what it misses is estimated without
  bias from coalitions that it was not fitted to.

The coalitions are those of the seed and the budget alone: the images of a game share them. Differences between perturbations are then sharper, but
the errors of several images are correlated: give each its own game and seed where errors are to average out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from irlib import _check
from irlib import interactions as exact
from irlib.game import Game
from irlib.regression import FOLDS, all_pairs, interior_sizes
from irlib.shapley import MAX_PLAYERS
from irlib.shapley import shapley_values as exact_shapley_values

TURNS = 4
CONTEXTS_FOR_REGRESSION = 12  # from a budget of so many contexts on, the regression is the better one for all pairs


@dataclass(frozen=True)
class Estimate:
    """An unbiased estimate: ``value``, its standard error ``stderr`` (of the same shape; NaN from a single sample), both float64, and how many
    coalitions were evaluated, for each image."""

    value: Tensor
    stderr: Tensor
    evaluations: int


def shapley_values(game: Game, budget: int, seed: int = 0) -> Estimate:
    """(batch, n): φ(a) of every unit (Eq. 4), the mean contribution over random permutations. The values sum to v(Ω) exactly.

    With a permutation come its reverse, which makes the estimate exact for quadratic games, and, as far as the budget goes, its turns by quarters:
    each unit is then met early, late and in between, which on networks took away a quarter to two thirds of the error. Exact where the budget
    holds all 2ⁿ coalitions. Raises ValueError for one below 2n − 1, a permutation and its reverse.
    """
    if _all_fit(game.n, budget):
        return _without_error(exact_shapley_values(game), game)
    n, pair = game.n, 2 * (game.n - 1)
    count = (_enough(budget, max(2, pair + 1), "one permutation and its reverse") - 1) // pair
    turns = max(1, min(TURNS, count // 2))
    rank = torch.rand(count // turns, 1, n, generator=_generator(seed)).argsort(2)
    rank = (rank + torch.arange(turns)[:, None] * n // turns) % n
    rank = torch.stack([rank, n - 1 - rank], 2)  # (drawn, turns, 2, n): each unit's place in each order
    inside = rank[..., None, :] <= torch.arange(n - 1)[:, None]  # the prefixes of 1 … n − 1 units
    v, evaluations = _evaluated(game, torch.cat([torch.ones(1, n, dtype=torch.bool), inside.flatten(0, 3)]))
    prefixes = v[:, 1:].unflatten(1, inside.shape[:-1])
    full = v[:, :1, None, None, None].expand(*prefixes.shape[:-1], 1)
    gained = torch.cat([torch.zeros_like(full), prefixes, full], 4).diff(dim=4)
    return _mean(gained.gather(4, rank.to(v.device).expand(len(v), -1, -1, -1, -1)).mean((2, 3)), 1, evaluations)


def multi_order_interaction(game: Game, order: int | Sequence[int], budget: int, seed: int = 0) -> Estimate:
    """(batch,), or (batch, orders) for a sequence: I^(s), the mean over pairs of the interaction in contexts of s = ``order`` units.

    I_ab^(s) is the mean of v(S∪ab) − v(S∪a) − v(S∪b) + v(S) over |S| = s (Eq. 7, as a mean: its sum is a misprint). The contexts are prefixes of
    random permutations, each followed by its next two units in both orders, so neighbouring orders share coalitions.

    Raises ValueError for n < 2, an order outside 0 … n − 2, or a budget below one permutation's coalitions.
    """
    exact.at_least_a_pair(game)
    orders = torch.atleast_1d(torch.as_tensor(order))
    if len(orders) == 0:
        raise ValueError(f"order is empty: name an order or several of 0 … {game.n - 2}")
    for s in orders.tolist():
        exact.check_order(s, game.n)
    n = game.n
    sizes = torch.unique(torch.cat([orders, orders + 1, orders + 2]))
    cost = len(orders) + len(sizes)
    rank = torch.rand(_enough(budget, cost, "one permutation") // cost, n, generator=_generator(seed)).argsort(1)
    prefixes = rank[:, None] < sizes[:, None]
    swapped = (rank[:, None] < orders[:, None]) | (rank[:, None] == orders[:, None] + 1)
    v, evaluations = _evaluated(game, torch.cat([prefixes, swapped], 1).flatten(0, 1))
    v = v.view(-1, len(rank), cost)
    at = lambda k: v[:, :, torch.searchsorted(sizes, orders + k)]
    found = _mean(at(2) - at(1) - v[:, :, len(sizes) :] + at(0), 1, evaluations)
    return found if torch.as_tensor(order).ndim else Estimate(found.value[:, 0], found.stderr[:, 0], evaluations)


def interaction_matrix(game: Game, budget: int, seed: int = 0, pairs: Tensor | None = None, method: str | None = None) -> Estimate:
    """(batch, n, n): I_ab of every pair, or of the chosen ``pairs`` alone, int64 (k, 2), the others NaN; the diagonal is zero.

    All pairs take n(n−1)/2 + 3n + 2 evaluations at least. The row sums Σ_b I_ab, known exactly from 2n + 2 of them (Eq. 12), are kept.
    Chosen pairs on u units take 1 + u + k. See `neighbours` for the pairs of a heatmap.

    Args:
        method: "contexts" or "regression" (all pairs only). By default enumeration where the budget holds all 2ⁿ coalitions, contexts below
            a dozen of them, then the regression, which measures better on networks; of a quadratic game each context is exact, and the regression
            is not. The regression's folds share coalitions: with few of them its stderr is up to a fifth too small.

    Raises ValueError for n < 2, pairs that are not pairs of units, an unknown method, or a budget too small for one estimate of each.
    """
    exact.at_least_a_pair(game)
    if method not in (None, "contexts", "regression"):
        _check.unknown_name("method", method, ("contexts", "regression"))
    n = game.n
    if pairs is not None:
        if method == "regression":
            raise ValueError("the regression is for all pairs: chosen pairs are estimated from contexts, leave method out")
        return _chosen(game, budget, seed, _distinct(pairs, n))
    if _all_fit(n, budget) and method is None:
        return _without_error(exact.interaction_matrix(game), game)
    ab = torch.triu_indices(n, n, 1)
    border, context = 2 * n + 1, 1 + n + ab.shape[1]
    budget = _enough(budget, border + context, "one sample of every pair")
    full, single = torch.ones(1, n, dtype=torch.bool), torch.eye(n, dtype=torch.bool)
    _check.one_utility(game)
    v = game(torch.cat([full, single, ~single]))
    rows = v[:, :1] - v[:, 1 : n + 1] - v[:, n + 1 :]
    if method == "regression" or (method is None and budget - border >= CONTEXTS_FOR_REGRESSION * context):
        found = _regression(game, ab, v, budget - border, seed)
    else:
        each, evaluations = _contexts(game, ab, (budget - border) // context, seed)
        found = _mean(_with_rows(each, ab, rows), 1, evaluations)
    return _matrix(found, ab, n, border)


def neighbours(grid: int, unit: int | None = None) -> Tensor:
    """int64 (k, 2): the pairs of cells that share an edge on a grid of grid × grid, or those of one ``unit``."""
    cell = torch.arange(grid * grid).view(grid, grid)
    beside = torch.stack([cell[:, :-1].flatten(), cell[:, 1:].flatten()], 1)
    above = torch.stack([cell[:-1].flatten(), cell[1:].flatten()], 1)
    found = torch.cat([beside, above])
    return found if unit is None else found[(found == unit).any(1)]


def _chosen(game: Game, budget: int, seed: int, pairs: Tensor) -> Estimate:
    cost = 1 + len(pairs.unique()) + len(pairs)
    each, evaluations = _contexts(game, pairs.T, _enough(budget, cost, "one sample of each pair") // cost, seed)
    return _matrix(_mean(each, 1, evaluations), pairs.T, game.n)


def _contexts(game: Game, ab: Tensor, count: int, seed: int) -> tuple[Tensor, int]:
    """(batch, count, pairs): ±[v(C△ab) − v(C△a) − v(C△b) + v(C)], the second difference around ``count`` coalitions C; and the evaluations."""
    n, generator = game.n, _generator(seed)
    size = torch.randint(n + 1, (count, 1), generator=generator)
    C = torch.rand(count, n, generator=generator).argsort(1).argsort(1) < size
    units, place = ab.unique(return_inverse=True)
    unit = torch.eye(n, dtype=torch.bool)
    toggles = torch.cat([torch.zeros(1, n, dtype=torch.bool), unit[units], unit[ab[0]] ^ unit[ab[1]]])
    v, evaluations = _evaluated(game, (C[:, None] ^ toggles).flatten(0, 1))
    v = v.view(len(v), count, -1)
    one, both = v[:, :, 1 : 1 + len(units)], v[:, :, 1 + len(units) :]
    sign = torch.where(C[:, ab[0]] == C[:, ab[1]], 1.0, -1.0).to(v)
    return sign * (both - one[:, :, place[0]] - one[:, :, place[1]] + v[:, :, :1]), evaluations


def _regression(game: Game, ab: Tensor, border: Tensor, budget: int, seed: int) -> Estimate:
    """All pairs, from v of Ω, of each single unit and of each unit's absence (batch, 2n + 1), and ``budget`` coalitions more."""
    n, generator = game.n, _generator(seed)
    if n < 4 or budget < 4 * FOLDS:
        raise ValueError(f"the regression needs n ≥ 4 and a budget of at least {2 * n + 1 + 4 * FOLDS}, got n={n} and {2 * n + 1 + budget}")
    sizes, p = interior_sizes(n)
    place = torch.multinomial(p, budget // 2, replacement=True, generator=generator)
    C = torch.rand(budget // 2, n, generator=generator).argsort(1).argsort(1) < sizes[place, None]
    v, evaluations = _evaluated(game, torch.stack([C, ~C], 1).flatten(0, 1))
    even = v.view(len(v), -1, 2).mean(2)
    ends = torch.cat([border[:, :1], border[:, 1 : n + 1] + border[:, n + 1 :]], 1) / 2
    found = [all_pairs(C.to(v.device), e, p[place].to(v.device), b) for e, b in zip(even, ends, strict=True)]
    value, variance = (torch.stack(part) for part in zip(*found, strict=True))
    return Estimate(value[:, ab[0], ab[1]], variance[:, ab[0], ab[1]].sqrt(), evaluations)


def _with_rows(each: Tensor, ab: Tensor, rows: Tensor) -> Tensor:
    """The interactions ``each`` (batch, count, pairs) changed least (in the sum of squares) so that each unit's sum to ``rows`` (batch, n)."""
    n = rows.shape[1]
    found = torch.zeros(*each.shape[:2], n).to(each)
    for unit in ab:
        found.index_add_(2, unit.to(each.device), each)
    missing = rows[:, None] - found
    level = missing.mean(2, keepdim=True)
    share = (missing - level) / max(n - 2, 1) + level / (2 * (n - 1))
    return each + share[:, :, ab[0]] + share[:, :, ab[1]]


def _matrix(found: Estimate, ab: Tensor, n: int, evaluations: int = 0) -> Estimate:
    """Pairs (batch, k) as symmetric matrices: NaN where nothing was sampled, a diagonal of zeros. ``evaluations`` more are counted."""

    def square(part: Tensor) -> Tensor:
        whole = torch.full((len(part), n, n), torch.nan).to(part)
        whole[:, ab[0], ab[1]] = whole[:, ab[1], ab[0]] = part
        whole.diagonal(dim1=1, dim2=2).zero_()
        return whole

    return Estimate(square(found.value), square(found.stderr), found.evaluations + evaluations)


def _evaluated(game: Game, coalitions: Tensor) -> tuple[Tensor, int]:
    """v of each, evaluated once however often it was drawn, and how many there were."""
    _check.one_utility(game)
    unique, place = coalitions.unique(dim=0, return_inverse=True)
    return game(unique)[:, place], len(unique)


def _mean(each: Tensor, dim: int, evaluations: int) -> Estimate:
    count = each.shape[dim]
    spread = each.std(dim) if count > 1 else torch.full_like(each.mean(dim), torch.nan)
    return Estimate(each.mean(dim), spread / count**0.5, evaluations)


def _without_error(value: Tensor, game: Game) -> Estimate:
    return Estimate(value, torch.zeros_like(value), 2**game.n)


def _all_fit(n: int, budget: int) -> bool:
    return n <= MAX_PLAYERS and 2**n <= budget


def _enough(budget: int, least: int, what: str) -> int:
    """The budget, if it is a whole number of at least ``least``."""
    _check.at_least(budget, 1, "budget")
    if budget < least:
        raise ValueError(f"budget={budget} is too small for {what}, which takes {least} evaluations")
    return int(budget)


def _distinct(pairs: Tensor, n: int) -> Tensor:
    """The pairs, each once and in rising order; refuses what is not a pair of units."""
    if not isinstance(pairs, Tensor) or pairs.dtype != torch.int64 or pairs.ndim != 2 or pairs.shape[1] != 2 or len(pairs) == 0:
        raise TypeError(f"pairs must be an int64 tensor (k, 2) of units, got {_check.described(pairs)}")
    if int(pairs.min()) < 0 or int(pairs.max()) >= n or (pairs[:, 0] == pairs[:, 1]).any():
        raise ValueError(f"pairs must be of two different units in 0 … {n - 1}, got {pairs.tolist()[:8]}")
    return pairs.sort(1).values.unique(dim=0)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
