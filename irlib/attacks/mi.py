"""MI (M1): momentum. Direction slot."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from irlib.attacks.loop import Attack


@dataclass(frozen=True)
class Momentum:
    """``decay`` times the past plus the gradient in units of its own ℓ1 norm, image by image."""

    decay: float

    def __call__(self, g: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        unit = g / g.abs().sum((1, 2, 3), keepdim=True).clamp_min(torch.finfo(g.dtype).tiny)
        total = unit if past is None else self.decay * past + unit
        return total, total


def mi(attack: Attack, decay: float = 1.0) -> Attack:
    """MI-FGSM (Dong et al. 2018): m ← decay·m + ∇/‖∇‖₁, step along m.

    ``decay`` ≥ 0, the authors' μ = 1. Codes that divide by the mean of |∇| instead of its sum take the same sign steps; those that sum over the
    whole batch do not. The paper's theory has μ_t = (t−1)/t and no normalisation (Eq. 14).
    """
    if not 0 <= decay < float("inf"):
        raise ValueError(f"decay must be a finite number ≥ 0, got {decay}")
    return replace(attack, direction=Momentum(decay))
