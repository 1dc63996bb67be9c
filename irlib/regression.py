"""All pairwise interactions from coalitions drawn with their complements: a quadratic fit, and an unbiased estimate of what it misses.

For a coalition S and its complement only the even part e(S) = (v(S) + v(Ω∖S))/2 matters: both have the same weight in

    I_ab = Σ_S w_ab(S) v(S),   w_ab(S) = ± s!(n−s−2)!/(n−1)!  for a context S∖{a,b} of s units, + where S contains both or none of a and b (Eq. 6).

The sizes 0, 1, n−1, n are summed exactly; the others are drawn, a size k with probability ∝ 1/k(n−k), which keeps the weights over the
probabilities level. From e is subtracted a fitted quadratic form zᵀMz, z = ±1 for present and absent, whose interactions, 8·M_ab, are known:
the estimate is theirs plus the weighted mean of the residual on coalitions that the fit has not seen. That is unbiased whatever the fit, and it
varies only as far as the game is not quadratic. Regression-adjusted estimates of this kind: Witter, Liu and Musco, arXiv:2506.11849.
"""

import torch
from torch import Tensor

FOLDS = 5
RIDGE = 0.03  # of the number of coalitions: without it a fit to few of them is worse than none
ITERATIONS = 20


def interior_sizes(n: int) -> tuple[Tensor, Tensor]:
    """The sizes 2 … n − 2, int64, and their probabilities, float64."""
    size = torch.arange(2, n - 1)
    p = 1 / (size * (n - size)).double()
    return size, p / p.sum()


def all_pairs(inside: Tensor, even: Tensor, p: Tensor, border: Tensor) -> tuple[Tensor, Tensor]:
    """(I (n, n), its variance (n, n)), float64, of one game; the diagonals mean nothing.

    ``inside`` bool (m, n), coalitions of 2 … n − 2 units; ``even`` float64 (m,), e of each; ``p`` float64 (m,), the probability of its size;
    ``border`` float64 (1 + n,), e of Ω and of each single unit.
    """
    z = torch.where(inside, 1.0, -1.0).double()
    fold = torch.arange(len(z), device=z.device) % FOLDS
    values, variances = [], []
    for k in range(FOLDS):
        M = quadratic_fit(z[fold != k], even[fold != k])
        seen = fold == k
        mean, square = _weighted(inside[seen].double(), p[seen], even[seen] - _form(z[seen], M))
        values.append(8 * M + mean + _border(border - _form(_border_signs(len(M)).to(z), M)))
        variances.append((square - mean**2) / (int(seen.sum()) - 1))
    return torch.stack(values).mean(0), torch.stack(variances).mean(0) / FOLDS


def quadratic_fit(z: Tensor, e: Tensor) -> Tensor:
    """The symmetric M (n, n) with zᵀMz ≈ e over the rows of z (m, n), by ridge regression; M's diagonal is the constant. Conjugate gradients."""
    back = lambda r: z.T @ (r[:, None] * z)
    M = torch.zeros(z.shape[1], z.shape[1]).to(z)
    residual = back(e)
    direction, norm = residual, (residual**2).sum()
    for _ in range(ITERATIONS):
        if norm == 0:
            break
        image = back(_form(z, direction)) + RIDGE * len(z) * direction
        step = norm / (direction * image).sum()
        M, residual = M + step * direction, residual - step * image
        norm, previous = (residual**2).sum(), norm
        direction = residual + norm / previous * direction
    return M


def _form(z: Tensor, M: Tensor) -> Tensor:
    """zᵀMz for each row."""
    return ((z @ M) * z).sum(1)


def _weighted(c: Tensor, p: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """Means over the rows of w_ab·r/probability and of its square; c is 1 for present, 0 for absent."""
    n, k = c.shape[1], c.sum(1)
    both, mixed, none = (n / (size * p) for size in (k * (k - 1), -k * (n - k), (n - k) * (n - k - 1)))

    def mean(both: Tensor, mixed: Tensor, none: Tensor) -> Tensor:
        across = (c * mixed[:, None]).T @ (1 - c)
        return ((c * both[:, None]).T @ c + across + across.T + ((1 - c) * none[:, None]).T @ (1 - c)) / len(c)

    return mean(both * r, mixed * r, none * r), mean((both * r) ** 2, (mixed * r) ** 2, (none * r) ** 2)


def _border_signs(n: int) -> Tensor:
    """z of Ω and of each single unit."""
    return torch.cat([torch.ones(1, n), 2 * torch.eye(n) - 1])


def _border(e: Tensor) -> Tensor:
    """What the sizes 0, 1, n − 1 and n add to I, from e of Ω and of each single unit."""
    n, one = len(e) - 1, e[1:]
    pair = one[:, None] + one
    return 2 / (n - 1) * (e[0] - pair + (one.sum() - pair) / (n - 2))
