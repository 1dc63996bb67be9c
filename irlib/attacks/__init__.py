"""Attacks by name. A method takes an attack and fills one of its slots; its file is its idea. Names joined by "+" fill several."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from irlib import _check
from irlib.attacks.aa import aa
from irlib.attacks.di import di
from irlib.attacks.fd import fd
from irlib.attacks.fi import fi
from irlib.attacks.ghost import ghost
from irlib.attacks.ia import ia
from irlib.attacks.il import il
from irlib.attacks.ir import ir
from irlib.attacks.linbp import linbp
from irlib.attacks.loop import Attack, CrossEntropy, Run, checked_alpha
from irlib.attacks.mi import mi
from irlib.attacks.pgd import fgsm, pgd
from irlib.attacks.pi import pi
from irlib.attacks.projection import for_norm
from irlib.attacks.rap import rap
from irlib.attacks.sgm import sgm
from irlib.attacks.ti import ti
from irlib.attacks.vr import vr
from irlib.ensemble import Ensemble

__all__ = ["Attack", "Run", "create_attack", "list_attacks"]

# Applied in this order, whatever the order of the names: of two samplings the later one is outside, of two directions it acts later (TI
# smooths what momentum then collects), and IL comes last, since all the others belong to the attack that it starts with.
METHODS: dict[str, tuple[str, Callable[..., Attack]]] = {
    "pgd": ("", pgd),
    "fgsm": ("", fgsm),
    "fd": ("network and objective", fd),
    "linbp": ("network", linbp),
    "sgm": ("network", sgm),
    "ghost": ("network", ghost),
    "ia": ("network", ia),
    "aa": ("objective", aa),
    "fi": ("objective", fi),
    "ir": ("objective", ir),
    "di": ("sampling", di),
    "rap": ("sampling", rap),
    "vr": ("sampling", vr),
    "ti": ("direction", ti),
    "mi": ("direction", mi),
    "pi": ("projection", pi),
    "il": ("objective", il),
}
# What a name stands for besides itself: the momentum that is part of the published method, or all of a combination, with its own defaults.
STANDS_FOR: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "aa": (("aa", "mi"), {}),
    "fd": (("fd", "mi"), {}),
    "fi": (("fi", "mi"), {}),
    "hybrid-ir": (("mi", "vr", "sgm", "ir"), {"samples": 5}),
}
IDEALISED = tuple(name for name, (_, method) in METHODS.items() if "idealised" in inspect.signature(method).parameters)


def list_attacks() -> list[str]:
    """The names that `create_attack` knows; it also takes several of them joined by "+"."""
    return sorted(METHODS.keys() | STANDS_FOR.keys())


def create_attack(
    name: str,
    model: nn.Module | Sequence[nn.Module],
    *,
    eps: float | None = None,
    alpha: float | Tensor | None = None,
    steps: int = 10,
    norm: str | None = None,
    targeted: bool = False,
    random_start: bool = False,
    seed: int = 0,
    idealised: bool = False,
    **method: Any,
) -> Attack:
    """The attack ``name`` on ``model``: call it with (x, y) for adversarial images, or its ``run`` for the trajectory.

    Args:
        name: one of `list_attacks`, or several joined by "+" ("mi+ir", "vr+sgm+ir"), in any order. "hybrid-ir" is "mi+vr+sgm+ir".
        model: the source: images in [0, 1] to logits, in eval mode, its normalisation inside. Or a list of such: the mean of their logits is
            attacked.
        eps: radius of the ball, in pixel units ([0, 1]). Default 16/255 under linf, 16/255·√n under l2 (an ℓ2 length, n = entries of one
            image). Under norm="none" only the idealised PI takes note of it.
        alpha: step size in the same units, eps/8 by default (2/255 for 16/255), eps/steps for PI; or a tensor (batch,) of one an image.
            norm="none" needs it.
        steps: number of steps. FGSM takes one step of size eps, whatever is said here and in alpha.
        norm: "linf" (sign steps; the default), "l2" (normalised steps) or "none": plain gradient ascent, as in Eq. 10, without sign, clip or ball.
        targeted: descend the loss of the label given instead of ascending it. FI has no targeted form; AA aims at its guide image instead.
        random_start: start uniformly in the ball; drawn from ``seed``, as everything random in the attack is.
        idealised: the recursion of the paper's proof instead of the published rule, on raw gradients: mi, rap, pi and il have one of their own,
            pgd's and fgsm's is norm="none".
        method: arguments of the methods: mi `decay`; ti `kernel_size`; di `prob`; vr `sigma, samples`; rap `eps_n, inner_steps, late_start`;
            sgm `gamma`; ghost `skip_range, dropout`; linbp `from_layer`; ia `beta, residual_scale`; il `layer, base_steps, base_alpha`;
            fi `layer, masks, keep`; aa `guide, layer`; fd `heads`; pi `amplification, kernel_size`; ir `lam, grid, draws, coalition, utility,
            scaling, control`; fi, aa and fd also MI's `decay`, their published momentum. Each method's function has its rule and source.

    Raises ValueError for an unknown name or norm, for eps ≤ 0, alpha ≤ 0 or steps < 1, for methods that exclude each other, and for a network
    that lacks what a method needs (residual branches, ReLUs, a registered layer), naming what was looked for; TypeError for an argument the
    methods do not have.
    """
    if isinstance(model, Sequence):
        model = Ensemble(model)
    _check.eval_mode(model)
    _check.at_least(steps, 1, "steps")
    names, arguments = _parts(name)
    chosen = {part: inspect.signature(METHODS[part][1]).parameters.keys() - {"attack", "idealised"} for part in names}
    known = sorted(set().union(*chosen.values()))
    for argument in method:
        if argument not in known:
            raise TypeError(f"attack {name!r} has no argument {argument!r}; its own are: {', '.join(known) or 'none'}")
    if idealised:
        if not set(names) & {*IDEALISED, "pgd", "fgsm"}:
            raise ValueError(f"the paper has no idealised form of {name!r}; it has one of {', '.join(IDEALISED)}, and of pgd and fgsm")
        if norm not in (None, "none"):
            raise ValueError(f"idealised attacks have no sign and no ball: leave norm={norm!r} out")
        norm = "none"
    attack = Attack(
        model,
        steps,
        checked_alpha(alpha),
        projection=for_norm(norm or "linf", eps),
        objective=CrossEntropy(targeted),
        random_start=random_start,
        seed=seed,
    )
    arguments |= method
    for part in names:
        fill = METHODS[part][1]
        own = {key: value for key, value in arguments.items() if key in chosen[part]}
        attack = fill(attack, **own, idealised=True) if idealised and part in IDEALISED else fill(attack, **own)
    return attack


def _parts(name: str) -> tuple[list[str], dict[str, Any]]:
    """The methods that ``name`` stands for, in the order in which they are applied, and the defaults that come with it."""
    parts: set[str] = set()
    defaults: dict[str, Any] = {}
    for each in name.split("+"):
        if each not in METHODS and each not in STANDS_FOR:
            _check.unknown_name("attack", each, list_attacks())
        implied, own = STANDS_FOR.get(each, ((each,), {}))
        parts |= set(implied)
        defaults |= own
    for slot in ("objective", "projection"):
        same = sorted(part for part in parts if slot in METHODS[part][0])
        if len(same) > 1:
            raise ValueError(f"{' and '.join(same)} each fill the {slot} slot, which holds one: choose between them")
    altering = sorted(part for part in parts if METHODS[part][0] == "network")
    if "fd" in parts and altering:
        raise ValueError(f"fd attacks a network of its own, which {' and '.join(altering)} would not alter: choose between them")
    return [part for part in METHODS if part in parts], defaults
