"""VR (M8): the gradient averaged over Gaussian noise. Sampling slot."""

from dataclasses import dataclass, replace

from torch import Tensor

from irlib import _check
from irlib.attacks.loop import Attack, Loss, Sampling
from irlib.draws import Draws


@dataclass(frozen=True)
class GaussianCopies:
    """The mean over ``samples`` copies x + ξ, ξ ~ N(0, σ²), of what ``inner`` finds there."""

    sigma: float
    samples: int
    inner: Sampling

    def __call__(self, loss: Loss, x: Tensor, delta: Tensor, draws: Draws, step: int) -> Tensor:
        copies = (x + self.sigma * draws.normal(*x.shape[1:]) for _ in range(self.samples))
        return sum(self.inner(loss, copy, delta, draws, step) for copy in copies) / self.samples


def vr(attack: Attack, sigma: float = 15 / 255, samples: int = 20) -> Attack:
    """VR-IGSM (Wu et al. 2018): step along the mean of ∇L(x + δ + ξ_k), ξ_k ~ N(0, σ²), k = 1 … m, drawn anew at every step.

    ``sigma`` ≥ 0 in pixel units, 15/255 in the paper's code; ``samples`` m, 20 in the original as far as known, 5 in the paper's VR+IR. x + δ + ξ
    may leave [0, 1]. The paper's code sums over the copies instead of averaging, which only a penalty beside the loss notices. Costs m passes a step.
    """
    if not 0 <= sigma < float("inf"):
        raise ValueError(f"sigma must be a finite number ≥ 0, got {sigma}")
    _check.at_least(samples, 1, "samples")
    return replace(attack, sampling=GaussianCopies(sigma, samples, attack.sampling))
