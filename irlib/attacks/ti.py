"""TI: the gradient smoothed over translations. Direction slot."""

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from irlib.attacks.loop import Attack, chained

LARGEST, SHARE = 15, 15  # the published 15×15 kernel at 224×224: one fifteenth of the image's side


@dataclass(frozen=True)
class Translations:
    """The gradient convolved with a Gaussian kernel, channel by channel, zero-padded to the same size."""

    size: int | None

    def __call__(self, g: Tensor, state: Any) -> tuple[Tensor, Any]:
        line = gaussian_line(self.size or scaled_size(g.shape[-1])).to(g)
        channels = g.shape[1]
        for shape in ((-1, 1), (1, -1)):  # the kernel is the product of a column and a row: one after the other costs a sixth
            g = F.conv2d(g, line.view(1, 1, *shape).expand(channels, -1, -1, -1), padding="same", groups=channels)
        return g, state


def gaussian_line(size: int) -> Tensor:
    """float64 (size,), sum 1: a Gaussian sampled at ``size`` points from −3σ to 3σ. Its outer product with itself is the kernel."""
    line = torch.exp(-(torch.linspace(-3, 3, size, dtype=torch.float64) ** 2) / 2)
    return line / line.sum()


def scaled_size(side: int) -> int:
    """The odd kernel size that is to ``side`` what 15 is to 224; at least 3, at most 15."""
    return min(max(2 * round((side / SHARE - 1) / 2) + 1, 3), LARGEST)


def ti(attack: Attack, kernel_size: int | None = None) -> Attack:
    """TI-FGSM (Dong et al. 2019): step along W∗∇, W a Gaussian kernel of ±3 standard deviations: attacks of all translations at once.

    ``kernel_size``: odd; by default the published 15 at 224×224, in proportion below (3 at 28×28, nearly no smoothing: the published one spans
    as small a part of its image). Its authors smooth before momentum is taken, so do we, whatever the order of the names. Other codes use
    5 or 7, or random shifts of ±4 pixels; one drops the momentum's history, one always adds DI.
    """
    if kernel_size is not None and (kernel_size < 1 or kernel_size % 2 != 1):
        raise ValueError(f"kernel_size must be an odd number ≥ 1, got {kernel_size}")
    return replace(attack, direction=chained(attack.direction, Translations(kernel_size)))
