"""How well perturbations transfer: success, transfer utility, the best step by leave-one-out, and intervals over images."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import bootstrap
from torch import Tensor, nn

from irlib import _check
from irlib.game import margin, rivals


class Interval(NamedTuple):
    """A mean over images and its bootstrap interval."""

    mean: float
    low: float
    high: float


@torch.no_grad()
def logits(model: nn.Module, x: Tensor, batch: int = 500) -> Tensor:
    """(images, classes): model(x), ``batch`` images a pass. Raises ValueError for an output that is not finite logits."""
    parts = []
    for part in x.split(batch):
        parts.append(model(part))
        _check.logits(parts[-1], len(part))
    return torch.cat(parts)


def fooled(x_adv: Tensor, y: Tensor, targets: nn.Module | Sequence[nn.Module], batch: int = 500) -> Tensor:
    """bool (targets, images): whether each target gives the adversarial image another label than y, ``batch`` images a pass.

    Every rate of this module is a mean over these. Raises ValueError or TypeError for images, labels or a target that make no sense.
    """
    return torch.stack([_labelled(target, x_adv, y, batch).argmax(1) != y for target in _several(targets)])


def all_right(x: Tensor, y: Tensor, models: Sequence[nn.Module]) -> tuple[Tensor, Tensor]:
    """The images that every one of ``models`` gives their label, and those labels: what a study of transfer starts from."""
    kept = ~fooled(x, y, models).any(0)
    return x[kept], y[kept]


def transfer_success(x_adv: Tensor, y: Tensor, targets: nn.Module | Sequence[nn.Module], x: Tensor | None = None) -> Tensor:
    """float64 (targets,): the fraction of adversarial images that each target gives another label than y.

    The denominator is all images; with the clean images ``x`` it is those that the target has right, whose own errors then do not count as
    successes. A target with none right gets NaN.
    """
    missed = fooled(x_adv, y, targets).double()
    if x is None:
        return missed.mean(1)
    _check.like(x, x_adv, "x", "x_adv")
    right = ~fooled(x, y, targets)
    return (missed * right).sum(1) / right.sum(1)


def transfer_utility(x_adv: Tensor, x: Tensor, y: Tensor, target: nn.Module, batch: int = 500) -> Tensor:
    """float64 (images,): by how much the perturbation moves the target's margin max_{y'≠y} z_y' − z_y; y' is chosen anew at each of the two."""
    _check.like(x, x_adv, "x", "x_adv")
    return _margin(_labelled(target, x_adv, y, batch), y) - _margin(_labelled(target, x, y, batch), y)


def leave_one_out(fooled: Tensor) -> float:
    """The success rate when every image is judged at the step that is best for all the others (the paper's Appendix S).

    Args:
        fooled: bool (steps, images), whether each update fools the target; a row for every update of the attack, the last one included, and
            none for the start. Of several best steps the earliest counts.

    An image never chooses its own step, so that trying many steps earns no credit by luck. (The authors' code scores the state before each
    update instead: the clean image counts as a step and the last update is never judged.) Raises ValueError for fewer than two images.
    """
    if not isinstance(fooled, Tensor) or fooled.dtype != torch.bool or fooled.ndim != 2:
        raise TypeError(f"fooled must be a bool tensor (steps, images), got {_check.described(fooled)}")
    steps, images = fooled.shape
    if steps < 1 or images < 2:
        raise ValueError(f"leaving one image out needs at least one step and two images, got {tuple(fooled.shape)}")
    others = fooled.sum(1, keepdim=True) - fooled.long()
    best = others.argmax(0)  # the first of equal ones
    return fooled[best, torch.arange(images, device=fooled.device)].double().mean().item()


def interval(values: Tensor | Sequence[float], level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Interval:
    """The mean of one value an image and its percentile bootstrap interval over images.

    For a rate, the values are 0 and 1. Raises ValueError for fewer than two values, NaN or infinite ones, or a level outside (0, 1).
    """
    v = torch.as_tensor(values).double().cpu().numpy()
    if v.ndim != 1 or len(v) < 2 or not np.isfinite(v).all():
        raise ValueError(f"an interval needs at least two finite values, one an image, got shape {v.shape}" + " with NaN" * bool(np.isnan(v).any()))
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level}")
    _check.at_least(resamples, 1, "resamples")
    found = bootstrap((v,), np.mean, confidence_level=level, n_resamples=resamples, method="percentile", rng=np.random.default_rng(seed))
    return Interval(float(v.mean()), float(found.confidence_interval.low), float(found.confidence_interval.high))


def paired_difference(
    a: Tensor | Sequence[float], b: Tensor | Sequence[float], level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """The mean of a − b and its interval, a and b measured on the same images: what the images have in common cancels."""
    a, b = (torch.as_tensor(v).double().cpu() for v in (a, b))
    if a.shape != b.shape:
        raise ValueError(f"a pair needs a value of each on the same images, got shapes {tuple(a.shape)} and {tuple(b.shape)}")
    return interval(a - b, level, resamples, seed)


def _several(targets: nn.Module | Sequence[nn.Module]) -> list[nn.Module]:
    several = [targets] if isinstance(targets, nn.Module) else list(targets)
    if not several:
        raise ValueError("targets must be a model or a list of at least one")
    return several


def _labelled(target: nn.Module, x: Tensor, y: Tensor, batch: int) -> Tensor:
    """The target's logits of checked images, among whose classes the labels y are."""
    _check.eval_mode(target)
    _check.images(x, target, "the images")
    _check.at_least(batch, 1, "batch")
    z = logits(target, x, batch)
    _check.labels(y, x, z.shape[1])
    return z


def _margin(z: Tensor, y: Tensor) -> Tensor:
    return margin(z.double(), y, rivals(z, y))
