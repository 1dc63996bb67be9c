"""The sweep of the chapter on IA: softplus × weakened branches × image, Lemma 15's quantity and its two bounds on a real network."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from irlib.attacks.ia import published_scales
from irlib.balance import class_gradients, class_gram, competitors, kappa, quadratic_form, squared_gradient, wrong
from irlib.data import FASHION_CLASSES
from irlib.surgery import Smoothed
from irlib.widgets.sweep import Param, Sweep, Table, bars, grey_frames, grey_picture, lines

BETAS = (5.0, 10.0, 20.0, 50.0, 200.0)
WEAKENED = (0.0, 0.25, 0.5, 0.75, 1.0)


def level_curvature(gram: Tensor, p: Tensor, y: int) -> Tensor:
    """∇·(g/‖g‖) = (tr H − gᵀHg/gᵀg)/‖g‖ (Eq. 221), float64 (…): what the IA attack's fine-tuning (Eq. 207) maximises, the curvature of the loss's
    level set.

    Of a piecewise linear network with Gram matrix W̃ᵀW̃ (…, c, c), centred or not, and prediction p (…, c). Of a smooth network it leaves out what
    the curvature of the logits adds.
    """
    p = torch.as_tensor(p).double()
    form, squared = quadratic_form(gram, p, y)
    # of the differences to the true class, so that a confident image's p_y ≈ 1 multiplies nothing
    apart = gram - gram[..., y : y + 1, :] - gram[..., :, y : y + 1] + gram[..., y : y + 1, y : y + 1]
    trace = (p * apart.diagonal(dim1=-2, dim2=-1)).sum(-1) - (p * (apart @ p[..., None])[..., 0]).sum(-1)  # Σ p_k‖u_k‖² − ‖Σ p_k u_k‖²
    return (trace - form / squared) / squared.sqrt()


def orthogonal_curvature(p: Tensor, y: int, kappa: float | Tensor = 1.0) -> Tensor:
    """The same under Assumption 3, float64 (…): √κ·(1 − Σσ_i³)/(1 + Σσ_i²)^{3/2}, with σ_i = p_i/(1 − p_y) the shares of the wrong classes."""
    w = wrong(p, y)
    shares = w / w.sum(-1, keepdim=True)
    return torch.as_tensor(kappa).double().sqrt() * (1 - (shares**3).sum(-1)) / (1 + (shares**2).sum(-1)) ** 1.5


def lemma_bounds(p: Tensor, y: int, kappa: float | Tensor = 1.0) -> tuple[Tensor, Tensor]:
    """Eq. 230's bounds on it, float64 (…): √κ·(1 − Σp_i² − 2p_y(1−p_y))/√N and √κ·(1 − Σp_i²)/√N; the paper's Lemma 15 moves these."""
    w = wrong(p, y)
    r, s = w.sum(-1), (w**2).sum(-1)
    root = torch.as_tensor(kappa).double().sqrt() / squared_gradient(p, y).sqrt()
    return root * (r**2 - s), root * (2 * r - r**2 - s)


def weakened(model: nn.Module, beta: float, share: float) -> Smoothed:
    """``model`` as IA's public code alters it, its branches weakened by ``share`` of what is published: 0 leaves them, 1 is the published scale."""
    return Smoothed(model, beta, [1 - share * (1 - scale) for scale in published_scales(model)])


def smooth_networks(model: nn.Module, x: Tensor, y: Tensor, betas: Sequence[float] = BETAS, shares: Sequence[float] = WEAKENED) -> Sweep:
    """Sliders for the softplus, the weakening of the branches, and the image: the prediction's balance, and the quantity of Lemma 15.

    Args:
        model: a network with residual branches, in eval mode.
        x: images (k, 1, height, width) that it has right.
        y: their labels.
    """
    labels = [name.removeprefix("ankle ")[:4] for name in FASHION_CLASSES]
    return Sweep(
        "smooth-networks",
        "The public IA network: its balance, and the quantity of Lemma 15",
        [
            Param("softplus", "softplus β", betas, open=True),
            Param("weaken", "branches weakened by", shares, lambda v: f"{100 * v:.0f}\u00a0% of what is published", open=True),
            Param("picture", "image", range(len(x)), lambda i: FASHION_CLASSES[y[int(i)]]),
        ],
        lambda softplus, weaken, picture: smooth_tables(model, x[list(picture)], y[list(picture)], softplus, weaken),
        [
            grey_picture("image", "original"),
            bars("p", "p", labels, token="network"),
            lines(
                "Lemma 15’s quantity and its two bounds, over √κ",
                {
                    "quantity": ("curvature_curve", "measured", None),
                    "upper bound": ("upper_curve", "theory", "6 4"),
                    "lower bound": ("lower_curve", "theory", "2 3"),
                },
                cursor="weaken",
                xlabel="share of the published weakening",
            ),
            lines(
                "powers of ten above the unaltered network",
                {
                    "single step’s interaction, same η": ("step_curve", "network", None),
                    "same length": ("length_curve", "theory", "6 4"),
                    "κ": ("kappa_curve", "measured", "2 3"),
                },
                cursor="weaken",
                xlabel="share of the published weakening",
            ),
        ],
        {
            "p of the true class": ("right", ""),
            "effective competitors": ("rivals", ""),
            "Σp_i² of the wrong classes": ("squares", ""),
            "Lemma 15’s quantity": ("curvature", ""),
            "single step at the same η, of the unaltered": ("step", ""),
            "at the same length, of the unaltered": ("length", ""),
        },
        start={"softplus": 20.0, "weaken": 0.5, "picture": 0},
        caption="Softplus {softplus}, branches weakened by {weaken}: p of the true class is {right}, {rivals} effective competitors, Σp_i² of the "
        "wrong classes {squares}, and Lemma 15’s quantity {curvature}. A single step interacts {step} times as much as on the unaltered network "
        "at the same η, {length} times at the same length.",
    )


def smooth_tables(model: nn.Module, x: Tensor, y: Tensor, softplus: Sequence[float], weaken: Sequence[float]) -> dict[str, Table]:
    """The tables of `smooth_networks` over softplus × weaken × image, float64 before they are packed; the curves run over `WEAKENED`.

    H is W̃(diag p − ppᵀ)W̃ᵀ of the altered network, as in the paper. step is its gᵀHg over the unaltered network's, length the same of
    gᵀHg/gᵀg, kappa of κ, which is size; their curves are logarithms to the base 10, those of the quantity and its bounds are over √κ.
    """
    over = ("softplus", "weaken", "picture")
    before = _numbers(model, x, y)

    def relative(found: dict[str, Tensor]) -> dict[str, Tensor]:
        return found | {name: found[name] / before[name] for name in ("step", "length", "kappa")}

    def row(shares: Sequence[float]) -> dict[str, np.ndarray]:
        cells = [[relative(_numbers(weakened(model, b, s), x, y)) for s in shares] for b in softplus]
        return {name: torch.stack([torch.stack([cell[name] for cell in line]) for line in cells]).numpy() for name in before}

    found = row(weaken)
    along = found if tuple(weaken) == WEAKENED else row(WEAKENED)
    curves = {name: along[name] / np.sqrt(along["size"]) for name in ("curvature", "upper", "lower")}
    curves |= {name: np.log10(along[name]) for name in ("step", "length", "kappa")}
    return {
        "original": Table(grey_frames(x), ("picture",)),
        **{name: Table(value, over) for name, value in found.items()},
        **{f"{name}_curve": Table(np.moveaxis(value, 1, -1), ("softplus", "picture")) for name, value in curves.items()},
    }


def _numbers(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Of one network, float64, the images first."""
    z, w = class_gradients(model, x)
    p, gram = z.softmax(1), class_gram(w)
    rows = []
    for k in range(len(x)):
        label, size = int(y[k]), kappa(gram[k])
        form, squared = quadratic_form(gram[k], p[k], label)
        lower, upper = lemma_bounds(p[k], label, size)
        rows.append(
            {
                "p": p[k],
                "right": p[k, label],
                "rivals": competitors(p[k], label),
                "squares": (wrong(p[k], label) ** 2).sum(),
                "curvature": level_curvature(gram[k], p[k], label),
                "lower": lower,
                "upper": upper,
                "step": form,
                "length": form / squared,
                "kappa": size,
                "size": size,
            }
        )
    return {name: torch.stack([each[name] for each in rows]) for name in rows[0]}
