"""Shapley interactions between pairs of units: all of them by enumeration (Eq. 5–6), their sum by 2n+2 evaluations (Eq. 12)."""

import torch
from torch import Tensor

from irlib import _check
from irlib.game import Game
from irlib.shapley import coalition_table, size_weights


def interaction_matrix(game: Game, order: int | None = None) -> Tensor:
    """float64 (batch, n, n): I_ab for every pair, exactly, from all 2ⁿ coalitions; the diagonal is zero.

    I_ab is the mean of v(S∪ab) − v(S∪a) − v(S∪b) + v(S) over contexts S, each size of S counting the same (Eq. 6; Eq. 4 of the appendix). With
    an ``order`` s in 0 … n − 2 it is I_ab^(s), the mean over contexts of s units alone (Eq. 7 as a mean: its sum is a misprint).
    Raises ValueError for n > 16, n < 2, or another order.
    """
    at_least_a_pair(game)
    if order is not None:
        check_order(order, game.n)
    coalitions, v = coalition_table(game)
    size = coalitions.sum(1)
    weight = size_weights(game.n, 2).to(v.device)
    if order is not None:
        weight = weight * (torch.arange(game.n - 1).to(v.device) == order) * (game.n - 1)
    inside = coalitions.double()
    outside = 1 - inside
    both, one, none = (weight[(size - k).clamp(0, game.n - 2)] for k in (2, 1, 0))  # the context of S, when k of the pair are in S

    def summed(left: Tensor, weighted: Tensor, right: Tensor) -> Tensor:
        return (left * weighted[:, None]).T @ right

    def matrix(u: Tensor) -> Tensor:
        mixed = summed(inside, u * one, outside)
        return summed(inside, u * both, inside) - mixed - mixed.T + summed(outside, u * none, outside)

    result = torch.stack([matrix(u) for u in v])
    result.diagonal(dim1=1, dim2=2).zero_()
    return result


def row_sums(game: Game) -> Tensor:
    """float64 (batch, n): each unit's part of the total, Σ_b I_ab = v(Ω) − v(Ω∖a) − v(a) + v(∅), the terms of Eq. 12; see `total_interaction`."""
    at_least_a_pair(game)
    single = torch.eye(game.n, dtype=torch.bool)
    v = game(torch.cat([torch.ones_like(single[:1]), ~single, single]))
    return v[:, :1] - v[:, 1 : game.n + 1] - v[:, game.n + 1 :]


def total_interaction(game: Game) -> Tensor:
    """float64 (batch,): Σ_{a≠b} I_ab over ordered pairs, by Eq. 12, Σ_a [v(Ω) − v(Ω∖a) − v(a) + v(∅)]: 2n+2 evaluations instead of 2ⁿ.

    Exact for any game (efficiency of the Shapley value, with one unit always present and always absent). Raises ValueError for n < 2.
    """
    return row_sums(game).sum(1)


def mean_interaction(game: Game) -> Tensor:
    """float64 (batch,): the mean I_ab over ordered pairs, `total_interaction` / n(n−1)."""
    return total_interaction(game) / (game.n * (game.n - 1))


def check_order(order: int, n: int) -> None:
    """A context of ``order`` units leaves two of n outside."""
    _check.at_least(order, 0, "order")
    if order > n - 2:
        raise ValueError(f"order={order} leaves no pair outside a context of {order} of {n} units: use at most n − 2 = {n - 2}")


def at_least_a_pair(game: Game) -> None:
    """The game has two units."""
    if game.n < 2:
        raise ValueError(f"an interaction needs two units, this game has {game.n}: use a grid of at least 2")
