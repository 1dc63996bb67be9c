"""Random numbers by seed: one stream an image, as the attacks draw, or one for all images."""

import hashlib
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor


class Draws:
    """Random tensors for the images ``x``, each image from a generator of its own, on x's device.

    A generator is seeded by ``seed`` and by the image it is for. So the same seed gives the same attack, an image is attacked alike whatever
    else is in its batch, different images draw independently (intervals over images rest on that), and no global generator is touched.
    """

    def __init__(self, x: Tensor, seed: int):
        self._x, self._seed = x, seed
        self._kind = {"dtype": x.dtype, "device": x.device}

    @cached_property
    def _generators(self) -> list[torch.Generator]:
        images = self._x.detach().cpu().double().numpy()
        return [torch.Generator(self._x.device).manual_seed(_key(image.tobytes(), self._seed)) for image in images]

    def uniform(self, *shape: int) -> Tensor:
        """(batch, *shape), uniform in [0, 1)."""
        return self._each(lambda g: torch.rand(shape, generator=g, **self._kind))

    def normal(self, *shape: int) -> Tensor:
        """(batch, *shape), standard normal."""
        return self._each(lambda g: torch.randn(shape, generator=g, **self._kind))

    def integers(self, high: int, *shape: int) -> Tensor:
        """int64 (batch, *shape), uniform in 0 … high − 1."""
        return self._each(lambda g: torch.randint(high, shape, generator=g, device=self._kind["device"]))

    def _each(self, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        return torch.stack([draw(g) for g in self._generators])


class SharedDraws(Draws):
    """The same for all images: tensors (1, *shape), from one generator seeded by ``seed`` alone."""

    def __init__(self, x: Tensor, seed: int):
        super().__init__(x, seed)
        self._generators = [torch.Generator(x.device).manual_seed(seed)]


def _key(image: bytes, seed: int) -> int:
    return int.from_bytes(hashlib.blake2b(image, digest_size=8, key=str(seed).encode()).digest()) >> 1
