"""Time and memory of the exact total and of the interaction loss, beside the bare network's."""

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

import irlib
from irlib.bench.clock import compared, peak_memory, rounded
from irlib.bench.subjects import Subject, in_batches, largest_grid, subject
from irlib.bench.tables import Table

MIB = 2**20


def _eq12(n: int, device: torch.device) -> Tensor:
    """The coalitions of Eq. 12: ∅, Ω, each unit, each unit's absence."""
    single = torch.eye(n, dtype=torch.bool, device=device)
    return torch.cat([torch.zeros_like(single[:1]), torch.ones_like(single[:1]), single, ~single])


def _one_by_one(s: Subject, grid: int) -> None:
    """What one writes first: a loop over the coalitions."""
    units = irlib.game.grid_cells(*s.x.shape[-2:], grid).to(s.x.device)
    with torch.no_grad():
        for coalition in _eq12(grid * grid, s.x.device):
            F.cross_entropy(s.model(s.x + torch.where(coalition[units], s.delta, 0)), s.y)


def total(args: argparse.Namespace) -> Table:
    """Seconds, and ratios, of the exact total of one image."""
    rows = []
    for name in args.networks:
        s = subject(name, 1, args.device)
        for grid in tqdm((2, 4, 7, largest_grid(s)), desc=name):
            game, n, cuda = s.game(grid), grid * grid, s.x.is_cuda
            inputs = s.x + torch.where(_eq12(n, s.x.device)[:, None, game.units], s.delta, 0)
            made, anew = (lambda game=game: irlib.total_interaction(game)), (lambda s=s, grid=grid: irlib.total_interaction(s.game(grid)))
            bare = [lambda s=s, parts=parts: in_batches(s.model, parts) for parts in (inputs[1:].split(game.chunk), inputs.split(game.chunk))]
            throughput, whole = (compared(ours, other, args.repeats, cuda=cuda) for ours, other in zip((made, anew), bare, strict=True))
            loop = compared(lambda s=s, grid=grid: _one_by_one(s, grid), anew, args.repeats, cuda=cuda)
            seconds, ratios = whole["seconds"], (1 / throughput["ratio"], 1 / whole["ratio"], loop["ratio"], loop["lowest"])
            rows.append((name, n, 2 * n + 2, game.chunk, seconds, *map(rounded, ratios)))
    note = """\
The exact total of one image (Eq. 12). Throughput: time of the bare network on ready-made batches of the same inputs, as many at a time, over ours,
for a game that is there already; made anew: the same with the making of the game, which checks its input, measures memory and evaluates v(∅). One
by one: time of a loop over the coalitions, one forward each, over ours with the making (median and lowest of the repeats)."""
    headings = ("network", "n", "evaluations", "chunk", "seconds", "throughput", "made anew", "one by one", "lowest")
    return Table("The exact total against the bare network and against a loop", headings, rows, note)


def loss(args: argparse.Namespace) -> Table:
    rows = []
    for name, images in tqdm([(name, images) for name in args.networks for images in (1, 8)], desc="loss"):
        s = subject(name, images, args.device)
        if images == 8 and s.x.shape[-1] > 100 and not s.x.is_cuda:
            continue  # minutes on a CPU, and a pass of one image fills it already
        samples = s.x.repeat(65, 1, 1, 1)

        def ours(s: Subject = s) -> Tensor:
            delta = s.delta.clone().requires_grad_()
            return torch.autograd.grad(irlib.interaction_loss(s.model, s.x, delta, s.y).sum(), delta)[0]

        sizes = _passes(s, ours)

        def bare(s: Subject = s, samples: Tensor = samples, sizes: list[int] = sizes) -> None:
            with torch.no_grad():
                s.model(s.x)
            for part in samples.split(sizes):
                at = part.detach().requires_grad_()
                torch.autograd.grad(F.cross_entropy(s.model(at), s.y.repeat(len(at) // len(s.y)), reduction="sum"), at)

        def loop(s: Subject = s, samples: Tensor = samples) -> None:
            for at in samples.split(1):
                d = at.detach().requires_grad_()
                torch.autograd.grad(F.cross_entropy(s.model(d), s.y[:1]), d)

        found = compared(ours, bare, args.repeats, cuda=s.x.is_cuda)
        slow = compared(loop, ours, args.repeats, cuda=s.x.is_cuda)
        rows.append((name, images, sum(sizes) + images, found["seconds"], found["ratio"], found["lowest"], found["highest"], slow["ratio"]))
    note = """\
The interaction loss of 32 draws and its gradient. Ratio: our time over that of the bare network on as many samples, forward and backward (the clean
image forward only), in batches of the same sizes: median, lowest, highest. One by one: time of single forwards and backwards over ours."""
    headings = ("network", "images", "samples", "seconds", "ratio", "lowest", "highest", "one by one")
    return Table("The interaction loss and its gradient against the bare network", headings, rows, note)


def _passes(s: Subject, call: Callable[[], object]) -> list[int]:
    """The sizes of the passes with a gradient that ``call`` makes."""
    sizes = []
    with s.model.register_forward_pre_hook(lambda _module, inputs: sizes.append(len(inputs[0])) if inputs[0].requires_grad else None):
        call()
    return sizes


def memory(args: argparse.Namespace) -> Table:
    rows = []
    for name in args.networks:
        s = subject(name, 1, args.device)
        grids = [grid for grid in (4, 8, 16, 28, 32) if grid <= s.x.shape[-1]]
        irlib.total_interaction(s.game(grids[0]))  # what a first pass allocates and keeps
        for grid in tqdm(grids, desc=name):
            game = s.game(grid)
            peak = peak_memory(lambda game=game: irlib.total_interaction(game), s.x.is_cuda)
            rows.append((name, grid * grid, game.chunk, min(game.chunk, 2 * grid * grid + 1), None if peak is None else peak / MIB))
    note = """\
The most memory that the exact total of one image occupies beyond what was occupied before (resident pages on Linux, torch's allocations on a GPU).
Once the coalitions fill a chunk it does not depend on n."""
    return Table("Peak memory", ("network", "n", "chunk", "images in the largest pass", "MiB"), rows, note)
