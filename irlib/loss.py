"""The interaction loss (Eq. 16): the interaction of a perturbation as a differentiable estimate from a few random coalitions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from irlib import _check
from irlib.game import UTILITIES, PassSize, budget, grid_cells, rivals

SCALINGS = ("authors", "paper")


def pairs_across(n: int, coalition: int) -> float:
    """E[k(n − k)] for the k distinct ones among ``coalition`` cells drawn with replacement from n: n(n−1)[(1−1/n)^c − (1−2/n)^c].

    For a quadratic v, v(Ω) − v(Ω∖A) − v(A) + v(∅) is the sum of I_ab over a in A and b outside, so this is the factor between the authors'
    estimator and the mean pairwise interaction of Eq. 16: 6805 for n = 256 and c = 32, n − 1 for c = 1.
    """
    return n * (n - 1) * ((1 - 1 / n) ** coalition - (1 - 2 / n) ** coalition)


@dataclass(frozen=True)
class Coalitions:
    """How the interaction is estimated: the arguments of `interaction_loss`, which documents them."""

    grid: int | None = None
    draws: int = 32
    coalition: int | None = None
    utility: str = "ce"
    scaling: str = "authors"

    def __post_init__(self):
        _check.at_least(self.draws, 1, "draws")
        for name in ("grid", "coalition"):
            if getattr(self, name) is not None:
                _check.at_least(getattr(self, name), 1, name)
        if self.utility not in UTILITIES:
            _check.unknown_name("utility", self.utility, UTILITIES)
        if self.scaling not in SCALINGS:
            _check.unknown_name("scaling", self.scaling, SCALINGS)

    def cells(self, x: Tensor) -> tuple[Tensor, int]:
        """The cell of every pixel (height, width), and their number."""
        height, width = x.shape[-2:]
        grid = self.grid or min(16, max(2, min(height, width) // 2))
        if grid == 1:
            raise ValueError("an interaction needs two units, grid=1 has one: use a grid of at least 2")
        return grid_cells(height, width, grid).to(x.device), grid * grid

    def size(self, n: int) -> int:
        """Cells drawn for one coalition."""
        return self.coalition or max(1, round(n / 8))

    def divisor(self, n: int) -> float:
        """What turns the mean over coalitions into the loss, by the scaling."""
        return 1.0 if self.scaling == "authors" else pairs_across(n, self.size(n))


def with_replacement(cells: Tensor, n: int) -> Tensor:
    """bool (batch, draws, n): the coalitions of the cells (batch, draws, coalition), each drawn from 0 … n − 1, some more than once."""
    return torch.zeros(*cells.shape[:2], n, dtype=torch.bool, device=cells.device).scatter(2, cells, True)


def contrasts(
    source: nn.Module, base: Tensor, delta: Tensor, y: Tensor, present: Tensor, units: Tensor, utility: str
) -> tuple[Tensor, Tensor, Tensor]:
    """The logits (batch, classes) at the full perturbation, the rival class y' there, and the mean over coalitions A of u(Ω) − u(Ω∖A) − u(A).

    ``present`` bool (batch, draws, n), the coalitions. The means, float64 (batch,), are differentiable in ``delta``; u(∅), which is constant
    in it, is left out. 1 + 2·draws forwards of each image.
    """
    u = UTILITIES[utility]
    with PassSize(source) as one:
        z = source(base + delta)
    rival = rivals(z, y)
    rest = sum_over(torch.cat([~present, present], 1), units, source, base, delta, lambda z, k: u(z.double(), y.repeat(k), rival.repeat(k)), one)
    return z, rival, u(z.double(), y, rival) - rest / present.shape[1]


def sum_over(
    present: Tensor, units: Tensor, source: nn.Module, base: Tensor, delta: Tensor, value: Callable[[Tensor, int], Tensor], one: PassSize
) -> Tensor:
    """(batch,): the sum over coalitions S of value(z(base + δ_S)), differentiable in ``delta``, as many at a time as memory allows.

    ``present`` bool (batch, k, n); ``value`` maps the logits of several copies of the batch, one after another, and their number to one value a
    row; ``one`` has measured a pass of the batch.
    """

    def part(inside: Tensor, d: Tensor) -> Tensor:
        k = inside.shape[1]
        masked = torch.where(inside.transpose(0, 1)[:, :, None, units], d, 0).flatten(0, 1)
        return value(source(base.repeat(k, 1, 1, 1) + masked), k).view(k, -1).sum(0)

    copies = max(1, budget(base.device) // one.bytes)
    return _Summed.apply(delta, part, present.split(copies, 1))


class _Summed(torch.autograd.Function):
    """Σ over parts of part(·, δ), image by image. Where δ wants a gradient, each part's is taken at once, and its graph dropped."""

    @staticmethod
    def forward(ctx, delta: Tensor, part: Callable[[Any, Tensor], Tensor], parts: Sequence[Any]) -> Tensor:
        wanted = ctx.needs_input_grad[0]
        total, gradients = 0.0, torch.zeros_like(delta)
        for each in parts:
            with torch.set_grad_enabled(wanted):
                d = delta.detach().requires_grad_(wanted)
                value = part(each, d)
                if wanted:
                    gradients += torch.autograd.grad(value.sum(), d)[0]
            total = total + value.detach()
        ctx.save_for_backward(gradients)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g: Tensor) -> tuple[Tensor, None, None]:
        (gradients,) = ctx.saved_tensors
        return gradients * g.to(gradients)[:, None, None, None], None, None


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
    seed: int = 0,
) -> Tensor:
    """The interaction inside ``delta``, float64 (batch,), estimated from random coalitions A of grid cells, and differentiable in ``delta``.

    The mean over ``draws`` coalitions of v(Ω) − v(Ω∖A) − v(A) + v(∅): what the IR attack subtracts from the loss, 2·draws + 2 forwards. Memory is
    bounded however many coalitions: their graphs are made and dropped in parts. The result can be differentiated once, and by ``delta`` alone.

    Args:
        model, x, delta, y: as for `irlib.AttackGame`; ``delta`` may require a gradient.
        grid: cells a side; by default 16, or half the image's side where it is smaller than 32 (14 for 28×28).
        draws: coalitions, each of ``coalition`` cells drawn with replacement; by default the authors' 32, and n/8 cells (32 of 256).
        utility: "ce" (the text's Eq. 3) or "margin" (the authors' code; y' is taken at the full δ and held).
        scaling: "authors" leaves the mean as it is; "paper" divides by `pairs_across`, so that for a quadratic loss the expectation is Eq. 16's
            mean pairwise interaction. At 16×16 cells and 32 drawn that is 6805 times less.
        seed: of the coalitions, which all images share here.

    Raises ValueError or TypeError as AttackGame does, and for draws, coalition < 1 or an unknown utility or scaling.
    """
    _check.eval_mode(model)
    _check.images(x, model)
    _check.perturbation(delta, x)
    _check.labels(y, x)
    settings = Coalitions(grid, draws, coalition, utility, scaling)
    units, n = settings.cells(x)
    drawn = torch.randint(n, (1, draws, settings.size(n)), generator=torch.Generator().manual_seed(seed)).to(x.device)
    present = with_replacement(drawn, n).expand(len(x), -1, -1)

    def interaction(_: None, d: Tensor) -> Tensor:
        with _check.FirstLogits(y).on(model):
            _, rival, mean = contrasts(model, x, d, y, present, units, utility)
        with torch.no_grad():
            empty = UTILITIES[utility](model(x).double(), y, rival)
        return (mean + empty) / settings.divisor(n)

    return _Summed.apply(delta, interaction, [None])  # so that the model's parameters are no part of the graph
