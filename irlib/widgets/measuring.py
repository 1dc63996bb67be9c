"""The sweep of the chapter on measuring: sampler × cells of a coalition × coalitions drawn, against the exact mean interaction of a real network."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from irlib import AttackGame, create_attack, mean_interaction
from irlib.data import FASHION_CLASSES
from irlib.draws import SharedDraws
from irlib.samplers import SAMPLERS, blocks_a_round
from irlib.widgets.sweep import Param, Sweep, Table, bars, lines, perturbation_frames, picture

CELLS = (1, 2, 4, 8, 16, 32)
DRAWS = (8, 16, 32, 64)
SEEDS = 20  # estimates shown
REPEATS = 500  # estimates of which the standard error is that
POOL, ROUNDS = 64, 6  # contrasts evaluated for each sampler and size, and at least so many whole rounds of blocks
PART = 128  # coalitions in one call: none is long enough for a progress bar


def measuring(models: Mapping[str, nn.Module], x: Tensor, y: Tensor, grid: int = 8, eps: float = 16 / 255) -> Sweep:
    """Sliders for network, image, sampler, cells in a coalition and coalitions drawn: estimates of PGD's mean interaction against the exact one.

    Args:
        models: sources in eval mode, by the name the slider shows; each image is attacked by 10-step PGD on each.
        x: images (k, 1, height, width).
        y: their labels.
        grid: cells a side.
        eps: radius of the attack.
    """
    deltas = [create_attack("pgd", model, eps=eps, alpha=eps / 8, steps=10)(x, y) - x for model in models.values()]
    games = [AttackGame(model, x, delta, y, grid, chunk=200) for model, delta in zip(models.values(), deltas, strict=True)]
    names = list(SAMPLERS)

    def compute(network: list[int], image: list[int], sampler: list[int], cells: list[int], draws: list[int]) -> dict[str, Table]:
        tables = sampler_tables(games, [names[s] for s in sampler], cells, draws)
        shown = torch.stack([d[:, 0] for d in deltas])  # (network, image, height, width)
        coalitions = torch.stack([torch.stack([pool(games[0], names[s], k)[0, 0] for k in cells]) for s in sampler])
        frames = shown[:, :, None, None] * coalitions[:, :, games[0].units]
        return (
            tables
            | perturbation_frames("delta", shown.numpy(), ("network", "image"))
            | perturbation_frames("part", frames.numpy(), ("network", "image", "sampler", "cells"))
        )

    return Sweep(
        "measuring",
        "The mean interaction, from a few coalitions",
        [
            Param("network", "network", range(len(games)), lambda i: list(models)[i]),
            Param("image", "image", range(len(x)), lambda i: FASHION_CLASSES[y[i]]),
            Param("sampler", "sampler", range(len(names)), lambda i: names[i]),
            Param("cells", f"cells k, of {grid * grid}", [k for k in CELLS if 2 * k <= grid * grid]),
            Param("draws", "coalitions drawn", DRAWS),
        ],
        compute,
        [
            picture("δ", "delta"),
            picture("δ on one coalition A", "part"),
            lines(
                "estimate, as a multiple of the exact mean",
                {
                    "average": ("average_curve", "measured", None),
                    "average + standard error": ("high_curve", "sampling", "6 4"),
                    "average − standard error": ("low_curve", "sampling", "2 3"),
                    "exact": ("exact_curve", "theory", "1 4"),
                },
                cursor="cells",
                xlabel="cells k of a coalition",
                log=True,
            ),
            bars(
                f"{SEEDS} estimates, in rising order, as multiples of the exact mean (drawn from 0 to 2)",
                "seeds",
                [str(i) if i in (1, 5, 10, 15, 20) else "" for i in range(1, SEEDS + 1)],
                baseline=1,
                token="measured",
            ),
        ],
        {
            "average, × exact": ("average", ""),
            "its own error": ("average_error", " %"),
            "standard error": ("error", " %"),
            "forwards": ("forwards", ""),
            "exact mean interaction": ("exact", ""),
            "pairs in a contrast": ("pairs", ""),
        },
        start={"network": len(games) - 1, "sampler": names.index("authors"), "cells": 8, "draws": 32},
        caption="{forwards} forwards, on coalitions of {cells} cells by the sampler “{sampler}”: on average {average} times the exact mean, "
        "with a standard error of {error} of it.",
    )


def sampler_tables(games: Sequence[AttackGame], samplers: Sequence[str], cells: Sequence[int], draws: Sequence[int]) -> dict[str, Table]:
    """The numbers of `measuring`, over networks (a game each, of several images) × images × samplers × cells × draws.

    average is the mean of all evaluated contrasts over the pairs that one counts, as a multiple of the exact mean; average_error its standard error
    (percent), from rounds; error the standard error of an estimate from so many draws (percent), that of `REPEATS` resampled ones; seeds, `SEEDS` of
    those in rising order, cut off at 0 and 2. An estimate takes whole rounds at random, and of its last one as many contrasts as it still needs.
    """
    over, each_size = ("network", "image", "sampler", "cells", "draws"), ("network", "image", "sampler", "cells")
    shape = (len(games), len(games[0].x), len(samplers), len(cells))
    average, average_error = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
    error = torch.zeros(*shape, len(draws), dtype=torch.float64)
    seeds = torch.zeros(*shape, len(draws), SEEDS, dtype=torch.float64)
    exact = torch.stack([mean_interaction(game) for game in games])
    pairs = torch.tensor([[SAMPLERS[s].pairs(games[0].n, 1, k) for k in cells] for s in samplers], dtype=torch.float64)
    for g, game in enumerate(games):
        found = contrasts(game, [pool(game, s, k) for s in samplers for k in cells])
        for i, each in enumerate(found):
            s, k = divmod(i, len(cells))
            each = each / pairs[s, k] / exact[g][:, None, None]
            average[g, :, s, k], average_error[g, :, s, k] = each.mean((1, 2)), 100 * each.mean(2).std(1) / each.shape[1] ** 0.5
            for d, count in enumerate(draws):
                estimates = resampled(each, count)
                error[g, :, s, k, d] = 100 * estimates.std(1)
                seeds[g, :, s, k, d] = estimates[:, :SEEDS].sort(1).values.clamp(0, 2)
    curve = average[..., None].expand_as(error)
    curves = {"average": curve, "high": curve + error / 100, "low": curve - error / 100, "exact": torch.ones_like(curve)}
    return {
        "average": Table(average.numpy(), each_size),
        "average_error": Table(average_error.numpy(), each_size),
        "error": Table(error.numpy(), over),
        "seeds": Table(seeds.numpy(), over),
        "exact": Table(exact.numpy(), ("network", "image")),
        "pairs": Table(pairs.numpy(), ("sampler", "cells")),
        "forwards": Table(torch.tensor([2.0 * d + 2 for d in draws]).numpy(), ("draws",)),
        **{f"{name}_curve": Table(c.transpose(3, 4).numpy(), ("network", "image", "sampler", "draws")) for name, c in curves.items()},
    }


def pool(game: AttackGame, sampler: str, cells: int, size: int = POOL, least: int = ROUNDS) -> Tensor:
    """bool (rounds, blocks, n): about ``size`` coalitions of a sampler in rounds, of one coalition each where it draws them independently.

    "distinct" gets the blocks of "partition", one by one: each of those is a coalition of distinct cells, all equally likely. So does "authors" for
    one cell, which is distinct; for more its contrasts vary most, and it gets twice as many.
    """
    if sampler == "authors" and cells > 1:
        return SAMPLERS[sampler].draw(SharedDraws(game.x, 0), game.n, 2 * size, cells)[0][:, None]
    blocks = blocks_a_round(game.n, size, cells)
    source = "stratified" if sampler == "stratified" else "partition"
    drawn = SAMPLERS[source].draw(SharedDraws(game.x, 0), game.n, blocks * max(least, size // blocks), cells)[0]
    return drawn.view(-1, blocks if sampler == source else 1, game.n)


def contrasts(game: AttackGame, pools: Sequence[Tensor]) -> list[Tensor]:
    """float64 (images, rounds, blocks) for each of the pools: v(Ω) − v(Ω∖A) − v(A) + v(∅). A coalition and its complement, which have the same,
    are evaluated once."""
    flat = torch.cat([p.flatten(0, 1) for p in pools])
    unique, place = torch.where(flat[:, :1], flat, ~flat).unique(dim=0, return_inverse=True)
    v = torch.cat([game(part) for part in torch.cat([torch.ones_like(unique[:1]), unique, ~unique]).split(PART)], 1)
    each = v[:, :1] - v[:, 1 : len(unique) + 1] - v[:, len(unique) + 1 :]
    return [c.unflatten(1, p.shape[:2]) for c, p in zip(each[:, place].split([p.shape[0] * p.shape[1] for p in pools], 1), pools, strict=True)]


def resampled(each: Tensor, count: int, repeats: int = REPEATS) -> Tensor:
    """(images, repeats): means of ``count`` contrasts from ``each`` (images, rounds, blocks), whole rounds and a random part of the last one."""
    generator = torch.Generator().manual_seed(0)
    _, rounds, blocks = each.shape
    taken = torch.randint(rounds, (repeats, math.ceil(count / blocks)), generator=generator)
    order = torch.rand(*taken.shape, blocks, generator=generator).argsort(2)
    return each[:, taken[..., None], order].flatten(2)[:, :, :count].mean(2)
