"""What approximates the exact total, and by how much it misses it: the local predictors, and a lower precision."""

import argparse

import torch
from torch import Tensor
from tqdm import tqdm

import irlib
from irlib import local
from irlib.bench.clock import rounded
from irlib.bench.subjects import EPS, largest_grid, subject
from irlib.bench.tables import Table

DIVISORS = (256, 64, 16, 4, 1)


def predictors(args: argparse.Namespace) -> Table:
    """δᵀHδ and the secant, less their diagonal blocks, over the measured total, as the perturbation grows."""
    rows = []
    for name in tqdm(args.estimated, desc="local predictors"):
        s = subject(name, args.images, args.device).double()
        for predictor in (local.hessian, local.secant):
            missed = []
            for divisor in DIVISORS:
                game = s.game(7, 1 / divisor)
                total = irlib.total_interaction(game)
                missed.append(rounded(((predictor(game, diagonal=False) - total).abs() / total.abs()).median().item()))
            rows.append((name, len(s.x), predictor.__name__, *missed))
    note = f"""\
How much of the measured total (Eq. 12, a grid of 7 × 7, float64) each local predictor misses once its diagonal blocks are taken off:
|predicted − measured| over |measured|, median over the images. The perturbation is that of 10-step PGD at ε = 16/255 = {EPS:.3g}, scaled down."""
    headings = ("network", "images", "predictor", *(f"ε/{divisor} %" for divisor in DIVISORS))
    return Table("Local predictors against the measured total", headings, rows, note)


def precisions(args: argparse.Namespace) -> Table:
    """The exact total with the network in bfloat16 or float16 (autocast) against its own precision."""
    rows = []
    for name in tqdm(args.estimated, desc="precision"):
        s = subject(name, args.images, args.device)
        grid = largest_grid(s)
        exact = irlib.total_interaction(s.game(grid))
        for precision in (torch.bfloat16, torch.float16):
            low = s.game(grid, precision=precision)
            relative = lambda value, exact=exact: (value.abs() / exact.abs()).to(torch.float64)
            error, bound = relative(irlib.total_interaction(low) - exact), relative(irlib.precision_error(low))
            rows.append((name, len(exact), str(precision).removeprefix("torch."), *_middle_and_most(error), *_middle_and_most(bound)))
    note = """\
|total in the lower precision − total| over |total| for the exact total on 14 or 16 cells a side, utilities in float64 in both: median and most
over the images; and `irlib.precision_error`, the bound that 32 of the cells give. Above 1 % it is not for measuring interactions."""
    headings = ("network", "images", "precision", "error %", "most %", "bound %", "most of the bounds %")
    return Table("What a lower precision costs", headings, rows, note)


def _middle_and_most(values: Tensor) -> tuple[float, float]:
    return rounded(values.median().item()), rounded(values.max().item())
