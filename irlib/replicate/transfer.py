"""The transfer chapter's measurements: which of its twelve plain networks each attack fools, image by image, stored beside the code.

`measure` takes minutes; `outcomes` reads what it stored. `python -m irlib.replicate transfer` writes it anew.
"""

import base64
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from irlib import create_attack, load_images, load_model
from irlib.replicate import store
from irlib.transfer import all_right, fooled

RESULTS = store.RESULTS / "transfer" / "outcomes.json"
SOURCES = ("fmnist-resnet14", "fmnist-vgg", "fmnist-densenet22", "fmnist-mlp")  # of the widget
TARGETS = ("fmnist-alexnet", "fmnist-resnet26", "fmnist-densenet40", "fmnist-seresnet", "fmnist-dpn", "fmnist-inception3", "fmnist-inception-resnet")
PLAIN = (*SOURCES, *TARGETS, "fmnist-inception4")
EPS = tuple(level / 255 for level in (0, 2, 4, 8, 16, 24))
STEPS = (1, 2, 5, 10, 20)
STRONG = (8 / 255, 16 / 255)  # where all twelve attack all twelve
UPDATES = 20
IMAGES = 100
REACH = 8  # the border of the ball is at most so many steps away, the paper's ε / α

# What is stored: the axes before the images, and their values.
AXES: dict[str, dict[str, Sequence]] = {
    "grid": {"eps": EPS, "steps": STEPS, "source": SOURCES, "target": TARGETS},
    "updates": {"update": tuple(range(1, UPDATES + 1)), "source": SOURCES, "target": TARGETS},  # of the 20 steps at 16/255
    "matrix": {"eps": STRONG, "steps": (1, 10), "source": PLAIN, "target": PLAIN},
    "l2": {"steps": (1, 10), "source": PLAIN, "target": PLAIN},  # of length 16/255·√n
    "noise": {"eps": EPS, "target": PLAIN},
}


def attacked(model: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int, norm: str = "linf", record: bool = False) -> Tensor:
    """The perturbation of PGD in ``steps`` steps of ε / min(steps, 8), without random start; its first step alone is FGSM. ε = 0 gives 0.

    ``record`` gives all of them, (steps + 1, *x.shape).
    """
    if eps == 0:
        return torch.zeros_like(x)
    run = create_attack("pgd", model, eps=eps, alpha=eps / min(steps, REACH), steps=steps, norm=norm).run(x, y, record=record)
    return run.deltas if record else run.delta


def noise(x: Tensor, eps: float, seed: int = 0) -> Tensor:
    """A perturbation of +ε or −ε in every pixel by the toss of a coin, clipped to the images' range: FGSM's size and none of its knowledge."""
    toss = torch.randint(0, 2, x.shape, generator=torch.Generator().manual_seed(seed)).to(x) * 2 - 1
    return (x + eps * toss).clamp(0, 1) - x


def study_images(models: Mapping[str, nn.Module], n: int = IMAGES) -> tuple[Tensor, Tensor]:
    """The first ``n`` images of a drawn 400 that all ``models`` label right, and their labels."""
    x, y = all_right(*load_images("fashion-mnist", 400, seed=1), list(models.values()))
    return x[:n], y[:n]


def grid_outcomes(
    sources: Mapping[str, nn.Module], targets: Mapping[str, nn.Module], x: Tensor, y: Tensor, eps: Sequence[float], steps: Sequence[int]
) -> Tensor:
    """bool (eps, steps, sources, targets, images): whether each target is fooled by the attack on each source."""
    several = list(targets.values())
    return torch.stack(
        [
            torch.stack([torch.stack([fooled(x + attacked(source, x, y, e, m), y, several) for source in sources.values()]) for m in steps])
            for e in eps
        ]
    )


def measure(n: int = IMAGES) -> dict[str, Tensor]:
    """Every table of `AXES`, bool, its axes and then the images."""
    models = {name: load_model(name) for name in PLAIN}
    x, y = study_images(models, n)
    sources, targets = ({name: models[name] for name in names} for names in (SOURCES, TARGETS))
    seven, twelve = list(targets.values()), list(models.values())
    moves = {name: attacked(model, x, y, 16 / 255, UPDATES, record=True)[1:] for name, model in sources.items()}
    radius = 16 / 255 * x[0].numel() ** 0.5
    return {
        "grid": grid_outcomes(sources, targets, x, y, EPS, STEPS),
        "updates": torch.stack([torch.stack([fooled(x + move[t], y, seven) for move in moves.values()]) for t in range(UPDATES)]),
        "matrix": grid_outcomes(models, models, x, y, STRONG, (1, 10)),
        "l2": torch.stack([torch.stack([fooled(x + attacked(s, x, y, radius, m, "l2"), y, twelve) for s in twelve]) for m in (1, 10)]),
        "noise": torch.stack([fooled(x + noise(x, e), y, twelve) for e in EPS]),
    }


def write(path: Path = RESULTS, n: int = IMAGES) -> None:
    """Measure and store the results: settings, versions, and each table's outcomes as packed bits."""
    tables = {
        name: {"axes": {axis: list(values) for axis, values in AXES[name].items()}, "bits": base64.b64encode(np.packbits(t.numpy())).decode()}
        for name, t in measure(n).items()
    }
    settings = {"images": n, "drawn": "fashion-mnist, 400, seed 1, right on all twelve", "reach": REACH}
    store.write(path, {"settings": settings | store.facts(), "tables": tables})


@cache
def outcomes(name: str) -> Tensor:
    """bool: the stored table ``name`` of `AXES`, its axes and then the images. Raises KeyError for another name."""
    stored = store.read(RESULTS)
    table, n = stored["tables"][name], stored["settings"]["images"]
    shape = [len(values) for values in table["axes"].values()] + [n]
    bits = np.unpackbits(np.frombuffer(base64.b64decode(table["bits"]), np.uint8), count=int(np.prod(shape)))
    return torch.from_numpy(bits.reshape(shape).astype(bool))
