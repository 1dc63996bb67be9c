"""The sweep of the chapter on orders, Theorem 1 as a waterfall, and the study of which orders carry the interaction."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from irlib import AttackGame, Quadratic, create_attack, interaction_matrix, sampled
from irlib.data import FASHION_CLASSES
from irlib.game import Game, TableGame
from irlib.shapley import coalition_table
from irlib.widgets.sweep import Param, Sweep, Table, bars, grey_frames, grey_picture, path, perturbation_frames, picture, waterfall

GRID = 3
EPSILONS = (1, 4, 8, 16)  # in 1/255


def order_matrices(game: Game) -> Tensor:
    """float64 (batch, n−1, n, n): I_ab^(s) for every order s = 0 … n−2 (Eq. 7 as a mean), from one evaluation of all 2ⁿ coalitions.

    Raises ValueError for n > 16 or n < 2.
    """
    table = game if isinstance(game, TableGame) else _table(game)
    return torch.stack([interaction_matrix(table, order=s) for s in range(max(1, game.n - 1))], dim=1)


def _table(game: Game) -> TableGame:
    return TableGame(coalition_table(game)[1])


def mean_over_pairs(matrices: Tensor) -> Tensor:
    """The mean over ordered pairs a ≠ b of matrices (…, n, n) with a zero diagonal."""
    n = matrices.shape[-1]
    return matrices.sum((-2, -1)) / (n * (n - 1))


def mean_by_size(values: Tensor) -> Tensor:
    """float64 (…, n+1): the mean of v over the coalitions of 0, 1, … n units, from the values (…, 2ⁿ) of `coalition_table`."""
    n = values.shape[-1].bit_length() - 1
    size = (torch.arange(2**n)[:, None] >> torch.arange(n) & 1).sum(1)
    return torch.stack([values[..., size == k].mean(-1) for k in range(n + 1)], -1)


def end_orders(game: Game) -> Tensor:
    """float64 (batch, 2, n, n): I_ab^(0) and I_ab^(n−2), exactly for any n ≥ 2: each has one context only, ∅ and Ω∖ab; n² + n + 2 evaluations."""
    n = game.n
    single = torch.eye(n, dtype=torch.bool)
    a, b = torch.triu_indices(n, n, 1)
    low = torch.cat([torch.zeros(1, n, dtype=torch.bool), single, single[a] | single[b]])
    v = game(torch.cat([low, ~low])).unflatten(1, (2, -1))
    found = torch.zeros(len(v), 2, n, n, dtype=v.dtype, device=v.device)
    # the complement of one unit of the pair holds the other, so v(S∪a) + v(S∪b) is the same sum at both ends
    found[..., a, b] = found[..., b, a] = v[..., 1 + n :] - v[..., 1 + a] - v[..., 1 + b] + v[..., :1]
    return found


def orders(models: Mapping[str, nn.Module], x: Tensor, y: Tensor, epsilons: Sequence[float] = EPSILONS) -> Sweep:
    """Sliders for ε (in 1/255), network and image: the loss increase of a PGD perturbation, added up by Theorem 1 on a 3 × 3 grid.

    Args:
        models: sources in eval mode, by name.
        x: images (k, 1, height, width).
        y: their labels.
    """
    names = list(models)

    def compute(eps: list[float], network: list[int], image: list[int]) -> dict[str, Table]:
        return orders_tables([models[names[k]] for k in network], x[image], y[image], eps)

    labels = [str(s) for s in range(GRID**2 - 1)]
    return Sweep(
        "orders",
        "One loss increase, added up order by order",
        [
            Param("eps", "radius ε", epsilons, lambda e: f"{e:g}/255", open=True),
            Param("network", "network", range(len(names)), lambda k: names[int(k)]),
            Param("image", "image", range(len(x)), lambda i: FASHION_CLASSES[y[int(i)]]),
        ],
        compute,
        [
            grey_picture("image", "original"),
            picture("δ of PGD", "delta"),
            path(
                "mean v(S) by the size of S, as a share of |v(Ω)|",
                {"network": ("curve", "measured", None), "units that only add up": ("straight", "theory", "6 4")},
                xs="size",
                xlabel="units in S",
                low=-0.2,
                high=1.2,
            ),
            waterfall("loss increase: single units, then order by order", "parts", ["units", *labels], total="v(Ω)"),
            bars("mean |I⁽ˢ⁾| of each order s, the largest = 1", "magnitude", labels, token="measured"),
        ],
        {
            "loss increase v(Ω)": ("whole", ""),
            "single units Σ v({a})": ("single", ""),
            "orders 0 to 3": ("low", ""),
            "orders 4 to 7": ("high", ""),
            "mean I⁽⁰⁾": ("first", ""),
            "mean I⁽⁷⁾": ("last", ""),
        },
        start={"eps": 16, "network": 0, "image": 0},
        caption="{network}, {image}, at radius {eps}: the units alone add {single}, the orders 0 to 3 add {low}, the orders 4 to 7 add {high}; "
        "together {whole}, the loss increase that the network has.",
    )


def orders_tables(models: Sequence[nn.Module], x: Tensor, y: Tensor, epsilons: Sequence[float]) -> dict[str, Table]:
    """The tables of `orders` over ε × network × image.

    parts is Σ_a v({a}) and then (n−1−s) · mean I^(s) for each order s: what Theorem 1 adds up to v(Ω). whole is v(Ω) as measured. curve is the mean
    of v over coalitions of 0 … n units, straight what units would add that do not interact; both divided by |v(Ω)|.
    """
    over, n = ("eps", "network", "image"), GRID**2
    cells = [[_cell(model, x, y, eps) for model in models] for eps in epsilons]
    delta, values, matrices = (torch.stack([torch.stack([c[k] for c in row]) for row in cells]) for k in range(3))
    by_size, whole = mean_by_size(values), values[..., -1]
    single = n * by_size[..., 1]
    size = torch.arange(n + 1, dtype=torch.float64) / n
    scale = whole.abs().clamp_min(torch.finfo(torch.float64).tiny)[..., None]
    mean, magnitude = mean_over_pairs(matrices), mean_over_pairs(matrices.abs())
    added = mean * (n - 1 - torch.arange(n - 1))
    numbers = {
        "whole": whole,
        "single": single,
        "low": added[..., : (n - 1) // 2].sum(-1),
        "high": added[..., (n - 1) // 2 :].sum(-1),
        "first": mean[..., 0],
        "last": mean[..., -1],
        "parts": torch.cat([single[..., None], added], -1),
        "magnitude": magnitude / magnitude.amax(-1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny),
    }
    numbers |= {"curve": by_size / scale, "straight": single[..., None] * size / scale}
    return {
        "size": Table(np.arange(n + 1)),
        **{name: Table(value.numpy(), over) for name, value in numbers.items()},
        "original": Table(grey_frames(x), ("image",)),
        **perturbation_frames("delta", delta[..., 0, :, :].numpy(), over),
    }


def _cell(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """PGD's δ, v of every coalition, and all I_ab^(s), of a batch of images."""
    delta = pgd(model, x, y, eps)
    tables = [_table(AttackGame(model, x[i : i + 1], delta[i : i + 1], y[i : i + 1], grid=GRID)) for i in range(len(x))]
    return delta, torch.cat([t.values for t in tables]), torch.cat([order_matrices(t) for t in tables])


def pgd(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """The perturbation of ten PGD steps of ε/8, with ε in 1/255."""
    return (create_attack("pgd", model, eps=eps / 255, alpha=eps / 8 / 255, steps=10)(x, y) - x).detach()


def raw(model: nn.Module, x: Tensor, y: Tensor, strength: float) -> Tensor:
    """The perturbation of ten raw gradient steps of total strength βλ₁ = ``strength`` at each image."""
    top = [Quadratic.at(model, x[i : i + 1], y[i : i + 1]).eigenvalues[0] for i in range(len(x))]
    alpha = strength / 10 / torch.stack(top)
    return create_attack("pgd", model, norm="none", alpha=alpha, steps=10).run(x, y).delta


def study(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    epsilons: Sequence[float] = (1, 16),
    strength: float = 0.5,
    few: int = 8,
    fine: int = 7,
    sampled_orders: Sequence[int] = (0, 12, 24, 36, 47),
) -> dict:
    """What the chapter measures on one network, as lists for JSON.

    "pgd" has, for each ε of ``epsilons`` (in 1/255), the mean over pairs of I_ab^(s) and of |I_ab^(s)| of every image and order on the 3 × 3 grid,
    and v(Ω); "margin" the same for the margin at the last ε, "raw" for raw ascent of that ``strength``. "fine" has the first and the last order
    alone, at the last ε on a grid of ``fine`` a side, for the first ``few`` images; "sampled" estimates of the mean I^(s) there, with stderr.
    """

    def profile(matrices: Tensor) -> dict:
        return {"mean": mean_over_pairs(matrices).tolist(), "magnitude": mean_over_pairs(matrices.abs()).tolist()}

    def coarse(delta: Tensor, utility: str = "ce") -> dict:
        table = _table(AttackGame(model, x, delta, y, grid=GRID, utility=utility))
        return {**profile(order_matrices(table)), "whole": table.values[:, -1].tolist()}

    deltas = [pgd(model, x, y, eps) for eps in epsilons]
    # each image is a game of its own, sampled with its own seed, so that the errors of the images are independent
    games = [AttackGame(model, x[i : i + 1], deltas[-1][i : i + 1], y[i : i + 1], grid=fine) for i in range(min(few, len(x)))]
    estimates = [sampled.multi_order_interaction(game, sampled_orders, 1000, seed=i) for i, game in enumerate(games)]
    return {
        "pgd": [coarse(d) for d in deltas],
        "margin": coarse(deltas[-1], "margin"),
        "raw": coarse(raw(model, x, y, strength)),
        "fine": profile(torch.cat([end_orders(game) for game in games])),
        "sampled": {key: [getattr(e, key)[0].tolist() for e in estimates] for key in ("value", "stderr")},
    }
