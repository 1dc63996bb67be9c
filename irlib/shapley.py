"""Shapley values by enumeration (Eq. 4)."""

from math import comb

import torch
from torch import Tensor

from irlib import _check
from irlib.game import Game

MAX_PLAYERS = 16


def coalition_table(game: Game) -> tuple[Tensor, Tensor]:
    """(coalitions bool (2ⁿ, n), values float64 (batch, 2ⁿ)); unit a belongs to coalition number S where bit a of S is set.

    Raises ValueError for n > 16, whose 2ⁿ evaluations nobody waits for.
    """
    if game.n > MAX_PLAYERS:
        raise ValueError(
            f"enumeration takes 2^{game.n} coalitions for n={game.n} units; it is limited to n ≤ {MAX_PLAYERS}. Use a coarser grid, the sum over "
            "all pairs (irlib.total_interaction, 2n+2 evaluations), or the sampled form of the same name (irlib.sampled)"
        )
    _check.one_utility(game)
    coalitions = (torch.arange(2**game.n)[:, None] >> torch.arange(game.n) & 1).bool()
    values = game(coalitions)
    return coalitions.to(values.device), values


def size_weights(n: int, absent: int) -> Tensor:
    """float64: the probability of one coalition of s = 0 … n−absent units, when first s and then the coalition are drawn uniformly.

    It is s!(n−s−absent)!/(n−absent+1)!: Eq. 4 for one absent player, the interaction index (Eq. 4 of the appendix) for two.
    """
    m = n - absent
    return torch.tensor([1 / ((m + 1) * comb(m, s)) for s in range(m + 1)], dtype=torch.float64)


def shapley_values(game: Game) -> Tensor:
    """float64 (batch, n): φ(a) of every unit (Eq. 4), exactly, from all 2ⁿ coalitions.

    They share out the whole reward: their sum is v(Ω). Raises ValueError for n > 16.
    """
    coalitions, v = coalition_table(game)
    inside = coalitions.double()
    size = inside.sum(1).long()
    weight = size_weights(game.n, 1).to(v.device)
    joined, left_out = weight[(size - 1).clamp_min(0)], weight[size.clamp_max(game.n - 1)]
    return v * joined @ inside - v * left_out @ (1 - inside)
