"""MI (M1): momentum. Direction slot."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from irlib.attacks.loop import Attack, chained


@dataclass(frozen=True)
class Momentum:
    """``decay`` times the past plus the gradient in units of its own ℓ1 norm, image by image."""

    decay: float

    def __call__(self, g: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        unit = g / g.abs().sum((1, 2, 3), keepdim=True).clamp_min(torch.finfo(g.dtype).tiny)
        total = unit if past is None else self.decay * past + unit
        return total, total


def running_mean(g: Tensor, past: tuple[int, Tensor] | None) -> tuple[Tensor, tuple[int, Tensor]]:
    """The mean of all gradients so far: μ_t = (t−1)/t of the past, 1/t of the new one (Eq. 14)."""
    t, mean = (1, g) if past is None else (past[0] + 1, past[1] + (g - past[1]) / (past[0] + 1))
    return mean, (t, mean)


def mi(attack: Attack, decay: float = 1.0, idealised: bool = False) -> Attack:
    """MI-FGSM (Dong et al. 2018): m ← decay·m + ∇/‖∇‖₁, step along m.

    ``decay`` ≥ 0, the authors' μ = 1. Codes that divide by the mean of |∇| instead of its sum take the same sign steps; those that sum over the
    whole batch do not. ``idealised``: δ ← δ + α g_t with g_t = μ_t g_{t−1} + (1−μ_t)∇ and μ_t = (t−1)/t (Eq. 14), the mean of all
    gradients so far; `Quadratic.mi` is its closed form.
    """
    if not 0 <= decay < float("inf"):
        raise ValueError(f"decay must be a finite number ≥ 0, got {decay}")
    if idealised:
        return replace(attack, direction=chained(attack.direction, running_mean))
    return replace(attack, direction=chained(attack.direction, Momentum(decay)))
