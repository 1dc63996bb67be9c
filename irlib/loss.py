"""The interaction loss (Eq. 16): the interaction of a perturbation as a differentiable estimate from a few random coalitions."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from irlib import _check
from irlib.draws import Draws, SharedDraws
from irlib.game import UTILITIES, grid_cells, rivals
from irlib.memory import PassSize, budget, in_parts
from irlib.samplers import SAMPLERS, authors_size, pairs_across

SCALINGS = ("authors", "paper")


@dataclass(frozen=True)
class Coalitions:
    """How the interaction is estimated: the arguments of `interaction_loss`, which documents them."""

    grid: int | None = None
    draws: int = 32
    coalition: int | None = None
    utility: str = "ce"
    scaling: str = "authors"
    sampler: str = "stratified"

    def __post_init__(self):
        _check.at_least(self.draws, 1, "draws")
        for name in ("grid", "coalition"):
            if getattr(self, name) is not None:
                _check.at_least(getattr(self, name), 1, name)
        if self.utility not in UTILITIES:
            _check.unknown_name("utility", self.utility, UTILITIES)
        if self.scaling not in SCALINGS:
            _check.unknown_name("scaling", self.scaling, SCALINGS)
        if self.sampler not in SAMPLERS:
            _check.unknown_name("sampler", self.sampler, SAMPLERS)

    def cells(self, x: Tensor) -> tuple[Tensor, int]:
        """The cell of every pixel (height, width), and their number."""
        height, width = x.shape[-2:]
        grid = self.grid or min(16, max(2, min(height, width) // 2))
        if grid == 1:
            raise ValueError("an interaction needs two units, grid=1 has one: use a grid of at least 2")
        return grid_cells(height, width, grid).to(x.device), grid * grid

    def drawn(self, draws: Draws, n: int) -> Tensor:
        """bool (batch, draws, n): the coalitions of cells."""
        return SAMPLERS[self.sampler].draw(draws, n, self.draws, self.coalition)

    def divisor(self, n: int) -> float:
        """What turns the mean over coalitions into the loss, by the scaling."""
        if self.scaling == "authors" and self.sampler == "authors":
            return 1.0
        pairs = SAMPLERS[self.sampler].pairs(n, self.draws, self.coalition)
        if pairs <= 0:
            raise ValueError(f"coalition={self.coalition} leaves no cell of {n} outside, and no pair to count: use at most {n // 2}")
        return pairs if self.scaling == "paper" else pairs / pairs_across(n, authors_size(n))


def contrasts(
    source: nn.Module, base: Tensor, delta: Tensor, y: Tensor, present: Tensor, units: Tensor, utility: str
) -> tuple[Tensor, Tensor, Tensor]:
    """The logits (batch, classes) at the full perturbation, the rival class y' there, and the mean over coalitions A of u(Ω) − u(Ω∖A) − u(A).

    ``present`` bool (batch, draws, n), the coalitions. The means, float64 (batch,), are differentiable in ``delta``; u(∅), which is constant
    in it, is left out. 1 + 2·draws forwards of each image.
    """
    u = UTILITIES[utility]
    with PassSize(source, pass_key(base, delta)) as one:
        z = source(base + delta)
    rival = rivals(z, y)
    rest = sum_over(torch.cat([~present, present], 1), units, source, base, delta, lambda z, k: u(z.double(), y.repeat(k), rival.repeat(k)), one)
    return z, rival, u(z.double(), y, rival) - rest / present.shape[1]


def pass_key(base: Tensor, delta: Tensor) -> Hashable:
    """What decides the memory of a pass of ``base + delta``."""
    return base.shape, base.dtype, base.device, torch.is_grad_enabled() and delta.requires_grad


def sum_over(
    present: Tensor, units: Tensor, source: nn.Module, base: Tensor, delta: Tensor, value: Callable[[Tensor, int], Tensor], one: PassSize
) -> Tensor:
    """(batch,): the sum over coalitions S of value(z(base + δ_S)), differentiable in ``delta``, as many at a time as memory allows.

    ``present`` bool (batch, k, n); ``value`` maps the logits of several copies of the batch, one after another, and their number to one value a
    row; ``one`` has measured a pass of the batch.
    """

    def part(inside: Tensor, d: Tensor) -> Tensor:
        k = inside.shape[1]
        present = inside.transpose(0, 1).index_select(2, units.flatten()).unflatten(2, (1, *units.shape))
        masked = torch.where(present, d, 0).flatten(0, 1)
        return value(source(base.repeat(k, 1, 1, 1) + masked), k).view(k, -1).sum(0)

    return _Summed.apply(delta, lambda start, stop, d: part(present[:, start:stop], d), present.shape[1], max(1, budget(base.device) // one.bytes))


class _Summed(torch.autograd.Function):
    """Σ part(start, stop, δ) over 0 … total, ``size`` at a time, image by image. Where δ wants a gradient, each part's is taken at once, and its
    graph dropped."""

    @staticmethod
    def forward(ctx, delta: Tensor, part: Callable[[int, int, Tensor], Tensor], total: int, size: int) -> Tensor:
        wanted = ctx.needs_input_grad[0]
        values, gradients = torch.zeros(len(delta), dtype=torch.float64, device=delta.device), torch.zeros_like(delta)

        def run(start: int, stop: int) -> None:
            with torch.set_grad_enabled(wanted):
                d = delta.detach().requires_grad_(wanted)
                value = part(start, stop, d)
                if wanted:
                    gradients.add_(torch.autograd.grad(value.sum(), d)[0])
            values.add_(value.detach())

        in_parts(run, total, size)
        ctx.save_for_backward(gradients)
        return values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g: Tensor) -> tuple[Tensor, None, None, None]:
        (gradients,) = ctx.saved_tensors
        return gradients * g.to(gradients)[:, None, None, None], None, None, None


def interaction_loss(
    model: nn.Module,
    x: Tensor,
    delta: Tensor,
    y: Tensor,
    *,
    grid: int | None = None,
    draws: int = 32,
    coalition: int | None = None,
    utility: str = "ce",
    scaling: str = "authors",
    sampler: str = "stratified",
    seed: int = 0,
) -> Tensor:
    """The interaction inside ``delta``, float64 (batch,), estimated from random coalitions A of grid cells, and differentiable in ``delta``.

    The mean over ``draws`` coalitions of v(Ω) − v(Ω∖A) − v(A) + v(∅): what the IR attack subtracts from the loss, 2·draws + 2 forwards. Memory is
    bounded however many coalitions: their graphs are made and dropped in parts. The result can be differentiated once, and by ``delta`` alone.

    Args:
        model, x, delta, y: as for `irlib.AttackGame`; ``delta`` may require a gradient.
        grid: cells a side; by default 16, or half the image's side where it is smaller than 32 (14 for 28×28).
        draws: coalitions A, by default the authors' 32.
        coalition: cells in each; by default what makes ``draws`` blocks fill the grid (8 of 256 for 32), for "authors" and "distinct" n/8.
        utility: "ce" (the text's Eq. 3) or "margin" (the authors' code; y' is taken at the full δ and held).
        scaling: "paper" divides the mean over coalitions by the number of pairs that one counts, so that for a quadratic loss its expectation is
            Eq. 16's mean pairwise interaction; "authors" multiplies that by what the authors' sampler counts (6805 on 16×16 cells), whichever the
            sampler, so that their λ keeps its meaning.
        sampler: "stratified", disjoint coalitions that fill the grid, the cells of each apart; "partition", the same with cells anywhere;
            "distinct", independent ones without repetition; "authors", with (their code). On the zoo's networks the first has a quarter to a tenth
            of the authors' standard error, and its smaller coalitions a smaller bias: `irlib.samplers`, and the book's page on estimators.
        seed: of the coalitions, which all images share here.

    Raises ValueError or TypeError as AttackGame does, and for draws, coalition < 1 or an unknown utility or scaling.
    """
    _check.eval_mode(model)
    _check.images(x, model)
    _check.computable(x)
    _check.perturbation(delta, x)
    _check.labels(y, x)
    settings = Coalitions(grid, draws, coalition, utility, scaling, sampler)
    units, n = settings.cells(x)
    present = settings.drawn(SharedDraws(x, seed), n).expand(len(x), -1, -1)

    def interaction(_start: int, _stop: int, d: Tensor) -> Tensor:
        with _check.FirstLogits(y).on(model):
            _, rival, mean = contrasts(model, x, d, y, present, units, utility)
        with torch.no_grad():
            empty = UTILITIES[utility](model(x).double(), y, rival)
        return (mean + empty) / settings.divisor(n)

    return _Summed.apply(delta, interaction, 1, 1)  # so that the model's parameters are no part of the graph
