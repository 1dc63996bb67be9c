"""PI (M4): what exceeds the ball goes to the neighbours. Projection slot."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from irlib import _check
from irlib.attacks.loop import Attack
from irlib.attacks.projection import Linf, Unconstrained


def to_neighbours(v: Tensor, size: int) -> Tensor:
    """W_p ∗ v: each pixel's value shared equally among the size² − 1 pixels around it, channel by channel; what falls off the image is lost."""
    kernel = v.new_full((size, size), 1 / (size**2 - 1))
    kernel[size // 2, size // 2] = 0
    return F.conv2d(v, kernel.expand(v.shape[1], 1, -1, -1), padding=size // 2, groups=v.shape[1])


@dataclass(frozen=True)
class PatchWise(Linf):
    """Amplified sign steps; what the accumulated step a has beyond eps is projected onto the neighbourhood and stepped along as well."""

    amplification: float = 10.0
    size: int = 3

    def step(self, x: Tensor, delta: Tensor, direction: Tensor, alpha: float | Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        amplified = alpha * self.amplification
        move = amplified * direction.sign()
        a = move if state is None else state + move
        cut = (a.abs() - self.eps).clamp_min(0) * a.sign()
        handed = to_neighbours(cut, self.size)
        # neighbours' excesses are often equal and opposite: what is left of them then is rounding, and has no sign
        rounding = 16 * torch.finfo(cut.dtype).eps * cut.abs().amax((1, 2, 3), keepdim=True)
        shared = amplified * torch.where(handed.abs() > rounding, handed, 0).sign()
        return self.clipped(x, delta + move + shared), a + shared


@dataclass(frozen=True)
class SharedExcess(Unconstrained):
    """δ + αA·direction (Eq. 170): the part τ of unit a's step that would leave [−eps, eps] goes to its neighbours, 1 − τ stays (Eq. 171)."""

    size: int = 3

    def step(self, x: Tensor, delta: Tensor, direction: Tensor, alpha: float | Tensor, state: None) -> tuple[Tensor, None]:
        move = alpha * direction
        beyond = delta + move
        excess = beyond - beyond.clamp(-self.eps, self.eps)
        # a unit that its neighbours have already pushed out keeps nothing of a step further out, and all of a step back
        tau = torch.where(move == 0, 0, excess / torch.where(move == 0, 1, move)).clamp(0, 1)
        return delta + (1 - tau) * move + to_neighbours(tau * move, self.size), None


def pi(attack: Attack, amplification: float = 10.0, kernel_size: int = 3, idealised: bool = False) -> Attack:
    """PI-FGSM (Gao et al. 2020), patch-wise: a ← a + αβ·sign ∇; C = what a has beyond ε; x ← Π(x + αβ·sign ∇ + P), P = αβ·sign(W_p∗C); a ← a + P.

    ``amplification`` β > 0, published 10; ``kernel_size`` odd ≥ 3, published 3: W_p gives each of the 8 neighbours an equal part. Without alpha,
    alpha is eps/steps, as published (1.6/255 for 16/255 and 10 steps). Only under linf. Other codes name eps and steps otherwise and have
    unused arguments; combined with FI, β = 2.5 and P halved are used. "PI" of some benchmarks is another attack (pre-gradient momentum).
    ``idealised``: δ ← δ + αA∇ with the matrix A of Eq. 15 at the present step, ε in pixel units; `Quadratic.pi` is its closed form for a
    fixed A. At the image's edge the neighbours' share is lost, as in W_p.
    """
    _check.positive(amplification, "amplification")
    if kernel_size < 3 or kernel_size % 2 != 1:
        raise ValueError(f"kernel_size must be an odd number ≥ 3, got {kernel_size}")
    if idealised:
        return replace(attack, projection=SharedExcess(attack.projection.eps, kernel_size))
    if type(attack.projection) is not Linf:
        raise ValueError("pi hands on what exceeds the ℓ∞ ball: it is defined under norm='linf', and with idealised=True under norm='none'")
    return replace(attack, projection=PatchWise(attack.projection.eps, amplification, kernel_size), fraction=1 / attack.steps)
