"""Images to attack: the bundled Fashion-MNIST subset, twenty ImageNet samples, or a folder of your own."""

import hashlib
import importlib.util
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize
from torchvision.transforms.functional import to_tensor

from irlib import _check

BUNDLE = Path(__file__).parent / "images" / "fashion-mnist-1000.npz"
FASHION_CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
NAMES = ("fashion-mnist", "imagenet-samples")


def load_images(name: str, n: int | None = None, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(x, y): ``n`` images, float32 (n, channels, height, width) in [0, 1], and their int64 labels; all of them without ``n``.

    ``name``: "fashion-mnist" (1,000 test images, 100 a class), "imagenet-samples" (the 20 of foolbox's wheel, 224×224), or a folder that
    holds one subfolder a class, as torchvision's ImageFolder reads it; its images must be of one size. With ``n``, a random subset drawn
    from ``seed``, in the order of the whole set; for the bundled images it is class-balanced up to one image.

    Raises ValueError for an unknown name or n out of range, ImportError where foolbox is missing.
    """
    if name == "fashion-mnist":
        x, y = _bundled()
    elif name == "imagenet-samples":
        x, y = _imagenet_samples()
    elif Path(name).is_dir():
        x, y = _folder(Path(name))
    else:
        _check.unknown_name("image set (and no such folder)", name, NAMES)
    if n is None:
        return x, y
    if not 1 <= n <= len(x):
        raise ValueError(f"n must lie in 1 … {len(x)} for {name!r}, got {n}")
    chosen = _balanced(y.numpy(), n, np.random.default_rng(seed))
    return x[chosen], y[chosen]


def _balanced(y: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """``n`` indices in rising order; classes take turns, in random order, so that their counts differ by one at most while they last."""
    order = rng.permutation(len(y))
    turn = np.empty(len(y), dtype=int)  # how many of its class came before it
    for label in np.unique(y):
        members = order[y[order] == label]
        turn[members] = np.arange(len(members))
    shuffled = rng.permutation(len(y))
    return np.sort(shuffled[np.argsort(turn[shuffled], kind="stable")[:n]])


def _bundled() -> tuple[Tensor, Tensor]:
    with np.load(BUNDLE, allow_pickle=False) as bundle:
        return torch.from_numpy(bundle["x"])[:, None].float() / 255, torch.from_numpy(bundle["y"]).long()


def bundle(images: Tensor, labels: Tensor, per_class: int = 100, seed: int = 0) -> dict:
    """Write the bundled evaluation set: ``per_class`` of the test ``images`` (N, 28, 28) uint8 of every class, drawn from ``seed``."""
    chosen = _balanced(labels.numpy(), per_class * len(FASHION_CLASSES), np.random.default_rng(seed))
    packed = io.BytesIO()
    np.savez_compressed(packed, x=images[chosen].numpy(), y=labels[chosen].numpy().astype(np.uint8), index=chosen.astype(np.int16))
    BUNDLE.parent.mkdir(exist_ok=True)
    BUNDLE.write_bytes(packed.getvalue())
    return {"file": BUNDLE.name, "images": len(chosen), "bytes": BUNDLE.stat().st_size, "sha256": hashlib.sha256(packed.getvalue()).hexdigest()}


def _imagenet_samples() -> tuple[Tensor, Tensor]:
    found = importlib.util.find_spec("foolbox")  # found, not imported: only its image files are wanted
    if found is None or found.origin is None:
        raise ImportError("'imagenet-samples' are part of foolbox's wheel: pip install 'irlib[imagenet]'")
    files = sorted((Path(found.origin).parent / "data").glob("imagenet_*_*.jpg"))
    crop = Compose([Resize(256, InterpolationMode.BICUBIC), CenterCrop(224)])  # as timm evaluates these networks
    return torch.stack([_pixels(f, crop) for f in files]), torch.tensor([int(f.stem.split("_")[2]) for f in files])


def _folder(folder: Path) -> tuple[Tensor, Tensor]:
    samples = ImageFolder(folder).samples
    pixels = [_pixels(Path(path)) for path, _ in samples]
    sizes = {tuple(p.shape[1:]) for p in pixels}
    if len(sizes) > 1:
        raise ValueError(f"the images of {folder} must be of one size, got {sorted(sizes)}: resize them first")
    return torch.stack(pixels), torch.tensor([label for _, label in samples])


def _pixels(path: Path, transform: Callable[[Image.Image], Image.Image] = lambda image: image) -> Tensor:
    with Image.open(path) as image:
        return to_tensor(transform(image.convert("RGB")))
