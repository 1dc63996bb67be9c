"""Is a stored network what its manifest says, and how long would it take to train it here?"""

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irlib.data import load_images
from irlib.models import FASHION_MEAN, FASHION_STD, Normalized
from irlib.zoo import store
from irlib.zoo.architectures import ARCHITECTURES
from irlib.zoo.train import BATCH, RECIPES

TOLERANCE = 0.003  # three of the 1,000 bundled images: another processor rounds otherwise


def verify(names: Iterable[str], folder: Path = store.WEIGHTS) -> bool:
    """Recompute, from the bundled images, the fractions that the manifest states for each network, and print both; whether all agree.

    Figures that are not fractions of images (the IA network's divergence) are shown, not judged.
    """
    images = load_images("fashion-mnist")
    good = True
    for name in names:
        stated = store.manifest(folder).get(name, {}).get("bundled")
        try:
            model = Normalized(store.trained(name, folder), FASHION_MEAN, FASHION_STD).eval().requires_grad_(False)
        except (OSError, ValueError) as error:
            print(f"{name}: {error}")
            good = False
            continue
        found = RECIPES[name].objective.figures(model.to(memory_format=torch.channels_last), *images)
        agrees = _agrees(stated, found)
        print(f"{name}: {found if agrees else f'found {found}, the manifest says {stated}'}: {'as stated' if agrees else 'DIFFERENT'}")
        good &= agrees
    return good


def _agrees(stated, found) -> bool:
    if isinstance(found, dict):
        return stated.keys() == found.keys() and all(key == "divergence" or _agrees(stated[key], found[key]) for key in found)
    if isinstance(found, list):
        return len(stated) == len(found) and all(map(_agrees, stated, found))
    return abs(stated - found) <= TOLERANCE + 1e-9


def plan(images: int = 60_000) -> None:
    """Print passes a second of the costliest plain network, then hours of training for every recipe, each from a few timed batches."""
    x, y = (part[:BATCH] for part in load_images("fashion-mnist"))
    x = x.contiguous(memory_format=torch.channels_last)
    name = max((n for n in store.manifest() if RECIPES[n].base is None), key=lambda n: store.manifest()[n]["multiply_adds"])
    model = _model(name).eval().requires_grad_(False)

    @torch.no_grad()
    def forward() -> None:
        model(x)

    def input_gradient() -> None:
        v = x.clone().requires_grad_()
        torch.autograd.grad(F.cross_entropy(model(v), y), v)

    forwards, gradients = BATCH / _seconds(forward), BATCH / _seconds(input_gradient)
    print(f"{torch.get_num_threads()} threads, {name}: {forwards:.0f} forwards, {gradients:.0f} forwards with input gradient a second")
    total = 0.0
    for name, recipe in RECIPES.items():
        hours = _batch_seconds(name, x, y) * (images // BATCH) * recipe.epochs / 3600
        total += hours
        print(f"{name}: {recipe.epochs} epochs, {hours:.2f} h")
    print(f"all: {total:.1f} h; not counted: the static networks of ensemble training, the robust accuracies")


def _batch_seconds(name: str, x: Tensor, y: Tensor) -> float:
    model, recipe = _model(name).train(), RECIPES[name]
    objective = replace(recipe.objective, static=[_model(n).eval() for n in recipe.static]) if recipe.static else recipe.objective
    generator = torch.Generator().manual_seed(0)
    return _seconds(lambda: objective.loss(model, x, y, generator).backward())


def _model(name: str) -> nn.Module:
    return Normalized(ARCHITECTURES[name](), FASHION_MEAN, FASHION_STD).to(memory_format=torch.channels_last)


def _seconds(work: Callable[[], None], times: int = 5) -> float:
    work()
    started = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - started) / times
