"""The theory sweep of the chapter on FI: a game whose units are kept at random, order by order; and the linear piece that FI climbs."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.stats import binom
from torch import Tensor, nn

from irlib import AttackGame, create_attack
from irlib.data import FASHION_CLASSES
from irlib.game import TableGame
from irlib.shapley import coalition_table
from irlib.widgets.orders import mean_over_pairs, order_matrices
from irlib.widgets.sweep import Param, Sweep, Table, bars, grey_frames, grey_picture, lines, path, perturbation_frames, picture

KEEPS = (1.0, 0.9, 0.8, 0.7, 0.5, 0.3, 0.1)
ATTACKS = ("pgd", "fi")
GRID = 3


def masked_values(values: Tensor, keep: float) -> Tensor:
    """float64 (…, 2ⁿ): E v(S ∩ M) for every coalition S, where the random M keeps each unit with probability ``keep``, from v's own (…, 2ⁿ)."""
    masked = torch.as_tensor(values).double()
    everyone = torch.arange(masked.shape[-1])
    for unit in range(masked.shape[-1].bit_length() - 1):
        masked = keep * masked + (1 - keep) * masked[..., everyone & ~(1 << unit)]  # the unit is there, or it is masked away
    return masked


def mixture(n: int, keep: float) -> np.ndarray:
    """float64 (n−1, n−1): the weight of the game's order t (column) in the masked game's order s (row), keep²·P(Bin(s, keep) = t)."""
    orders = np.arange(n - 1)
    return keep**2 * binom.pmf(orders[None, :], orders[:, None], keep)


def order_weights(n: int, keep: float) -> np.ndarray:
    """float64 (n−1,): w_t = keep·P(Bin(n−1, keep) > t), what the game's order t counts for in the masked game's I_ab = Σ_t w_t I_ab^(t) / (n−1)."""
    return keep * binom.sf(np.arange(n - 1), n - 1, keep)


def feature_importance(model: nn.Module, x: Tensor, y: Tensor, keeps: Sequence[float] = KEEPS) -> Sweep:
    """Sliders for the probability q that a unit is kept, the attack (PGD, FI) and the image: a masked game's interactions by order.

    Args:
        model: a source in eval mode that FI has a layer for.
        x: images (k, 1, height, width).
        y: their labels.
    """

    def compute(q: list[float], made_by: list[float], pictured: list[float]) -> dict[str, Table]:
        return masked_tables(model, x[pictured], y[pictured], [ATTACKS[int(k)] for k in made_by], q)

    units = GRID**2
    return Sweep(
        "fi",
        "A game with units masked at random, order by order",
        [
            Param("q", "unit kept with probability q", keeps),
            Param("made_by", "perturbation of", range(len(ATTACKS)), lambda k: ATTACKS[int(k)].upper()),
            Param("pictured", "image", range(len(x)), lambda i: FASHION_CLASSES[y[int(i)]]),
        ],
        compute,
        [
            grey_picture("image", "original"),
            picture("δ", "delta"),
            bars("what each order counts for in the masked interaction", "weights", [str(t) for t in range(units - 1)], token="theory"),
            path(
                "mean interaction of each order, as a share of the largest",
                {"whole game": ("whole_orders", "measured", None), "masked game, divided by q²": ("masked_orders", "objective", "6 4")},
                xs="order",
                xlabel="order: units in the context",
                low=-1,
                high=1,
            ),
            lines(
                "total interaction of the masked game, as a share of the whole game’s",
                {"masked": ("share_curve", "objective", None), "q², if all orders were equal": ("square_curve", "theory", "2 3")},
                cursor="q",
                xlabel="q",
            ),
        ],
        {
            "total interaction, whole": ("total", ""),
            "total interaction, masked": ("masked_total", ""),
            "share": ("share", " %"),
            "q²": ("square", " %"),
            "weight on orders 0 to 3": ("low", " %"),
        },
        start={"q": 0.7, "made_by": 0, "pictured": 0},
        caption="Each unit kept with probability {q}: the expected total interaction is {masked_total}, {share} of the whole game’s {total}; "
        "{square} if all orders were equal. The lower half of the orders has {low} of the weight.",
    )


def masked_tables(model: nn.Module, x: Tensor, y: Tensor, attacks: Sequence[str], keeps: Sequence[float]) -> dict[str, Table]:
    """The tables of `feature_importance` over q × made_by × pictured, for 3×3 units and ε = 16/255, from each game's 512 coalitions.

    total and masked_total are Σ_{a≠b} I_ab of the game and of the masked game; low is the share of the lower half of the orders in the weights of
    `order_weights`, in percent.
    """
    over, games = ("q", "made_by", "pictured"), ("made_by", "pictured")
    n = GRID**2
    deltas = torch.stack([(create_attack(name, model)(x, y) - x).detach() for name in attacks])
    alone = [AttackGame(model, x[i : i + 1], d[i : i + 1], y[i : i + 1], grid=GRID) for d in deltas for i in range(len(x))]
    values = torch.cat([coalition_table(game)[1] for game in alone]).unflatten(0, (len(attacks), len(x)))
    each = mean_over_pairs(torch.stack([order_matrices(TableGame(v)) for v in values])).numpy()  # (made_by, pictured, order)
    total = n * each.sum(-1)  # n(n−1) pairs, each the mean of n−1 orders
    mixed = np.stack([each @ mixture(n, q).T for q in keeps])
    masked_total = n * mixed.sum(-1)
    weights = np.stack([order_weights(n, q) for q in keeps])
    squares = np.square(keeps)
    largest = np.abs(each).max(-1, keepdims=True)
    low = 100 * weights[:, : (n - 1) // 2].sum(-1) / weights.sum(-1)
    return {
        "total": Table(total, games),
        "masked_total": Table(masked_total, over),
        "share": Table(100 * masked_total / total, over),
        "square": Table(100 * squares, ("q",)),
        "low": Table(low, ("q",)),
        "weights": Table(weights, ("q",)),
        "order": Table(np.arange(n - 1)),
        "whole_orders": Table(each / largest, games),
        "masked_orders": Table(mixed / squares[:, None, None, None] / largest, over),
        "share_curve": Table(np.moveaxis(masked_total / total, 0, -1), games),
        "square_curve": Table(squares),
        "original": Table(grey_frames(x), ("pictured",)),
        **perturbation_frames("delta", deltas[:, :, 0].numpy(), games),
    }
