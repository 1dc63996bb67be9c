"""What is measured: a network, images that it classifies right, and a perturbation of each."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

import irlib
from irlib.bench.attacks import CLASSES, EPS, MEAN, STD
from irlib.models import Normalized

STEPS = 10


@dataclass(frozen=True)
class Subject:
    name: str
    model: nn.Module
    x: Tensor
    delta: Tensor
    y: Tensor

    def game(self, grid: int, scale: float = 1, **kw: Any) -> irlib.AttackGame:
        return irlib.AttackGame(self.model, self.x, scale * self.delta, self.y, grid, **kw)

    def only(self, i: int) -> "Subject":
        """Its image number i."""
        return replace(self, x=self.x[i : i + 1], delta=self.delta[i : i + 1], y=self.y[i : i + 1])

    def double(self) -> "Subject":
        return replace(self, model=copy.deepcopy(self.model).double(), x=self.x.double(), delta=self.delta.double())


def subject(name: str, images: int, device: str = "cpu") -> Subject:
    """``images`` images under 10-step PGD at 16/255 for the zoo's networks and ImageNet's, which must classify them right.

    Any other name is one of torchvision's architectures, for timing alone: random weights, random images of 224 × 224, random signs.
    """
    if name in irlib.list_models():
        model = irlib.load_model(name, device)
        # twice as many as it takes, since some are misclassified; the ImageNet samples are few
        x, y = irlib.load_images("fashion-mnist", n=2 * images, seed=0) if name.startswith("fmnist") else irlib.load_images("imagenet-samples")
        x, y = x.to(device), y.to(device)
        with torch.no_grad():
            right = torch.cat([model(part) for part in x.split(50)]).argmax(1) == y
        x, y = x[right][:images], y[right][:images]
        attack = irlib.create_attack("pgd", model, eps=EPS, alpha=EPS / 8, steps=STEPS)
        return Subject(name, model, x, torch.cat([attack(a, b) - a for a, b in zip(x.split(8), y.split(8), strict=True)]), y)
    torch.manual_seed(0)
    net = torchvision.models.get_model(name, weights=None).eval().requires_grad_(False)
    model = Normalized(net, MEAN, STD).eval().to(device, memory_format=torch.channels_last)
    x = torch.rand(images, 3, 224, 224).to(device)
    return Subject(name, model, x, EPS * (x - 0.5).sign(), torch.randint(CLASSES, (images,)).to(device))


def largest_grid(s: Subject) -> int:
    """16 cells a side, or half the image's where it is smaller than 32."""
    return min(16, s.x.shape[-1] // 2)


def in_batches(model: Callable[[Tensor], Tensor], batches: list[Tensor]) -> None:
    """Nothing but the network."""
    with torch.no_grad():
        for batch in batches:
            model(batch)
