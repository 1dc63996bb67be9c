"""Which coalitions the interaction loss is estimated from.

For a coalition A the contrast v(Ω) − v(Ω∖A) − v(A) + v(∅) is, for a quadratic v, the sum of I_ab over a in A and b outside. A sampler draws
coalitions; `Sampler.pairs` is the expected number k(n−k) of ordered pairs that one contrast counts, which turns it into the mean over pairs.
Disjoint coalitions that fill the grid leave out only the pairs inside one: their sum hardly varies. If neighbours are never in one, less still.
Smaller coalitions have less bias: of a loss that is not cubic, contrasts of large ones average other orders than Eq. 6 does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from irlib.draws import Draws

KEYS = 2**40  # random orders are those of whole numbers below it: the same whatever the images' dtype


def pairs_across(n: int, coalition: int) -> float:
    """E[k(n − k)] for the k distinct ones among ``coalition`` cells drawn with replacement from n: n(n−1)[(1−1/n)^c − (1−2/n)^c].

    6805 for n = 256 and c = 32, the authors'; n − 1 for c = 1.
    """
    return n * (n - 1) * ((1 - 1 / n) ** coalition - (1 - 2 / n) ** coalition)


def authors_size(n: int) -> int:
    """n/8 cells: the authors' 32 of 256."""
    return max(1, round(n / 8))


def with_replacement(draws: Draws, n: int, count: int, coalition: int | None) -> Tensor:
    """The authors': each coalition ``coalition`` cells, n/8 by default, some drawn more than once."""
    cells = draws.integers(n, count, coalition or authors_size(n))
    return torch.zeros(*cells.shape[:2], n, dtype=torch.bool, device=cells.device).scatter(2, cells, True)


def distinct(draws: Draws, n: int, count: int, coalition: int | None) -> Tensor:
    """Each coalition ``coalition`` different cells, n/8 by default."""
    return draws.integers(KEYS, count, n).argsort(2).argsort(2) < (coalition or authors_size(n))


def partition(draws: Draws, n: int, count: int, coalition: int | None) -> Tensor:
    """Random partitions of the grid into equal blocks (to within a cell): each cell once a round."""
    return _blocks(torch.zeros(n, dtype=torch.int64), draws, n, count, coalition)


def stratified(draws: Draws, n: int, count: int, coalition: int | None) -> Tensor:
    """Such partitions with the cells of a block apart: the grid is cut into patches of as many cells as there are blocks, and each block has one
    cell of each patch."""
    return _blocks(_position_in_patches(round(n**0.5)) // blocks_a_round(n, count, coalition), draws, n, count, coalition)


def blocks_a_round(n: int, count: int, coalition: int | None) -> int:
    """How many blocks fill a grid of n: what about ``coalition`` cells each make, by default ``count``, so that it is one round, or 8 if that is
    more. A round that is not drawn to its end leaves cells out, and varies for it."""
    return min(n, max(count, 8)) if coalition is None else max(1, round(n / coalition))


def _blocks(stratum: Tensor, draws: Draws, n: int, count: int, coalition: int | None) -> Tensor:
    """Cells in random order within their stratum (n,), dealt out to the blocks in turn, from a random block on; as many rounds as it takes."""
    blocks = blocks_a_round(n, count, coalition)
    rounds = -(-count // blocks)
    within = draws.integers(KEYS, rounds, n)
    rank = (stratum.to(within.device) * KEYS + within).argsort(2).argsort(2)
    block = (rank + draws.integers(blocks, rounds, 1)) % blocks
    present = block[:, :, None] == torch.arange(blocks, device=block.device)[:, None]
    return present.flatten(1, 2)[:, :count]


@lru_cache
def _position_in_patches(grid: int) -> Tensor:
    """int64 (grid²,): the place of each cell on the Z-curve, on which consecutive cells are close to each other."""
    row, column = torch.arange(grid)[:, None], torch.arange(grid)
    code = sum((column >> b & 1) << 2 * b | (row >> b & 1) << 2 * b + 1 for b in range(grid.bit_length()))
    return code.flatten().argsort().argsort()


@dataclass(frozen=True)
class Sampler:
    """``draw(draws, n, count, coalition)`` gives bool (batch, count, n), ``pairs(n, count, coalition)`` the pairs that a contrast counts, on average;
    coalition=None stands for the sampler's own size."""

    draw: Callable[[Draws, int, int, int | None], Tensor]
    pairs: Callable[[int, int, int | None], float]


def _pairs_of_blocks(n: int, count: int, coalition: int | None) -> float:
    blocks = blocks_a_round(n, count, coalition)
    small, larger = divmod(n, blocks)
    return (larger * (small + 1) * (n - small - 1) + (blocks - larger) * small * (n - small)) / blocks


def _pairs_of_distinct(n: int, count: int, coalition: int | None) -> float:
    k = coalition or authors_size(n)
    return k * (n - k)


SAMPLERS = {
    "authors": Sampler(with_replacement, lambda n, count, coalition: pairs_across(n, coalition or authors_size(n))),
    "distinct": Sampler(distinct, _pairs_of_distinct),
    "partition": Sampler(partition, _pairs_of_blocks),
    "stratified": Sampler(stratified, _pairs_of_blocks),
}
