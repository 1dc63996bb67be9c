"""One attack loop, five slots.

An attack climbs an objective of the perturbation δ, inside a set around the image x. Every method is what it puts into one slot:

    network      which network propagates            a context manager around the source model
    objective    what is ascended                    (source, base, δ, y) -> (batch,)
    sampling     where its gradient is taken         (loss, x, δ) -> gradient
    direction    what is stepped along               (gradient, state) -> (direction, state)
    projection   how the constraint is kept          a class of `irlib.attacks.projection`

The objective sees the base point and δ apart: sampling moves the base, masks act on δ only, and slots combine without knowing each other.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from irlib import _check
from irlib.attacks.projection import Linf, Projection

Loss = Callable[[Tensor, Tensor], Tensor]  # (base, δ) -> (batch,)


@dataclass(frozen=True)
class CrossEntropy:
    """The loss of label y, minus the loss of the target label y if ``targeted``.

    In float64, from the logits on: for a confident image 1 − p_y is below float32's resolution and the gradient would lose its digits.
    """

    targeted: bool = False

    def __call__(self, source: nn.Module, base: Tensor, delta: Tensor, y: Tensor) -> Tensor:
        loss = F.cross_entropy(source(base + delta).double(), y, reduction="none")
        return -loss if self.targeted else loss


def gradient(loss: Loss, base: Tensor, delta: Tensor) -> Tensor:
    """∇_δ loss(base, δ), image by image; the network's parameters get none."""
    with torch.enable_grad():
        delta = delta.detach().requires_grad_()
        value = loss(base, delta).sum()
    return torch.autograd.grad(value, delta)[0]


def along_gradient(g: Tensor, state: Any) -> tuple[Tensor, Any]:
    """The default direction: the gradient itself, no memory."""
    return g, state


@dataclass(frozen=True)
class Run:
    """What an attack did: the images and their perturbation; with ``record=True`` also every perturbation and the source's loss there."""

    x_adv: Tensor  # (batch, channels, height, width)
    delta: Tensor  # likewise; x_adv − x, without the digits that the addition to x rounds away
    deltas: Tensor | None = None  # (steps + 1, batch, channels, height, width); deltas[0] is the start
    losses: Tensor | None = None  # float64 (steps + 1, batch): cross-entropy of y on the unaltered source at each of them


@dataclass(frozen=True)
class Attack:
    """Iterated ascent of ``objective`` on ``model``; made by `irlib.create_attack`, which documents the arguments."""

    model: nn.Module
    steps: int = 10
    alpha: float | Tensor | None = None
    fraction: float = 1 / 8  # without alpha, the step size in radii of the ball: 2/255 for 16/255, the paper's
    projection: Projection = Linf()
    network: Callable[[nn.Module], AbstractContextManager[nn.Module]] = nullcontext
    objective: Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor] = CrossEntropy()
    sampling: Callable[[Loss, Tensor, Tensor], Tensor] = gradient
    direction: Callable[[Tensor, Any], tuple[Tensor, Any]] = along_gradient
    random_start: bool = False
    seed: int = 0

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Adversarial images, of x's shape, dtype and device."""
        return self.run(x, y).x_adv

    def run(self, x: Tensor, y: Tensor, record: bool = False) -> Run:
        """Attack the images ``x`` of labels ``y``; the same seed gives the same result. The model is left as it was, also after an error.

        Raises ValueError or TypeError for images outside [0, 1] (normalisation belongs into the model), NaN, wrong shapes, dtypes, devices
        or labels, and a model in train mode.
        """
        _check.eval_mode(self.model)
        _check.images(x, self.model)
        with torch.no_grad():
            clean = self.model(x[:1])
        _check.logits(clean, 1)
        _check.labels(y, x, clean.shape[1])
        x, alpha = x.detach(), self._step_size(x)
        delta = self.projection.start(x, torch.Generator().manual_seed(self.seed)) if self.random_start else torch.zeros_like(x)
        deltas, state = [delta], None
        with self.network(self.model) as source:

            def loss(base: Tensor, d: Tensor) -> Tensor:
                return self.objective(source, base, d, y)

            for _ in tqdm(range(self.steps), desc="attack", delay=2, leave=False):
                v, state = self.direction(self.sampling(loss, x, delta), state)
                delta = self.projection.step(x, delta, v, alpha)
                if record:
                    deltas.append(delta)
        if not torch.isfinite(delta).all():
            raise ValueError("the attack left the finite numbers: the model's gradient is NaN or infinite, or alpha is too large for raw gradients")
        if not record:
            return Run(x + delta, delta)
        trajectory = torch.stack(deltas)
        return Run(x + delta, delta, trajectory, self._losses(x, y, trajectory))

    def _step_size(self, x: Tensor) -> Tensor | float:
        alpha = self.fraction * self.projection.radius(x) if self.alpha is None else self.alpha
        if not isinstance(alpha, Tensor):
            return alpha
        if alpha.shape != (len(x),):
            raise ValueError(f"alpha must be a number or a tensor of one step size an image, shape ({len(x)},), got {tuple(alpha.shape)}")
        return alpha.to(x)[:, None, None, None]

    @torch.no_grad()
    def _losses(self, x: Tensor, y: Tensor, deltas: Tensor) -> Tensor:
        return torch.stack([F.cross_entropy(self.model(x + d).double(), y, reduction="none") for d in deltas])


def checked_alpha(alpha: float | Tensor | None) -> float | Tensor | None:
    """``alpha`` as it is. Raises ValueError unless it is None, or every step size is finite and > 0."""
    for value in alpha.flatten().tolist() if isinstance(alpha, Tensor) else [] if alpha is None else [alpha]:
        if not 0 < value < math.inf:
            raise ValueError(f"alpha must be finite and > 0, got {value}")
    return alpha
