"""Local predictors of the total interaction: what the curvature at the clean image says of it, for one or two gradients instead of 2n + 2 forwards.

Lemma 2 reads the interaction off the Hessian. For a utility that is quadratic between x and x + δ both predictors, less their diagonal blocks, equal
`irlib.total_interaction`; of any smooth utility they keep the second order in δ alone. At the sizes of attacks they can miss most of the total:
compare before you trust them (`python -m irlib.bench interactions` does, network by network).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from irlib import _check
from irlib.game import UTILITIES, AttackGame
from irlib.memory import PassSize, budget, in_parts


def hessian(game: AttackGame, diagonal: bool = True) -> Tensor:
    """float64 (batch,): δᵀHδ (Lemma 2), H the Hessian of the utility at x, by one Hessian-vector product.

    It counts a = b, which `irlib.total_interaction` does not. ``diagonal=False`` leaves out the units' blocks Σ_a δ_aᵀHδ_a, for n products more.
    Exact derivatives: on a piecewise linear network those of the linear region of x. Differentiates twice, which torch.compile does not support.
    """

    def slope_of_slope(at: Tensor, along: Tensor, utility: Callable[[Tensor], Tensor]) -> Tensor:
        slope = torch.autograd.grad(utility(at), at, create_graph=True)[0]
        if not slope.requires_grad:  # the utility is affine
            return torch.zeros_like(at)
        return torch.autograd.grad((slope * along).sum(), at, materialize_grads=True)[0]

    everyone, units = _parts_of(game)
    along = everyone if diagonal else torch.cat([everyone, units])
    return _first_less_rest(game, torch.zeros_like(along), along, slope_of_slope)


def secant(game: AttackGame, diagonal: bool = True) -> Tensor:
    """float64 (batch,): (∇u(x+δ) − ∇u(x))ᵀδ, by two gradients: δᵀH̄δ for the mean Hessian H̄ between x and x + δ.

    It counts a = b; ``diagonal=False`` leaves out (∇u(x+δ_a) − ∇u(x))ᵀδ_a of every unit a. ∇u(x) then cancels: n + 1 gradients.
    """

    def slope(at: Tensor, along: Tensor, utility: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.autograd.grad(utility(at), at)[0]

    everyone, units = _parts_of(game)
    if diagonal:
        return _first_less_rest(game, torch.cat([everyone, ~everyone]), everyone.expand(2, -1), slope)
    every = torch.cat([everyone, units])
    return _first_less_rest(game, every, every, slope)


def _parts_of(game: AttackGame) -> tuple[Tensor, Tensor]:
    """The full coalition (1, n), and each unit's (n, n)."""
    return torch.ones(1, game.n, dtype=torch.bool, device=game.x.device), torch.eye(game.n, dtype=torch.bool, device=game.x.device)


def _first_less_rest(game: AttackGame, at: Tensor, along: Tensor, vector: Callable[..., Tensor]) -> Tensor:
    """(batch,): vectorᵀδ_along, taken at x + δ_at, of the first coalitions (k, n) less the sum over the others; in parts, as memory allows."""
    _check.one_utility(game)
    k = len(at)
    values = torch.empty(len(game.x) * k, dtype=torch.float64, device=game.x.device)

    def part(start: int, stop: int) -> None:
        flat = torch.arange(start, stop, device=game.x.device)
        image, which = flat // k, flat % k
        utility = lambda x: UTILITIES[game.utility](game.model(x).double(), game.y[image], game.rival[image]).sum()
        with torch.inference_mode(False), torch.enable_grad():
            where, delta = (torch.where(of[which][:, None, game.units], game.delta[image], 0) for of in (at, along))
            found = vector((game.x[image] + where).detach().requires_grad_(), delta, utility)
        values[start:stop] = (found.double() * delta).flatten(1).sum(1)

    with PassSize(game.model) as one:
        part(0, 1)
    in_parts(part, len(values), max(1, budget(game.x.device) // one.bytes))
    values = values.view(-1, k)
    return values[:, 0] - values[:, 1:].sum(1)
