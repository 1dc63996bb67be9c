"""What the chapters measured and only read: `python -m irlib.replicate orders` makes the file anew, as does each other name of `STUDIES`."""

from copy import deepcopy
from typing import Any

from torch import Tensor

from irlib import load_images, load_model
from irlib.replicate import store, transfer
from irlib.transfer import all_right
from irlib.widgets import closed_form_interactions, coalitions, orders


def right(names: tuple[str, ...], drawn: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Of ``drawn`` bundled images those that every network of ``names`` labels right."""
    return all_right(*load_images("fashion-mnist", drawn, seed=seed), [load_model(name) for name in names])


def rounded(tree: Any, digits: int) -> Any:
    """The numbers of nested dictionaries and lists to so many significant digits."""
    if isinstance(tree, dict):
        return {key: rounded(value, digits) for key, value in tree.items()}
    if isinstance(tree, list) and any(isinstance(value, dict) for value in tree):
        return [rounded(value, digits) for value in tree]
    return store.rounded(tree, digits)


def write_orders() -> None:
    """The study of five networks, ε = 1 and 16/255, on images that a sixth one has right as well."""
    names = ("fmnist-mlp", "fmnist-alexnet", "fmnist-vgg", "fmnist-resnet14", "fmnist-densenet22")
    kept, right_for = 24, (*names, "fmnist-seresnet")
    x, y = (t[:kept] for t in right(right_for, 60))
    settings = {
        "images": 60, "seed": 1, "kept": kept, "right_for": right_for, "epsilons_255": [1, 16], "grid": orders.GRID, "strength": 0.5, "few": 8,
        "fine": 7, "sampled_orders": [0, 12, 24, 36, 47],
    }  # fmt: skip
    found = {name: rounded(orders.study(load_model(name), x, y), 5) for name in names}
    store.write(store.RESULTS / "orders.json", {"settings": settings | store.facts(), "networks": found})


def write_closed_form_interactions() -> None:
    """Totals of many steps and of one on five networks, and Lemma 2 against four of them while ε grows."""
    names = ("fmnist-mlp", "fmnist-resnet14", "fmnist-vgg", "fmnist-inception-resnet", "fmnist-densenet22")
    strengths, epsilons = (0.2, 0.5, 1.0, 2.0), [16 / 255 / 4**k for k in (8, 6, 4, 3, 2, 1, 0)]
    x, y = right(names, 80)
    settings = {
        "images": "fashion-mnist, the first of load_images(n=80, seed=1) that all networks of the study classify right",
        "study": {"images": 40, "grid": 7, "strengths": strengths, "steps": 10, "eps": "16/255", "precision": "float32; float64 for fmnist-mlp"},
        "locality": {"images": 6, "grid": 7, "epsilons": epsilons, "precision": "float64"},
    }

    def of(name: str, double: bool) -> tuple[Any, Tensor]:
        model = load_model(name)
        return (deepcopy(model).double(), x.double()) if double else (model, x)

    studied, local = {}, {}
    for name in names:
        model, images = of(name, name == "fmnist-mlp")
        studied[name] = rounded(closed_form_interactions.study(model, images[:40], y[:40], strengths), 8)
        if name != "fmnist-inception-resnet":
            model, images = of(name, True)
            local[name] = rounded(closed_form_interactions.locality(model, images[:6], y[:6], epsilons), 8)
    store.write(store.RESULTS / "closed_form_interactions.json", {"settings": settings | store.facts(), "networks": studied, "locality": local})


STUDIES = {
    "coalitions": coalitions.write,
    "closed-form-interactions": write_closed_form_interactions,
    "orders": write_orders,
    "transfer": transfer.write,
}
