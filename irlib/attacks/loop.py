"""One attack loop, five slots.

An attack climbs an objective of the perturbation δ, inside a set around the image x. Every method is what it puts into one slot:

    network      which network propagates            (model, draws) -> context manager around the source, entered anew at every step
    objective    what is ascended                    (opened, x, y, draws) -> a function (source, base, δ) -> (batch,)
    sampling     where its gradient is taken         (loss, x, δ, draws, step) -> gradient, with loss(base, δ) -> (batch,)
    direction    what is stepped along               (gradient, state) -> (direction, state)
    projection   how the constraint is kept          a class of `irlib.attacks.projection`

The objective is prepared once for its images (``opened()`` is the context manager of the source) and then sees the base point and δ apart:
sampling moves the base, masks act on δ only, and slots combine without knowing each other.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from irlib import _check
from irlib.attacks.projection import Linf, Projection
from irlib.draws import Draws

Loss = Callable[[Tensor, Tensor], Tensor]  # (base, δ) -> (batch,)
Network = Callable[[nn.Module, Draws], AbstractContextManager[nn.Module]]
Opened = Callable[[], AbstractContextManager[nn.Module]]
Ascended = Callable[[nn.Module, Tensor, Tensor], Tensor]  # (source, base, δ) -> (batch,)
Objective = Callable[[Opened, Tensor, Tensor, Draws], Ascended]
Sampling = Callable[[Loss, Tensor, Tensor, Draws, int], Tensor]
Direction = Callable[[Tensor, Any], tuple[Tensor, Any]]


def as_is(model: nn.Module, draws: Draws) -> AbstractContextManager[nn.Module]:
    """The default network: the model itself."""
    return nullcontext(model)


@dataclass(frozen=True)
class CrossEntropy:
    """The default objective: the loss of label y, minus the loss of the target label y if ``targeted``.

    In float64, from the logits on: for a confident image 1 − p_y is below float32's resolution and the gradient would lose its digits.
    """

    targeted: bool = False

    def __call__(self, opened: Opened, x: Tensor, y: Tensor, draws: Draws) -> Ascended:
        return lambda source, base, delta: self.of(source(base + delta), y)

    def of(self, z: Tensor, y: Tensor) -> Tensor:
        """From logits z (rows, classes) and labels y (rows,)."""
        loss = F.cross_entropy(z.double(), y, reduction="none")
        return -loss if self.targeted else loss


def gradient(loss: Loss, base: Tensor, delta: Tensor) -> Tensor:
    """∇_δ loss(base, δ), image by image; the network's parameters get none."""
    with torch.enable_grad():
        delta = delta.detach().requires_grad_()
        value = loss(base, delta).sum()
    return torch.autograd.grad(value, delta)[0]


def at_the_point(loss: Loss, x: Tensor, delta: Tensor, draws: Draws, step: int) -> Tensor:
    """The default sampling: the gradient at x + δ."""
    return gradient(loss, x, delta)


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
    network: Network = as_is
    objective: Objective = CrossEntropy()
    sampling: Sampling = at_the_point
    direction: Direction = along_gradient
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
        _check.labels(y, x)
        x = x.detach()
        delta, deltas = x, []
        for delta in tqdm(self.iterates(x, y, Draws(x, self.seed)), total=self.steps + 1, desc="attack", delay=2, leave=False):
            if record:
                deltas.append(delta)
        if not torch.isfinite(delta).all():
            raise ValueError("the attack left the finite numbers: the model's gradient is NaN or infinite, or alpha is too large for raw gradients")
        if not record:
            return Run(x + delta, delta)
        trajectory = torch.stack(deltas)
        return Run(x + delta, delta, trajectory, self._losses(x, y, trajectory))

    def iterates(self, x: Tensor, y: Tensor, draws: Draws) -> Iterator[Tensor]:
        """The start and every further δ, each (batch, channels, height, width); for checked inputs."""
        alpha, watched = self._step_size(x), _check.FirstLogits(y)
        delta = self.projection.start(x, draws) if self.random_start else torch.zeros_like(x)
        yield delta

        @contextmanager
        def opened() -> Iterator[nn.Module]:
            with self.network(self.model, draws) as source, watched.on(source):
                yield source

        objective = self.objective(opened, x, y, draws)
        memory = kept = None
        for step in range(self.steps):
            with opened() as source:
                g = self.sampling(partial(objective, source), x, delta, draws, step)
            v, memory = self.direction(g, memory)
            delta, kept = self.projection.step(x, delta, v, alpha, kept)
            yield delta

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


def stacked(first: Network, second: Network) -> Network:
    """Two changes of one network: ``second`` alters what ``first`` has altered."""
    if first is as_is:
        return second

    @contextmanager
    def both(model: nn.Module, draws: Draws) -> Iterator[nn.Module]:
        with ExitStack() as stack:
            yield stack.enter_context(second(stack.enter_context(first(model, draws)), draws))

    return both


def chained(first: Direction, second: Direction) -> Direction:
    """Two directions after one another: ``second`` sees as its gradient what ``first`` makes of it."""

    def both(g: Tensor, states: Any) -> tuple[Tensor, Any]:
        mine, its = (None, None) if states is None else states
        v, mine = first(g, mine)
        v, its = second(v, its)
        return v, (mine, its)

    return both


def checked_alpha(alpha: float | Tensor | None) -> float | Tensor | None:
    """``alpha`` as it is. Raises ValueError unless it is None, or every step size is finite and > 0."""
    for value in alpha.flatten().tolist() if isinstance(alpha, Tensor) else [] if alpha is None else [alpha]:
        if not 0 < value < math.inf:
            raise ValueError(f"alpha must be finite and > 0, got {value}")
    return alpha
