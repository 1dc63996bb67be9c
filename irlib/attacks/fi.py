"""FI (M12): against the features that matter. Objective slot."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from irlib import _check
from irlib.attacks.loop import Ascended, Attack, Opened
from irlib.draws import Draws
from irlib.surgery import features, outputs, places


@dataclass(frozen=True)
class FeatureImportance:
    """−Σ w⊙f(x+δ), w the mean gradient of logit z_y with respect to f over randomly masked images, of ℓ2 length 1 for each image."""

    modules: Sequence[nn.Module]
    masks: int
    keep: float

    def __call__(self, opened: Opened, x: Tensor, y: Tensor, draws: Draws) -> Ascended:
        total: list[Tensor | float] = [0.0] * len(self.modules)
        for _ in range(self.masks):
            kept = draws.uniform(*x.shape[1:]) < self.keep
            with opened() as source:
                total = [t + g for t, g in zip(total, self._importance(source, x * kept, y), strict=True)]
        weights = [
            t / torch.linalg.vector_norm(t.flatten(1), dim=1).clamp_min(torch.finfo(t.dtype).tiny).view(-1, *[1] * (t.ndim - 1)) for t in total
        ]

        def ascended(source: nn.Module, base: Tensor, delta: Tensor) -> Tensor:
            now = features(source, self.modules, base + delta)
            return -sum((w * f).flatten(1).sum(1) for w, f in zip(weights, now, strict=True))

        return ascended

    def _importance(self, source: nn.Module, masked: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        """∂z_y/∂f at the masked images."""
        seen: dict[nn.Module, Tensor] = {}

        def keep(module: nn.Module, out: Tensor) -> Tensor:
            seen[module] = out
            return out.clone()  # what follows may work in place

        with torch.enable_grad(), outputs({m: partial(keep, m) for m in self.modules}):
            z = source(masked.requires_grad_())
            return torch.autograd.grad(z.gather(1, y[:, None]).sum(), [seen[m] for m in self.modules])


def fi(attack: Attack, layer: str | Sequence[str] | None = None, masks: int = 30, keep: float = 0.7) -> Attack:
    """FIA (Wang et al. 2021): descend Σ w⊙f_k(x+δ), w = Σ_M ∂z_y/∂f_k(M⊙x) over random masks M, normalised; with momentum.

    ``masks`` N masks keep each pixel and channel with probability ``keep``; published 30 and 0.7 (its code's flag says 0.9). ``layer``: dotted
    name of the module whose output is f_k (one for each model of an ensemble); by default the one registered for the network, published for
    VGG-16, ResNet-152, Inception-v3 and Inception-ResNet-v2. Momentum is MI's, `decay` 1 as published; 0 leaves the objective alone. Other
    codes take the softmax probability or the cross-entropy for the logit, mask after the normalisation, or leave the momentum out. Masked
    pixels are black, the zero of the unnormalised image. Costs masks + steps passes. Untargeted only.
    """
    _check.at_least(masks, 1, "masks")
    if not 0 < keep <= 1:
        raise ValueError(f"keep must lie in (0, 1], got {keep}")
    if attack.objective.targeted:
        raise ValueError("fi is defined for untargeted attacks: its weights are those of the image's own class")
    return replace(attack, objective=FeatureImportance(places(attack.model, "fi", layer), masks, keep))
