"""The two sweeps of the chapter on balanced predictions: Theorem 3 on made-up predictions, and on a network whose last bias is changed."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from irlib.balance import class_gradients, class_gram, competitors, kappa, quadratic_form, rebalanced, single_step_interaction, squared_gradient
from irlib.data import FASHION_CLASSES
from irlib.widgets.sweep import Param, Sweep, Table, bars, grey_frames, grey_picture, heat, lines

CONFIDENCES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
SHARES = tuple(k / 10 for k in range(11))
CLASSES = (3, 4, 5, 10, 100, 1000)
DRAWN = 10  # bars


def balanced_predictions(confidences: Sequence[float] = CONFIDENCES, classes: Sequence[int] = CLASSES) -> Sweep:
    """Sliders for p_y, the balance of the wrong classes (from one competitor to all alike) and the number of classes: Theorem 3's formula."""
    return Sweep(
        "balanced-predictions",
        "The same confidence, spread in two ways",
        [
            Param("balance", "balance", SHARES, lambda v: f"{100 * v:.0f}\u00a0%", open=True),
            Param("py", "probability of the true class", confidences),
            Param("classes", "classes c", classes, lambda c: f"{c:g}"),
        ],
        balanced_tables,
        [
            bars("p: the true class y, then the wrong ones (ten at most)", "prediction", ["y", *map(str, range(1, DRAWN))]),
            lines(
                "interaction, as a share of that with one competitor",
                {"same step size": ("step_curve", "theory", None), "same length of δ": ("length_curve", "theory", "6 4")},
                cursor="balance",
                xlabel="balance",
            ),
        ],
        {
            "effective competitors": ("competitors", ""),
            "formula of Eq. 103": ("formula", ""),
            "same step size": ("step", "\u00a0%"),
            "same length of δ": ("length", "\u00a0%"),
        },
        start={"balance": 0.5, "py": 0.6, "classes": 10},
        caption="p of the true class {py}, {classes} classes, balance {balance}: {competitors} effective competitors. The interaction is {step} of "
        "what it is with a single competitor at the same step size, {length} at the same length of δ.",
    )


def balanced_tables(balance: Sequence[float], py: Sequence[float], classes: Sequence[int]) -> dict[str, Table]:
    """The tables of `balanced_predictions` over balance × py × classes. Curves run over `SHARES`.

    step is Eq. 103's bracket over its value with one competitor, length the same of the bracket over ‖p − Y‖²; both in percent.
    """

    def predicted(shares: Sequence[float], right: float, c: int) -> Tensor:
        p = torch.zeros(c, dtype=torch.float64)
        p[0], p[1] = right, 1 - right
        return torch.stack([rebalanced(p, 0, s) for s in shares])

    def cell(right: float, c: int) -> dict[str, np.ndarray]:
        p = predicted([0, *balance, *SHARES], right, c)  # the first for comparison, the last for the curves
        formula = single_step_interaction(p, 0)
        relative = {"step": formula / formula[0], "length": formula / squared_gradient(p, 0) * squared_gradient(p[0], 0) / formula[0]}
        shown = slice(1, 1 + len(balance))
        found = {f"{name}_curve": values[shown.stop :] for name, values in relative.items()}
        found |= {name: 100 * values[shown] for name, values in relative.items()}
        found |= {"formula": formula[shown], "competitors": competitors(p, 0)[shown]}
        found["prediction"] = torch.nn.functional.pad(p[shown, :DRAWN], (0, max(0, DRAWN - c)))
        return {name: values.numpy() for name, values in found.items()}

    cells = [[cell(right, int(c)) for c in classes] for right in py]
    stacked = {name: np.array([[found[name] for found in row] for row in cells]) for name in cells[0][0]}
    return {
        name: Table(values, ("py", "classes")) if name.endswith("curve") else Table(np.moveaxis(values, 2, 0), ("balance", "py", "classes"))
        for name, values in stacked.items()
    }


def rebalanced_networks(models: Mapping[str, nn.Module], x: Tensor, y: Tensor) -> Sweep:
    """Sliders for a network, an image and how far the last bias is moved towards equal wrong classes: the network's own gᵀHg, and κ² × Eq. 103.

    Args:
        models: piecewise linear sources in eval mode, by name.
        x: images (k, 1, height, width) that they classify right.
        y: their labels.
    """
    names, measured = list(models), [class_gradients(model, x) for model in models.values()]
    labels = [name.removeprefix("ankle ")[:4] for name in FASHION_CLASSES]
    return Sweep(
        "rebalanced-networks",
        "A network's own classes, and the theorem's",
        [
            Param("bias", "wrong classes moved to their mean by", SHARES, lambda v: f"{100 * v:.0f}\u00a0%", open=True),
            Param("network", "network", range(len(names)), lambda k: names[int(k)]),
            Param("image", "image", range(len(x)), lambda i: FASHION_CLASSES[y[int(i)]]),
        ],
        lambda bias, network, image: rebalanced_tables([measured[k] for k in network], x, y, bias, image),
        [
            grey_picture("image", "original"),
            bars("p, after the change of bias", "p", labels),
            lines(
                "interaction gᵀHg at the same step size, before the change = 1",
                {"this network": ("network_curve", "measured", None), "Theorem 3": ("theorem_curve", "theory", "6 4")},
                cursor="bias",
                xlabel="wrong classes moved to their mean by",
            ),
            heat("cosines of the centred class gradients", "cosines", labels, labels, diverging=True),
        ],
        {
            "p of the true class": ("right", ""),
            "effective competitors": ("rivals", ""),
            "this network’s gᵀHg": ("own", ""),
            "κ² × Eq. 103": ("ideal", ""),
            "change of gᵀHg": ("change", "\u00a0%"),
            "change by Theorem 3": ("promised", "\u00a0%"),
        },
        start={"bias": 0.5, "network": 0, "image": 0},
        caption="{network}, {image}: moving the wrong classes {bias} of the way to their mean changes the interaction by {change}; with orthogonal "
        "class gradients it would be {promised}.",
    )


def rebalanced_tables(
    measured: Sequence[tuple[Tensor, Tensor]], x: Tensor, y: Tensor, bias: Sequence[float], image: Sequence[int]
) -> dict[str, Table]:
    """The tables of `rebalanced_networks` over bias × network × image, from each network's logits and class gradients; curves run over `SHARES`."""
    cells = [[_cell(z[i], w[i], int(y[i]), bias) for i in image] for z, w in measured]

    def stacked(name: str) -> np.ndarray:
        return np.array([[cell[name] for cell in row] for row in cells])

    over, along = ("network", "image"), ("bias", "network", "image")
    return {
        "original": Table(grey_frames(x[list(image)]), ("image",)),
        **{name: Table(stacked(name), over) for name in ("cosines", "right", "network_curve", "theorem_curve")},
        **{name: Table(np.moveaxis(stacked(name), 2, 0), along) for name in ("p", "rivals", "own", "ideal", "change", "promised")},
    }


def _cell(z: Tensor, w: Tensor, y: int, bias: Sequence[float]) -> dict[str, np.ndarray]:
    """One network at one image."""
    p, gram = z.softmax(0), class_gram(w)
    length = gram.diagonal().sqrt()

    def along(shares: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
        moved = torch.stack([rebalanced(p, y, s) for s in shares])
        return moved, quadratic_form(gram, moved, y)[0], single_step_interaction(moved, y, kappa(gram))

    (_, own_curve, ideal_curve), (moved, own, ideal) = along(SHARES), along(bias)
    found = {
        "p": moved,
        "cosines": gram / length[:, None] / length,
        "right": p[y],
        "rivals": competitors(moved, y),
        "own": own,
        "ideal": ideal,
        "change": 100 * (own / own_curve[0] - 1),
        "promised": 100 * (ideal / ideal_curve[0] - 1),
        "network_curve": own_curve / own_curve[0],
        "theorem_curve": ideal_curve / ideal_curve[0],
    }
    return {name: value.numpy() for name, value in found.items()}
