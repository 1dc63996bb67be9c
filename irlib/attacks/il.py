"""IL (M7): further along the feature change of a first attack. Objective slot."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from irlib import _check
from irlib.attacks.loop import Ascended, Attack, Opened
from irlib.draws import Draws
from irlib.surgery import features, places


@dataclass(frozen=True)
class FeatureProjection:
    """⟨f(x+δ) − f(x), f(x+δ_base) − f(x)⟩ image by image, f the outputs of ``modules``, δ_base the end of the attack ``base``."""

    modules: Sequence[nn.Module]
    base: Attack

    def __call__(self, opened: Opened, x: Tensor, y: Tensor, draws: Draws) -> Ascended:
        *_, found = self.base.iterates(x, y, draws)
        with opened() as source, torch.no_grad():
            clean, moved = (features(source, self.modules, v) for v in (x, x + found))

        def ascended(source: nn.Module, base: Tensor, delta: Tensor) -> Tensor:
            now = features(source, self.modules, base + delta)
            return sum(((f - c) * (m - c)).flatten(1).sum(1) for f, c, m in zip(now, clean, moved, strict=True))

        return ascended


@dataclass(frozen=True)
class Along:
    """⟨δ, δ_base⟩: the projection in Eq. 275 with the pixels themselves as features, whose ascent is δ = η·δ_base (Eq. 276)."""

    base: Attack

    def __call__(self, opened: Opened, x: Tensor, y: Tensor, draws: Draws) -> Ascended:
        *_, found = self.base.iterates(x, y, draws)
        return lambda source, base, delta: (delta * found).flatten(1).sum(1)


def il(
    attack: Attack, layer: str | Sequence[str] | None = None, base_steps: int = 10, base_alpha: float | None = None, idealised: bool = False
) -> Attack:
    """ILA, projection form (Huang et al. 2019): a first attack finds δ_base, then from δ = 0 ascend ⟨f_l(x+δ) − f_l(x), f_l(x+δ_base) − f_l(x)⟩.

    The first attack is the same one on cross-entropy ("mi+il" starts with MI), ``base_steps`` steps long, its step ``base_alpha`` or else
    alpha. ``layer``: dotted name of the module whose output is f_l (one for each model of an ensemble); by default the one registered for the
    network, published for ResNets (layer3). Published: 10 and 10 steps, ε = 0.03. The original code and two others take one inner product
    over the whole batch; this one takes one an image, as two others do. Costs base_steps passes and two forwards more.
    ``idealised``: δ = η·δ_base (Eq. 276) with raw gradients; η = alpha·steps, δ_base of strength β₂ = base_alpha·base_steps; `Quadratic.il`.
    """
    _check.at_least(base_steps, 1, "base_steps")
    if base_alpha is not None:
        _check.positive(base_alpha, "base_alpha")
    base = replace(attack, steps=base_steps, alpha=attack.alpha if base_alpha is None else base_alpha)
    if idealised:
        return replace(attack, objective=Along(base))
    return replace(attack, objective=FeatureProjection(places(attack.model, "il", layer), base), random_start=False)
