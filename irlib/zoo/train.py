"""Training on Fashion-MNIST: seeded, resumable after every epoch, with the facts a reader needs to repeat it."""

import gzip
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.datasets import FashionMNIST
from torchvision.datasets.mnist import read_image_file, read_label_file
from tqdm import tqdm

from irlib.data import load_images
from irlib.models import FASHION_MEAN, FASHION_STD, Normalized
from irlib.zoo import store
from irlib.zoo.architectures import ARCHITECTURES
from irlib.zoo.objectives import Classify, Intrinsic, OneVsRest, Resist, ResistEnsemble

DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # the package dataset-fashion-mnist
BATCH = 128


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: what for, passes over the training images, the learning rate at the top of its cycle.

    ``base`` names the network whose weights it starts from; ``static`` those of which another copy is trained first, to be attacked.
    """

    objective: Classify = Classify()
    epochs: int = 8
    lr: float = 0.1
    base: str | None = None
    static: tuple[str, ...] = ()


RECIPES = {name: Recipe() for name in ARCHITECTURES} | {
    "fmnist-inception3-ens3": Recipe(ResistEnsemble(), static=("fmnist-alexnet", "fmnist-densenet22", "fmnist-inception3")),
    "fmnist-mlp": Recipe(epochs=20, lr=0.05),
    "fmnist-resnet14-adv2": Recipe(Resist(2 / 255), epochs=6),
    "fmnist-resnet14-adv4": Recipe(Resist(4 / 255), epochs=6),
    "fmnist-resnet14-adv8": Recipe(Resist(8 / 255), epochs=6),
    "fmnist-resnet14-fd": Recipe(OneVsRest(), epochs=3, lr=0.02, base="fmnist-resnet14"),
    "fmnist-resnet14-ia": Recipe(Intrinsic(weight=1e-4), epochs=1, lr=0.001, base="fmnist-resnet14"),
    "fmnist-vgg-fd": Recipe(OneVsRest(), epochs=3, lr=0.02, base="fmnist-vgg"),
}


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
    shuffling, augmentation and attacks are drawn from a generator of their own.

    Raises FileNotFoundError where the network starts from another that is not in ``folder``.
    """
    recipe = RECIPES[name]
    epochs = epochs or recipe.epochs
    objective = (
        replace(recipe.objective, static=_static(recipe.static, data, seed, max(1, epochs // 2), checkpoints)) if recipe.static else recipe.objective
    )
    images, labels = fashion_mnist("train", data)
    images = images[:, None]
    torch.manual_seed(seed)
    network = ARCHITECTURES[name]()
    test = _test_images(data)
    model = Normalized(network, FASHION_MEAN, FASHION_STD).to(memory_format=torch.channels_last)
    basis = {}
    if recipe.base:
        _start_from(network, store.read(recipe.base, folder))
        sha256 = store.manifest(folder)[recipe.base]["sha256"]
        basis = {"base": {"name": recipe.base, "sha256": sha256, "test": objective.figures(model.eval(), *test)}}  # before training
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=recipe.lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
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
            x = _augment(images[chosen].float() / 255, generator).contiguous(memory_format=torch.channels_last)
            loss = objective.loss(model, x, labels[chosen], generator)
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
    state = store.halved(name, network.state_dict())
    network.load_state_dict(state)  # judged as readers get it, after rounding to float16
    model.eval().requires_grad_(False)
    facts = {
        "dataset": "Fashion-MNIST (60,000 training images)",
        "test": objective.figures(model, *test),
        "bundled": objective.figures(model, *load_images("fashion-mnist")),
        "parameters": sum(p.numel() for p in model.parameters()),
        "multiply_adds": multiply_adds(model),
        "command": f"python -m irlib.zoo train {name} --seed {seed} --epochs {epochs} --threads {torch.get_num_threads()}",
        "seed": seed,
        "epochs": epochs,
        "hours": round(seconds / 3600, 3),
        "device": "cpu",
        "versions": {"python": platform.python_version()} | {m.__name__: m.__version__ for m in (torch, torchvision, np)},
    }
    return store.write(name, state, facts | basis, folder)


def _test_images(data: Path | None) -> tuple[Tensor, Tensor]:
    images, labels = fashion_mnist("test", data)
    return images[:, None].float() / 255, labels


def _start_from(network: nn.Module, base: dict[str, Tensor]) -> None:
    """Put the weights ``base`` into ``network``, or into the part of it that is the base network's (see `OneVsAll`, `Smoothed`)."""
    part = getattr(network, "body", network)
    part.load_state_dict({key: base[key] for key in part.state_dict()})


def _static(names: tuple[str, ...], data: Path | None, seed: int, epochs: int, checkpoints: Path) -> list[nn.Module]:
    """Networks of the architectures ``names``, trained from another seed and kept among the checkpoints: nobody else's source."""
    folder = checkpoints / f"static-{seed + 1}"
    for name in names:
        if name not in store.manifest(folder):
            train(name, folder, data, seed + 1, epochs, checkpoints)
    return [Normalized(store.trained(name, folder), FASHION_MEAN, FASHION_STD).eval().requires_grad_(False) for name in names]


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
