"""The sweep of the chapter on FD: the bowl of a deep network beside those of the shallow heads on its features."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from irlib.data import FASHION_CLASSES
from irlib.quadratic import Quadratic
from irlib.widgets.sweep import Param, Sweep, Table, bars, grey_frames, grey_picture, lines, perturbation_frames, picture

STRENGTHS = (0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0)
FLOOR = 1e-12  # what is smaller is drawn as this, on logarithmic bars
MODES = 9
LOSSES = ("own question", "softmax of all heads")


class OwnQuestion(nn.Module):
    """One of one-vs-all ``heads`` as a network of two classes, "``label``" and "another": its cross-entropy of class 0 is −log σ(z_label)."""

    def __init__(self, heads: nn.Module, label: int):
        super().__init__()
        self.heads, self.label = heads, label
        self.train(heads.training)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, 2): z of the head, and 0."""
        z = self.heads(x)[:, self.label]
        return torch.stack([z, torch.zeros_like(z)], 1)


def bowls(deep: nn.Module, heads: nn.Module, x: Tensor, y: Tensor) -> list[Quadratic]:
    """For one image: the deep network's cross-entropy, and of the heads the loss of each of `LOSSES`."""
    own = OwnQuestion(heads, int(y))
    return [Quadratic.at(deep, x, y), Quadratic.at(own, x, torch.zeros_like(y)), Quadratic.at(heads, x, y)]


def fd(pairs: Mapping[str, tuple[nn.Module, nn.Module]], x: Tensor, y: Tensor, strengths: Sequence[float] = STRENGTHS) -> Sweep:
    """Sliders for network, the heads' loss, strength and image: eigenvalues, closed-form δ and interactions of the deep layers and of the heads.

    Args:
        pairs: a deep network and the heads on its features, both in eval mode and piecewise linear, by name.
        x: images (k, 1, height, width) that all of them have right.
        y: their labels. At each image every head of its class must have a gradient: where all its hidden units are off there is no bowl.
    """
    names = list(pairs)
    found = [[bowls(deep, heads, x[i : i + 1], y[i : i + 1]) for i in range(len(x))] for deep, heads in pairs.values()]

    def compute(net: list[float], asked: list[float], strength: list[float], photo: list[float]) -> dict[str, Table]:
        chosen = [[found[int(k)][int(i)] for i in photo] for k in net]
        return fd_tables(chosen, x[[int(i) for i in photo]], [int(a) for a in asked], strength, strengths)

    order = [str(i + 1) for i in range(MODES)]
    curves = {"same β": ("beta_curve", "theory", None), "same length": ("length_curve", "objective", "6 4")}
    return Sweep(
        "fd",
        "The same features, asked by deep layers and by shallow heads",
        [
            Param("net", "network", range(len(names)), lambda k: names[int(k)]),
            Param("asked", "loss of the heads", range(len(LOSSES)), lambda a: LOSSES[int(a)]),
            Param("strength", "strength βλ₁, of the steeper one", strengths, open=True),
            Param("photo", "image", range(len(x)), lambda i: FASHION_CLASSES[y[int(i)]]),
        ],
        compute,
        [
            grey_picture("image", "original"),
            picture("δ in closed form, deep", "deep_delta"),
            picture("δ in closed form, heads", "heads_delta"),
            bars("log₁₀ of the eigenvalues, deep", "deep_spectrum", order, baseline=math.log10(FLOOR), token="pgd"),
            bars("log₁₀ of the eigenvalues, heads", "heads_spectrum", order, baseline=math.log10(FLOOR), token="objective"),
            lines("log₁₀ of δᵀHδ, heads over deep", curves, cursor="strength", xlabel="strength βλ₁"),
        ],
        {
            "λ₁, deep": ("deep_first", ""),
            "λ₁, heads": ("heads_first", ""),
            "‖g‖, deep": ("deep_slope", ""),
            "‖g‖, heads": ("heads_slope", ""),
            "δᵀHδ, heads over deep, same β": ("by_beta", "\u00a0%"),
            "same length": ("by_length", "\u00a0%"),
            "many steps over one, heads, same length": ("many", ""),
        },
        start={"net": 0, "asked": 0, "strength": 1.0, "photo": 0},
        caption="{net}, {photo}: the deep layers’ largest eigenvalue is {deep_first}, the heads’ {heads_first} ({asked}). The same β gives the heads "
        "{by_beta} of the deep network’s interaction, the same length {by_length}.",
    )


def fd_tables(
    found: Sequence[Sequence[Sequence[Quadratic]]], x: Tensor, asked: Sequence[int], strength: Sequence[float], along: Sequence[float] = STRENGTHS
) -> dict[str, Table]:
    """The tables of `fd` over net × asked × strength × photo, from `bowls` of each network and image; float64 before they are packed.

    β is the strength over the larger λ₁ of the two bowls that are compared. by_beta is δᵀHδ of the heads' δ^(∞) over the deep network's, by_length
    the same after dividing both by ‖δ‖²; both in percent. many is δᵀHδ/‖δ‖² of the heads' δ^(∞) over that of their single step. Curves run over
    ``along`` and are log₁₀.
    """
    cells = [[[_cell(three[0], three[1 + a], strength, along) for three in row] for a in asked] for row in found]

    def stacked(name: str, per_strength: bool = False) -> np.ndarray:
        values = np.array([[[cell[name] for cell in row] for row in block] for block in cells])
        return np.moveaxis(values, 3, 2) if per_strength else values

    over, fixed, pixels = ("net", "asked", "strength", "photo"), ("net", "asked", "photo"), x.shape[-2:]
    tables = {"original": Table(grey_frames(x), ("photo",))}
    for name in ("beta_curve", "length_curve", "deep_spectrum", "heads_spectrum", "deep_first", "heads_first", "deep_slope", "heads_slope"):
        tables[name] = Table(stacked(name), fixed)
    for name in ("by_beta", "by_length", "many"):
        tables[name] = Table(stacked(name, True), over)
    for name in ("deep_delta", "heads_delta"):
        delta = stacked(name, True)
        tables |= perturbation_frames(name, delta.reshape(*delta.shape[:-1], *pixels), over)
    return tables


def _cell(deep: Quadratic, heads: Quadratic, strength: Sequence[float], along: Sequence[float]) -> dict[str, np.ndarray]:
    steepest = max(float(q.eigenvalues[0]) for q in (deep, heads))

    def at(strengths: Sequence[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        deltas = [[q.infinite_step(s / steepest) for q in (deep, heads)] for s in strengths]
        bent = np.array([[float(q.interaction(d)) for q, d in zip((deep, heads), pair, strict=True)] for pair in deltas])
        squared = np.array([[float(d @ d) for d in pair] for pair in deltas])
        return bent, squared, np.array([[d.numpy() for d in pair] for pair in deltas])

    bent, squared, deltas = at(strength)
    curve, curve_squared, _ = at(along)
    single = float(heads.interaction(heads.g) / (heads.g @ heads.g))
    return {
        "by_beta": 100 * bent[:, 1] / bent[:, 0],
        "by_length": 100 * (bent[:, 1] / squared[:, 1]) / (bent[:, 0] / squared[:, 0]),
        "many": bent[:, 1] / squared[:, 1] / single,
        "beta_curve": np.log10(curve[:, 1] / curve[:, 0]),
        "length_curve": np.log10((curve / curve_squared)[:, 1] / (curve / curve_squared)[:, 0]),
        "deep_delta": deltas[:, 0],
        "heads_delta": deltas[:, 1],
        **{f"{name}_spectrum": _spectrum(q) for name, q in (("deep", deep), ("heads", heads))},
        **{f"{name}_first": float(q.eigenvalues[0]) for name, q in (("deep", deep), ("heads", heads))},
        **{f"{name}_slope": float(q.g.norm()) for name, q in (("deep", deep), ("heads", heads))},
    }


def _spectrum(q: Quadratic) -> np.ndarray:
    lam = torch.zeros(MODES, dtype=torch.float64)
    lam[: len(q.eigenvalues)] = q.eigenvalues[:MODES]
    return lam.clamp_min(FLOOR).log10().numpy()
