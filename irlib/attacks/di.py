"""DI: the gradient through a random resize and pad. Sampling slot."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from irlib.attacks.loop import Attack, Loss, Sampling
from irlib.draws import Draws

GROWTH = 330 / 299  # the published canvas of a 299×299 image


@dataclass(frozen=True)
class ResizePad:
    """The gradient of the loss at T(x) + T(δ), T a linear map drawn for each image: with ``prob`` a random resize and pad, else the identity."""

    prob: float
    inner: Sampling

    def __call__(self, loss: Loss, x: Tensor, delta: Tensor, draws: Draws, step: int) -> Tensor:
        chance = draws.uniform(4).tolist()
        return self.inner(
            lambda base, d: loss(*(torch.stack([self._drawn(v, c) for v, c in zip(part, chance, strict=True)]) for part in (base, d))),
            x, delta, draws, step,
        )  # fmt: skip

    def _drawn(self, image: Tensor, chance: list[float]) -> Tensor:
        """``image`` (channels, side, side) enlarged to a random size, put at a random place of a canvas 330/299 as wide, and back at its size."""
        if chance[0] >= self.prob:
            return image
        side, canvas = image.shape[-1], round(GROWTH * image.shape[-1])
        size = side + int(chance[1] * (canvas - side))
        top, left = (int(c * (canvas - size + 1)) for c in chance[2:])
        placed = F.pad(_resized(image, size), (left, canvas - size - left, top, canvas - size - top))
        return _resized(placed, side)


def _resized(image: Tensor, size: int) -> Tensor:
    return F.interpolate(image[None], size=(size, size), mode="bilinear", align_corners=False)[0]


def di(attack: Attack, prob: float = 0.5) -> Attack:
    """DI²-FGSM (Xie et al. 2019): with probability ``prob`` the gradient is taken through the image resized to a random size and zero-padded.

    As published, the size is uniform between the image's and 330/299 of it, and so is the place on that canvas. Two things differ: the canvas
    is brought back to the image's size, since not every network takes another (as TransferAttack does), and the resize is bilinear, not
    nearest, so that every pixel keeps a gradient. Published ``prob`` 0.5; other codes use 0.7 or 1, or shrink to 0.9 instead of growing.
    Images must be square.
    """
    if not 0 <= prob <= 1:
        raise ValueError(f"prob must lie in [0, 1], got {prob}")
    return replace(attack, sampling=ResizePad(prob, attack.sampling))
