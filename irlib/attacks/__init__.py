"""Attacks by name. A method takes the plain attack and fills one of its slots; its file is its idea."""

import inspect
from collections.abc import Callable

from torch import Tensor, nn

from irlib import _check
from irlib.attacks.loop import Attack, CrossEntropy, Run, checked_alpha
from irlib.attacks.mi import mi
from irlib.attacks.pgd import fgsm, pgd
from irlib.attacks.projection import for_norm

__all__ = ["Attack", "Run", "create_attack", "list_attacks"]

METHODS: dict[str, Callable[..., Attack]] = {"fgsm": fgsm, "mi": mi, "pgd": pgd}


def list_attacks() -> list[str]:
    """The names that `create_attack` knows."""
    return sorted(METHODS)


def create_attack(
    name: str,
    model: nn.Module,
    *,
    eps: float | None = None,
    alpha: float | Tensor | None = None,
    steps: int = 10,
    norm: str = "linf",
    targeted: bool = False,
    random_start: bool = False,
    seed: int = 0,
    **method: float,
) -> Attack:
    """The attack ``name`` on ``model``: call it with (x, y) for adversarial images, or its ``run`` for the trajectory.

    Args:
        name: one of `list_attacks`.
        model: the source: images in [0, 1] to logits, in eval mode, its normalisation inside.
        eps: radius of the ball, in pixel units ([0, 1]). Default 16/255 under linf, 16/255·√n under l2 (an ℓ2 length, n = entries of one
            image). Without effect under norm="none".
        alpha: step size in the same units, eps/8 by default (2/255 for 16/255); or a tensor (batch,) of one an image. norm="none" needs it.
        steps: number of steps. FGSM takes one step of size eps, whatever is said here and in alpha.
        norm: "linf" (sign steps), "l2" (normalised steps) or "none": plain gradient ascent, as in Eq. 10, without sign, clip or ball.
        targeted: descend the loss of the label given instead of ascending it.
        random_start: start uniformly in the ball; drawn from ``seed``, as everything random in the attack is.
        method: arguments of the method: mi `decay`.

    Raises ValueError for an unknown name or norm and for eps ≤ 0, alpha ≤ 0 or steps < 1; TypeError for an argument the method does not have.
    """
    if name not in METHODS:
        _check.unknown_name("attack", name, METHODS)
    _check.eval_mode(model)
    _check.at_least(steps, 1, "steps")
    known = list(inspect.signature(METHODS[name]).parameters)[1:]
    for argument in method:
        if argument not in known:
            raise TypeError(f"attack {name!r} has no argument {argument!r}; its own are: {', '.join(known) or 'none'}")
    plain = Attack(
        model,
        steps,
        checked_alpha(alpha),
        projection=for_norm(norm, eps),
        objective=CrossEntropy(targeted),
        random_start=random_start,
        seed=seed,
    )
    return METHODS[name](plain, **method)
