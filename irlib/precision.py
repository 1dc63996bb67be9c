"""What a lower precision inside the network does to the total interaction."""

import torch
from torch import Tensor

from irlib import _check
from irlib.game import AttackGame
from irlib.interactions import at_least_a_pair


def precision_error(game: AttackGame, cells: int = 32, seed: int = 0) -> Tensor:
    """float64 (batch,): a bound on how far `irlib.total_interaction` is off for being computed in the game's ``precision``, at 95 %.

    The total is a sum over cells (Eq. 12). The difference that the precision makes is measured for ``cells`` of the n, drawn without replacement,
    in 2·(2·cells + 2) evaluations; the bound is its sum extrapolated, and two standard errors; with all n cells it is the difference itself.
    Compare it with the total: where it is above 1 %, leave the precision alone.

    Raises ValueError for a game of no lower precision, or fewer than two cells.
    """
    if game.precision is None:
        raise ValueError("the game computes in the model's own precision: make it with precision=torch.bfloat16 or torch.float16")
    _check.at_least(cells, 2, "cells")
    at_least_a_pair(game)
    _check.one_utility(game)
    n, cells = game.n, min(cells, game.n)
    grid = round(n**0.5)
    own = AttackGame(game.model, game.x, game.delta, game.y, grid, game.utility, game.chunk)
    chosen = torch.eye(n, dtype=torch.bool)[torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:cells]]
    coalitions = torch.cat([torch.ones(1, n, dtype=torch.bool), chosen, ~chosen])
    v = game(coalitions) - own(coalitions)
    each = v[:, :1] - v[:, 1 : cells + 1] - v[:, cells + 1 :]
    left_out = (1 - cells / n) ** 0.5
    return n * (each.mean(1).abs() + 2 * left_out * each.std(1) / cells**0.5)
