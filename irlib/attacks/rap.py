"""RAP (M6): the gradient at the reverse perturbation. Sampling slot."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from irlib import _check
from irlib.attacks.loop import Attack, Loss, Sampling
from irlib.attacks.projection import Linf, Projection, Unconstrained
from irlib.draws import Draws


@dataclass(frozen=True)
class ReversePerturbation:
    """What ``inner`` finds at x + r, where r went ``steps`` steps of ``alpha`` down the loss inside ``ball``; from step ``late_start`` on."""

    ball: Projection
    alpha: float | Tensor
    steps: int
    late_start: int
    random_start: bool
    inner: Sampling

    def __call__(self, loss: Loss, x: Tensor, delta: Tensor, draws: Draws, step: int) -> Tensor:
        if step < self.late_start:
            return self.inner(loss, x, delta, draws, step)
        r = self.ball.start(x, draws) if self.random_start else torch.zeros_like(x)
        alpha = self.alpha.to(x) if isinstance(self.alpha, Tensor) else self.alpha
        for _ in range(self.steps):
            r, _ = self.ball.step(x, r, -self.inner(loss, x + r, delta, draws, step), alpha, None)
        return self.inner(loss, x + r, delta, draws, step)


@dataclass(frozen=True)
class LinfBall(Linf):
    """‖r‖∞ ≤ eps, wherever that leads: the reverse perturbation is clipped to its ball, not to the pixels' range."""

    def clipped(self, x: Tensor, delta: Tensor) -> Tensor:
        return delta.clamp(-self.eps, self.eps)


def rap(attack: Attack, eps_n: float = 16 / 255, inner_steps: int = 8, late_start: int = 0, idealised: bool = False) -> Attack:
    """RAP (Qin et al. 2022): max over δ of min over r; at every step r first descends the loss at x + δ + r, then δ ascends it there.

    r starts uniformly in ‖r‖∞ ≤ ``eps_n`` and takes ``inner_steps`` sign steps of eps_n/inner_steps, drawn anew at every step of δ; published 16/255
    and 8. ``late_start``: so many steps without r come first (RAP-LS: 100 of 400). The authors' r acts only with a flag; others use 10 inner
    steps, or momentum throughout ("mi+rap" here). Costs inner_steps + 1 passes a step.
    ``idealised``: r from 0 along the raw gradient with δ's own α, inner_steps times, unclipped, and δ likewise (Eq. 239–240);
    `Quadratic.rap` is its closed form.
    """
    if not 0 <= eps_n < float("inf"):
        raise ValueError(f"eps_n must be a finite number ≥ 0, got {eps_n}")
    _check.at_least(inner_steps, 1, "inner_steps")
    _check.at_least(late_start, 0, "late_start")
    if not idealised:
        return replace(attack, sampling=ReversePerturbation(LinfBall(eps_n), eps_n / inner_steps, inner_steps, late_start, True, attack.sampling))
    if attack.alpha is None:
        raise ValueError("the idealised RAP steps along raw gradients: give alpha")
    alpha = attack.alpha[:, None, None, None] if isinstance(attack.alpha, Tensor) else attack.alpha
    return replace(attack, sampling=ReversePerturbation(Unconstrained(), alpha, inner_steps, late_start, False, attack.sampling))
