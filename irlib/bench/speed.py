"""Time and memory of the exact total and of the interaction loss, beside the bare network's."""

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

import irlib
from irlib.bench.clock import compared, peak_memory
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
    rows = []
    for name in args.networks:
        s = subject(name, 1, args.device)
        for grid in tqdm((2, 4, 7, largest_grid(s)), desc=name):
            chunk, n, cuda = s.game(grid).chunk, grid * grid, s.x.is_cuda
            units = irlib.game.grid_cells(*s.x.shape[-2:], grid).to(s.x.device)
            batches = (s.x + torch.where(_eq12(n, s.x.device)[:, None, units], s.delta, 0)).split(chunk)
            ours = lambda s=s, grid=grid: irlib.total_interaction(s.game(grid))
            bare = compared(ours, lambda s=s, batches=batches: in_batches(s.model, batches), args.repeats, cuda=cuda)
            loop = compared(lambda s=s, grid=grid: _one_by_one(s, grid), ours, args.repeats, cuda=cuda)
            rows.append((name, n, 2 * n + 2, chunk, bare["seconds"], 1 / bare["ratio"], loop["ratio"], loop["lowest"]))
    note = """\
The exact total of one image (Eq. 12), the game made anew each time. Throughput: time of the bare network on ready-made batches of the same inputs, as
many at a time, over ours. One by one: time of a loop over the coalitions, one forward each, over ours (median and lowest of the repeats)."""
    headings = ("network", "n", "evaluations", "chunk", "seconds", "throughput", "one by one", "lowest")
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
