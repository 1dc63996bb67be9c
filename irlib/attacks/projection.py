"""How the constraint is kept: the last slot. Each class turns a direction into the next perturbation."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from irlib import _check
from irlib.draws import Draws

EPS = 16 / 255  # per pixel, the paper's


class Projection(Protocol):
    """A constraint set: its radius, a random start in it, and one step that ends in it. ``state``, None at first, is its memory between steps."""

    def radius(self, x: Tensor) -> float: ...

    def start(self, x: Tensor, draws: Draws) -> Tensor: ...

    def step(self, x: Tensor, delta: Tensor, direction: Tensor, alpha: float | Tensor, state: Any) -> tuple[Tensor, Any]: ...


@dataclass(frozen=True)
class Linf:
    """‖δ‖∞ ≤ eps and x + δ in [0, 1]: sign steps, clipped."""

    eps: float = EPS

    def radius(self, x: Tensor) -> float:
        return self.eps

    def start(self, x: Tensor, draws: Draws) -> Tensor:
        return self.clipped(x, self.eps * (2 * draws.uniform(*x.shape[1:]) - 1))

    def step(self, x: Tensor, delta: Tensor, direction: Tensor, alpha: float | Tensor, state: None) -> tuple[Tensor, None]:
        return self.clipped(x, delta + alpha * direction.sign()), None

    def clipped(self, x: Tensor, delta: Tensor) -> Tensor:
        """The nearest perturbation in the set."""
        return (x + delta.clamp(-self.eps, self.eps)).clamp(0, 1) - x


@dataclass(frozen=True)
class L2:
    """‖δ‖₂ ≤ eps and x + δ in [0, 1]: normalised steps, projected. ``eps`` and alpha are ℓ2 lengths; without eps it is 16/255·√n."""

    eps: float | None = None

    def radius(self, x: Tensor) -> float:
        return EPS * x[0].numel() ** 0.5 if self.eps is None else self.eps

    def start(self, x: Tensor, draws: Draws) -> Tensor:
        """Uniform in the ball: a uniform direction, and a length whose n-th power is uniform."""
        length = draws.uniform(1, 1, 1) ** (1 / x[0].numel())
        return self._projected(x, self.radius(x) * length * unit(draws.normal(*x.shape[1:])))

    def step(self, x: Tensor, delta: Tensor, direction: Tensor, alpha: float | Tensor, state: None) -> tuple[Tensor, None]:
        return self._projected(x, delta + alpha * unit(direction)), None

    def _projected(self, x: Tensor, delta: Tensor) -> Tensor:
        return (x + delta * (self.radius(x) / norms(delta).clamp_min(self.radius(x)))).clamp(0, 1) - x  # the clip can only shorten δ


@dataclass(frozen=True)
class Unconstrained:
    """No set: δ + alpha·direction, as the theorems have it. x + δ may leave [0, 1].

    ``eps`` binds nothing here; the idealised PI, which shares what exceeds it, reads it.
    """

    eps: float = EPS

    def radius(self, x: Tensor) -> float:
        raise ValueError("norm='none' steps along the raw gradient, whose size is the model's own: give alpha")

    def start(self, x: Tensor, draws: Draws) -> Tensor:
        raise ValueError("norm='none' has no ball to start in: leave random_start out")

    def step(self, x: Tensor, delta: Tensor, direction: Tensor, alpha: float | Tensor, state: None) -> tuple[Tensor, None]:
        return delta + alpha * direction, None


def norms(v: Tensor) -> Tensor:
    """(batch, 1, 1, 1): ‖v‖₂ image by image."""
    return torch.linalg.vector_norm(v, dim=(1, 2, 3), keepdim=True)


def unit(v: Tensor) -> Tensor:
    """v / ‖v‖₂ image by image; zero stays zero."""
    return v / norms(v).clamp_min(torch.finfo(v.dtype).tiny)


def for_norm(norm: str, eps: float | None) -> Projection:
    """The projection called ``norm``: "linf", "l2" or "none". Raises ValueError for another name or eps ≤ 0."""
    if eps is not None:
        _check.positive(eps, "eps")
    if norm == "linf":
        return Linf() if eps is None else Linf(eps)
    if norm == "l2":
        return L2(eps)
    if norm == "none":
        return Unconstrained() if eps is None else Unconstrained(eps)
    _check.unknown_name("norm", norm, ("linf", "l2", "none"))
