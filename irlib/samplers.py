"""Which coalitions the interaction loss is estimated from.

For a coalition A the contrast v(Ω) − v(Ω∖A) − v(A) + v(∅) is, for a quadratic v, the sum of I_ab over a in A and b outside. A sampler draws
coalitions; `Sampler.pairs` is the expected number k(n−k) of ordered pairs that one contrast counts, which turns it into the mean over pairs.
Disjoint coalitions that fill the grid leave out only the pairs inside one: their sum hardly varies. If neighbours are never in one, less still.
Smaller coalitions have less bias: of a loss that is not quadratic, contrasts of large ones average other orders than Eq. 6 does.
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


def with_replacement(draws: Draws, n: int, count: int, coalition: int) -> Tensor:
    """The authors': each coalition ``coalition`` cells, some drawn more than once."""
    cells = draws.integers(n, count, coalition)
    return torch.zeros(*cells.shape[:2], n, dtype=torch.bool, device=cells.device).scatter(2, cells, True)


def distinct(draws: Draws, n: int, count: int, coalition: int) -> Tensor:
    """Each coalition ``coalition`` different cells."""
    return draws.integers(KEYS, count, n).argsort(2).argsort(2) < coalition


def partition(draws: Draws, n: int, count: int, coalition: int) -> Tensor:
    """Random partitions of the grid into equal blocks (to within a cell): each cell once a round."""
    return _blocks(torch.zeros(n, dtype=torch.int64), draws, n, count, coalition)


def stratified(draws: Draws, n: int, count: int, coalition: int) -> Tensor:
    """Such partitions with the cells of a block apart: the grid is cut into patches of as many cells as there are blocks, and each block has one
    cell of each patch."""
    return _blocks(_position_in_patches(round(n**0.5)) // blocks_a_round(n, coalition), draws, n, count, coalition)


def blocks_a_round(n: int, coalition: int) -> int:
    """How many blocks of about ``coalition`` cells fill a grid of n."""
    return max(1, round(n / coalition))


def _blocks(stratum: Tensor, draws: Draws, n: int, count: int, coalition: int) -> Tensor:
    """Cells in random order within their stratum (n,), dealt out to the blocks in turn, from a random block on; as many rounds as it takes."""
    blocks = blocks_a_round(n, coalition)
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
    """``draw(draws, n, count, coalition)`` gives bool (batch, count, n); ``pairs(n, coalition)`` the pairs that a contrast counts, on average;
    ``size(n, count)`` the cells of a coalition where nothing else is asked for."""

    draw: Callable[[Draws, int, int, int], Tensor]
    pairs: Callable[[int, int], float]
    size: Callable[[int, int], int]


def authors_size(n: int, count: int = 32) -> int:
    """n/8 cells: 32 of 256."""
    return max(1, round(n / 8))


def one_round(n: int, count: int) -> int:
    """As many cells as make ``count`` blocks fill the grid once, and n/8 at most."""
    return min(authors_size(n), max(1, round(n / count)))


def _pairs_of_blocks(n: int, coalition: int) -> float:
    blocks = blocks_a_round(n, coalition)
    small, larger = divmod(n, blocks)
    return (larger * (small + 1) * (n - small - 1) + (blocks - larger) * small * (n - small)) / blocks


SAMPLERS = {
    "authors": Sampler(with_replacement, pairs_across, authors_size),
    "distinct": Sampler(distinct, lambda n, coalition: coalition * (n - coalition), authors_size),
    "partition": Sampler(partition, _pairs_of_blocks, one_round),
    "stratified": Sampler(stratified, _pairs_of_blocks, one_round),
}
