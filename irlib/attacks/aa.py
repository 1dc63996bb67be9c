"""AA: towards the features of another image. Objective slot."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from irlib import _check
from irlib.attacks.loop import Ascended, Attack, Opened
from irlib.draws import Draws
from irlib.surgery import features, places


@dataclass(frozen=True)
class FeatureDistance:
    """−‖f(x+δ) − f(guide)‖₂ image by image, f the outputs of ``modules``; guide (1 or batch, channels, height, width)."""

    modules: Sequence[nn.Module]
    guide: Tensor

    def __call__(self, opened: Opened, x: Tensor, y: Tensor, draws: Draws) -> Ascended:
        if self.guide.shape[1:] != x.shape[1:] or len(self.guide) not in (1, len(x)):
            wanted = f"(1 or {len(x)}, {', '.join(map(str, x.shape[1:]))})"
            raise ValueError(f"guide must be one image or one for each of x, shape {wanted}, got {tuple(self.guide.shape)}")
        with opened() as source, torch.no_grad():
            goal = features(source, self.modules, self.guide.expand_as(x))

        def ascended(source: nn.Module, base: Tensor, delta: Tensor) -> Tensor:
            now = features(source, self.modules, base + delta)
            return -sum(torch.linalg.vector_norm((f - g).flatten(1), dim=1) for f, g in zip(now, goal, strict=True))

        return ascended


def aa(attack: Attack, guide: Tensor | None = None, layer: str | Sequence[str] | None = None) -> Attack:
    """Activation Attack (Inkawhich et al. 2019): descend ‖f_l(x+δ) − f_l(guide)‖₂, with momentum.

    ``guide``: the image whose features are aimed at, one for all or one for each, in [0, 1]; its class is what the attack aims for, so there is
    no default, and ``targeted`` has no meaning here. ``layer``: dotted name of the module whose output is f_l (one for each model of an
    ensemble); by default the one registered for the network, published for ResNets (layer2). Momentum is MI's, `decay` 1
    as published, with ε = 0.07 and 10 steps; one other code takes 300 steps of 2/255, one the batch's farthest image as guide.
    """
    if guide is None:
        raise ValueError("aa needs guide=, the image whose features are aimed at: (1, channels, height, width), or one for each image attacked")
    if attack.objective.targeted:
        raise ValueError("aa aims at the guide image, whatever the labels: leave targeted out")
    _check.images(guide, attack.model, "guide")
    return replace(attack, objective=FeatureDistance(places(attack.model, "aa", layer), guide.detach()))
