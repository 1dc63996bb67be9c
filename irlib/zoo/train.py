"""Training on Fashion-MNIST: seeded, resumable after every epoch, with the facts a reader needs to repeat it."""

import gzip
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.datasets import FashionMNIST
from torchvision.datasets.mnist import read_image_file, read_label_file
from tqdm import tqdm

from irlib.models import FASHION_MEAN, FASHION_STD, Normalized
from irlib.zoo import store
from irlib.zoo.architectures import ARCHITECTURES

DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # the package dataset-fashion-mnist
BATCH = 128


@dataclass(frozen=True)
class Recipe:
    """What differs between networks: passes over the training images, and the learning rate at the top of its cycle."""

    epochs: int = 8
    lr: float = 0.1


RECIPES = {"fmnist-mlp": Recipe(epochs=20, lr=0.05)}


def fashion_mnist(split: str, root: Path | None = None) -> tuple[Tensor, Tensor]:
    """(images uint8 (N, 28, 28), labels int64 (N,)) of ``split`` "train" or "test": Debian's copy, or torchvision's download into ``root``."""
    if root is None and DEBIAN.exists():
        stem = {"train": "train", "test": "t10k"}[split]
        images, labels = DEBIAN / f"{stem}-images-idx3-ubyte.gz", DEBIAN / f"{stem}-labels-idx1-ubyte.gz"
        return _unzipped(images, read_image_file), _unzipped(labels, read_label_file)
    data = FashionMNIST(root or Path.home() / ".cache" / "irlib", train=split == "train", download=True)
    return data.data, data.targets


def _unzipped(path: Path, reader: Callable[[str], Tensor]) -> Tensor:
    with tempfile.NamedTemporaryFile() as plain:  # torchvision's readers want a plain file
        plain.write(gzip.decompress(path.read_bytes()))
        plain.flush()
        return reader(plain.name)


def _augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each image flipped with probability ½ and shifted by up to two pixels, zeros moving in."""
    n, _, h, w = x.shape
    flip = torch.rand(n, generator=generator) < 0.5
    x = torch.where(flip[:, None, None, None], x.flip(3), x)
    dy, dx = torch.randint(0, 5, (2, n), generator=generator)
    rows = (dy[:, None] + torch.arange(h))[:, :, None]
    cols = (dx[:, None] + torch.arange(w))[:, None, :]
    return F.pad(x, (2, 2, 2, 2))[torch.arange(n)[:, None, None], 0, rows, cols][:, None]


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor, batch: int = 500) -> float:
    """The fraction of images whose largest logit is their label's."""
    return torch.cat([model(part).argmax(1) for part in x.split(batch)]).eq(y).float().mean().item()


def train(
    name: str,
    folder: Path = store.WEIGHTS,
    data: Path | None = None,
    seed: int = 0,
    epochs: int | None = None,
    checkpoints: Path = Path(".zoo-training"),
) -> dict:
    """Train ``name`` from ``seed`` (SGD, Nesterov momentum 0.9, one cosine cycle), store it and return its manifest entry.

    A checkpoint follows every epoch; started again, training goes on from the last one and gives the same weights, since each epoch's
    shuffling and augmentation are drawn from a generator of their own.
    """
    recipe = RECIPES.get(name, Recipe())
    epochs = epochs or recipe.epochs
    images, labels = fashion_mnist("train", data)
    images = images[:, None]
    torch.manual_seed(seed)
    model = Normalized(ARCHITECTURES[name](), FASHION_MEAN, FASHION_STD)
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=recipe.lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
    batches = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=epochs * batches)
    path, first, seconds = checkpoints / f"{name}-{seed}-{epochs}.pt", 0, 0.0
    if path.exists():
        saved = torch.load(path, weights_only=True)
        for key, part in {"model": model, "optimizer": optimizer, "schedule": schedule}.items():
            part.load_state_dict(saved[key])
        first, seconds = saved["epochs"], saved["seconds"]
    for epoch in range(first, epochs):
        started = time.perf_counter()
        generator = torch.Generator().manual_seed(1000 * seed + epoch)
        model.train()
        bar = tqdm(torch.randperm(len(images), generator=generator)[: batches * BATCH].split(BATCH), desc=f"{name} {epoch + 1}/{epochs}")
        for chosen in bar:
            x = _augment(images[chosen].float() / 255, generator)
            loss = F.cross_entropy(model(x.contiguous(memory_format=torch.channels_last)), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.set_postfix(loss=f"{loss.item():.3f}")
        seconds += time.perf_counter() - started
        checkpoints.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
        torch.save({key: part.state_dict() for key, part in parts.items()} | {"epochs": epoch + 1, "seconds": seconds}, partial)
        partial.replace(path)
    state = store.halved(name, model.network.state_dict())
    model.network.load_state_dict(state)  # judged as readers get it, after rounding to float16
    x, y = fashion_mnist("test", data)
    facts = {
        "dataset": "Fashion-MNIST (60,000 training images)",
        "test_accuracy": round(accuracy(model.eval(), x[:, None].float() / 255, y), 4),
        "parameters": sum(p.numel() for p in model.parameters()),
        "multiply_adds": multiply_adds(model),
        "command": f"python -m irlib.zoo train {name} --seed {seed} --epochs {epochs}",
        "seed": seed,
        "epochs": epochs,
        "minutes": round(seconds / 60, 1),
        "device": f"cpu, {torch.get_num_threads()} threads",
        "versions": {"python": platform.python_version()} | {m.__name__: m.__version__ for m in (torch, torchvision, np)},
    }
    return store.write(name, state, facts, folder)


def multiply_adds(model: nn.Module) -> int:
    """Multiplications of the convolutional and affine layers for one 1×28×28 image."""
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        total += output[0].numel() * module.weight[0].numel()

    handles = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, 1, 28, 28))
    finally:
        for handle in handles:
            handle.remove()
    return total
