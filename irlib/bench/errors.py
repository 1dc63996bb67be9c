"""Errors at equal evaluations: of the sampled estimators beside shapiq's, and of the samplers of the interaction loss."""

import argparse
import importlib.util
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import irlib
from irlib import sampled
from irlib.bench.clock import rounded
from irlib.bench.subjects import largest_grid, subject
from irlib.bench.tables import Table
from irlib.draws import SharedDraws
from irlib.game import Game
from irlib.samplers import SAMPLERS

BUDGETS = {12: (500, 2000), 49: (2500, 10_000)}
SEEDS = 2
REFERENCE = 100_000  # evaluations, where the truth cannot be enumerated


class FewerPlayers:
    """The game of its first n players; the others are always absent."""

    def __init__(self, game: Game, n: int):
        self.game, self.n = game, n

    def __call__(self, coalitions: Tensor) -> Tensor:
        return self.game(torch.nn.functional.pad(coalitions, (0, self.game.n - self.n)))


def _shapiq(order: int) -> dict[str, Callable[[Game, int, int], Tensor]]:
    """shapiq's approximators of Shapley values (order 1) or of pairwise Shapley interactions (order 2), if it is installed."""
    if not importlib.util.find_spec("shapiq"):
        return {}
    from shapiq import approximator as theirs

    index = "SV" if order == 1 else "SII"
    classes = {1: ("PermutationSamplingSV", "KernelSHAP", "SVARM"), 2: ("PermutationSamplingSII", "KernelSHAPIQ", "SHAPIQ")}[order]

    def approximate(name: str, game: Game, budget: int, seed: int) -> Tensor:
        n = game.n
        play = lambda rows: game(torch.from_numpy(np.atleast_2d(rows).astype(bool)))[0].numpy()
        kw = {"n": n, "random_state": seed} | ({"max_order": 2, "index": index} if order == 2 else {})
        found = getattr(theirs, name)(**kw).approximate(budget, play).get_n_order_values(order)
        return torch.from_numpy(np.array(found))

    return {f"shapiq {name}": (lambda game, budget, seed, name=name: approximate(name, game, budget, seed)) for name in classes}


def _ours(order: int) -> dict[str, Callable[[Game, int, int], Tensor]]:
    if order == 1:
        return {"irlib": lambda game, budget, seed: sampled.shapley_values(game, budget, seed).value[0]}
    method = lambda name: lambda game, budget, seed: sampled.interaction_matrix(game, budget, seed, method=name).value[0]
    return {"irlib contexts": method("contexts"), "irlib regression": method("regression")}


def estimators(args: argparse.Namespace) -> Table:
    """The relative error, root mean square over units or pairs, of a few seeds on two images."""
    rows = []
    s = subject(args.networks[0], 2, args.device)
    for n, grid in ((12, 4), (49, 7)):
        games = [FewerPlayers(s.only(i).game(grid), n) for i in range(2)]
        for order, what in ((1, "φ"), (2, "I")):
            truth, own = zip(*(_truth(game, order) for game in games), strict=True)
            approximators = _ours(order) | _shapiq(order)
            for name, approximate in tqdm(approximators.items(), desc=f"{what}, n={n}"):
                errors = [_errors(approximate, games, truth, budget) for budget in BUDGETS[n]]
                rows.append((name, what, n, *errors, max(own)))
    note = f"""\
Relative error, root mean square over all units (φ) or pairs (I), mean of {SEEDS} seeds on each of two images of {args.networks[0]}; – where an
estimator refuses the budget. Budgets: {BUDGETS[12][0]} and {BUDGETS[12][1]} evaluations for
n = 12, {BUDGETS[49][0]} and {BUDGETS[49][1]} for n = 49. The truth is enumerated for n = 12; for n = 49
it is an estimate from {REFERENCE} evaluations with another seed, whose own relative standard error is in the last column."""
    headings = ("estimator", "of", "n", "smaller budget", "larger budget", "error of the truth")
    return Table("The sampled estimators at equal budgets", headings, rows, note)


def _truth(game: Game, order: int) -> tuple[Tensor, float]:
    exact, estimated = {1: (irlib.shapley_values, sampled.shapley_values), 2: (irlib.interaction_matrix, sampled.interaction_matrix)}[order]
    if game.n <= 16:
        return exact(game)[0], 0.0
    found = estimated(game, REFERENCE, seed=10**6)
    return found.value[0], rounded((found.stderr[0].square().mean() / found.value[0].square().mean()).sqrt().item())


def _errors(approximate: Callable[[Game, int, int], Tensor], games: Iterable[Game], truth: Iterable[Tensor], budget: int) -> float | None:
    errors = []
    for game, true in zip(games, truth, strict=True):
        for seed in range(SEEDS):
            try:
                found = approximate(game, budget, seed)
            except ValueError as refusal:
                if "budget" not in str(refusal):
                    raise
                return None
            off = ~torch.eye(game.n, dtype=torch.bool) if true.ndim == 2 else torch.ones(game.n, dtype=torch.bool)
            errors.append(((found - true)[off].square().mean() / true[off].square().mean()).sqrt().item())
    return rounded(sum(errors) / len(errors))


class QuadraticGame:
    """v(S) = ½ δ_SᵀHδ_S for a random H of rank 9 and a δ in its range, as the closed forms have them, wherever the cells lie."""

    def __init__(self, n: int, seed: int):
        generator = torch.Generator().manual_seed(seed)
        modes = torch.randn(n, 9, generator=generator, dtype=torch.float64)
        delta = modes @ torch.randn(9, generator=generator, dtype=torch.float64)
        self.n, self.interactions = n, delta[:, None] * (modes @ modes.T) * delta

    def __call__(self, coalitions: Tensor) -> Tensor:
        c = coalitions.double()
        return ((c @ self.interactions * c).sum(-1) / 2)[None]


# blocks for a partition, cells for the others; None for what the sampler does by itself
KINDS = [("authors", None), ("distinct", None), ("distinct", 1), ("partition", 16), ("partition", None), ("stratified", 16), ("stratified", None)]
DRAWS, REPETITIONS = 32, 24


def samplers(args: argparse.Namespace) -> Table:
    """Standard error and bias of the mean interaction from 32 coalitions, 66 forwards."""
    rows = []
    todo = [("random quadratics", [QuadraticGame(256, seed) for seed in range(args.images)])]
    todo += [(s.name, [s.game(largest_grid(s))]) for s in (subject(name, args.images, args.device) for name in args.estimated)]
    for name, games in todo:
        exact = torch.cat([irlib.mean_interaction(game) for game in games])
        authors = None
        for kind, given in tqdm(KINDS, desc=name):
            size = round(games[0].n / given) if given and kind in ("partition", "stratified") else given
            found, cells = zip(*(_estimates(game, kind, size) for game in games), strict=True)
            found = torch.cat(found)
            error = (found.std(1) / exact.abs()).median().item()
            bias = ((found.mean(1) - exact) / exact.abs()).quantile(torch.tensor([0.5, 0.25, 0.75]).to(found)).tolist()
            authors = authors or error
            rows.append((name, len(exact), kind, rounded(cells[0]), *map(rounded, (error, authors / error, *bias))))
    note = f"""\
The mean interaction from {DRAWS} coalitions (66 forwards) against the exact one of Eq. 12 (2n + 2 forwards). Standard error: relative to the
exact mean, median over the images, from {REPETITIONS} repetitions; and how many times it goes into the authors'. Bias: the mean of the repetitions
less the exact mean, relative: median and quartiles over the images.
Networks: 10-step PGD at 16/255, 14 or 16 cells a side. Random quadratics: 16 cells a side."""
    headings = ("game", "images", "sampler", "cells", "standard error %", "authors' over it", "bias %", "lower quartile %", "upper quartile %")
    return Table("The samplers of the interaction loss at 66 forwards", headings, rows, note)


def _estimates(game: Game, kind: str, size: int | None) -> tuple[Tensor, float]:
    """(batch, repetitions): the mean interaction from DRAWS coalitions each; and the mean number of cells in one."""
    n, sampler = game.n, SAMPLERS[kind]
    v = game(torch.ones(1, n, dtype=torch.bool))
    draws = SharedDraws(v, 0)
    A = torch.cat([sampler.draw(draws, n, DRAWS, size)[0] for _ in range(REPETITIONS)])
    inside, outside = game(A), game(~A)
    means = (v - inside - outside).view(len(v), REPETITIONS, DRAWS).mean(2)
    return means / sampler.pairs(n, DRAWS, size), A.sum(1).double().mean().item()
