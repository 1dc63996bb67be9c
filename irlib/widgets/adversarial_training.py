"""The sweep of the chapter on adversarially trained sources: the closed form on networks that differ in the ε they were trained at."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from irlib.data import FASHION_CLASSES
from irlib.quadratic import Quadratic
from irlib.widgets.sweep import Param, Sweep, Table, bars, grey_frames, grey_picture, lines, perturbation_frames, picture

STRENGTHS = (0.1, 0.5, 1.0, 2.0, 4.0)
FLOOR = 1e-12  # what is smaller is drawn as this, on logarithmic bars
MODES = 9


def adversarial_training(models: Mapping[int, nn.Module], x: Tensor, y: Tensor, strengths: Sequence[float] = STRENGTHS) -> Sweep:
    """Sliders for training ε, strength and image: slope, curvature, prediction and closed-form δ of each network at one image.

    Args:
        models: networks of one architecture in eval mode, piecewise linear, by training ε in grey levels; the plain one is 0.
        x: images (k, 1, height, width) that all of them classify right.
        y: their labels.
    """
    levels = list(models)
    quadratics = {level: [Quadratic.at(model, x[i : i + 1], y[i : i + 1]) for i in range(len(x))] for level, model in models.items()}
    p = {level: model(x).detach().double().softmax(1) for level, model in models.items()}

    def compute(trained: list[float], strength: list[float], example: list[float]) -> dict[str, Table]:
        return trained_tables({k: quadratics[k] for k in levels}, p, x, y, trained, strength, [int(i) for i in example])

    labels = [name.removeprefix("ankle ")[:4] for name in FASHION_CLASSES]
    return Sweep(
        "adversarial-training",
        "One image, four networks: what training at ε did to the bowl",
        [
            Param("trained", "training ε", levels, lambda level: f"{level:g}/255" if level else "none (plain)"),
            Param("strength", "strength βλ₁, of the steepest of the four", strengths, open=True),
            Param("example", "image", range(len(x)), lambda i: FASHION_CLASSES[y[int(i)]]),
        ],
        compute,
        [
            grey_picture("image", "original"),
            picture("δ in closed form, plain network", "plain_delta"),
            picture("δ in closed form, this network", "trained_delta"),
            bars("log₁₀ of the eigenvalues λᵢ", "spectrum", [str(i + 1) for i in range(MODES)], baseline=math.log10(FLOOR)),
            bars("log₁₀ p of each class", "prediction", labels, baseline=math.log10(FLOOR), token="measured"),
            lines(
                "log₁₀ over the training ε, plain network = 0",
                {
                    "doubt 1 − p": ("doubt_curve", "measured", "2 3"),
                    "squared class gradients U": ("steepness_curve", "network", "6 4"),
                    "largest eigenvalue λ₁": ("first_curve", "theory", None),
                },
                cursor="trained",
                xlabel="training ε, in 1/255",
            ),
            lines(
                "log₁₀ of the interaction δᵀHδ, plain network = 0",
                {"same β": ("beta_curve", "theory", None), "same length": ("length_curve", "network", "6 4")},
                cursor="trained",
                xlabel="training ε, in 1/255",
            ),
        ],
        {
            "1 − p of the true class": ("doubt", ""),
            "‖g‖": ("slope", ""),
            "U": ("steepness", ""),
            "λ₁": ("first", ""),
            "‖δ‖₂": ("norm", ""),
            "δᵀHδ": ("bend", ""),
            "δᵀHδ at the same β, plain = 100 %": ("by_beta", "\u00a0%"),
            "at the same length": ("by_length", "\u00a0%"),
        },
        start={"trained": levels[-1], "strength": 1.0, "example": 0},
        caption="Trained at {trained}, the network’s largest curvature at this image is {first}. The same β gives {by_beta} of the plain network’s "
        "interaction; perturbations of one length give {by_length} of it.",
    )


def trained_tables(
    quadratics: Mapping[int, Sequence[Quadratic]],
    p: Mapping[int, Tensor],
    x: Tensor,
    y: Tensor,
    trained: Sequence[float],
    strength: Sequence[float],
    example: Sequence[int],
) -> dict[str, Table]:
    """The tables of `adversarial_training` over trained × strength × example, float64 before they are packed.

    β is the strength over the largest λ₁ of all networks at the image, the same for all of them, so that none overflows. bend is δᵀHδ of
    δ^(∞); by_beta divides it by the plain network's, by_length does so after dividing both by ‖δ‖², in percent. doubt is r = 1 − p_y, added
    up from the wrong classes; steepness is U = Σ_{k≠y} p_k‖w_k − w_y‖²/r, the mean squared length of the class gradients that pull; so the
    trace of H is rU − ‖g‖². Curves run over all networks, and are the
    log₁₀ of what is relative to the plain one.
    """
    levels = list(quadratics)
    beta = [max(float(quadratics[k][i].eigenvalues[0]) for k in levels) for i in example]
    found = {k: [[_cell(quadratics[k][i], s / b) for i, b in zip(example, beta, strict=True)] for s in strength] for k in levels}
    numbers = {name: np.array([[[cell[name] for cell in row] for row in found[k]] for k in levels]) for name in ("norm", "bend", "delta")}
    relative = {"beta": numbers["bend"], "length": numbers["bend"] / numbers["norm"] ** 2}
    relative = {name: values / values[:1] for name, values in relative.items()}
    wrong = {k: p[k].index_put((torch.arange(len(y)), y), torch.zeros((), dtype=torch.float64)) for k in levels}
    doubt = np.array([wrong[k].sum(1)[list(example)].numpy() for k in levels])
    each = lambda read: np.array([[read(quadratics[k][i]) for i in example] for k in levels])
    slope, first = each(lambda q: float(q.g.norm())), each(lambda q: float(q.eigenvalues[0]))
    steepness = (each(lambda q: float(q.eigenvalues.sum())) + slope**2) / doubt
    single = {"doubt": doubt, "slope": slope, "steepness": steepness, "first": first}
    at, over, pixels = [levels.index(k) for k in trained], ("trained", "strength", "example"), x.shape[-2:]
    return {
        "original": Table(grey_frames(x[list(example)]), ("example",)),
        **{name: Table(values[at], ("trained", "example")) for name, values in single.items()},
        **{f"{name}_curve": Table(np.log10(values / values[:1]).T, ("example",)) for name, values in single.items() if name != "slope"},
        **{name: Table(numbers[name][at], over) for name in ("norm", "bend")},
        **{f"by_{name}": Table(100 * values[at], over) for name, values in relative.items()},
        **{f"{name}_curve": Table(np.moveaxis(np.log10(values), 0, -1), ("strength", "example")) for name, values in relative.items()},
        "spectrum": Table(each(_spectrum)[at], ("trained", "example")),
        "prediction": Table(np.array([p[k][list(example)].clamp_min(FLOOR).log10().numpy() for k in levels])[at], ("trained", "example")),
        **perturbation_frames("plain_delta", numbers["delta"][0].reshape(len(strength), len(example), *pixels), over[1:]),
        **perturbation_frames("trained_delta", numbers["delta"][at].reshape(len(at), len(strength), len(example), *pixels), over),
    }


def _cell(q: Quadratic, beta: float) -> dict[str, float | np.ndarray]:
    delta = q.infinite_step(beta)
    return {"norm": float(delta.norm()), "bend": float(q.interaction(delta)), "delta": delta.numpy()}


def _spectrum(q: Quadratic) -> list[float]:
    lam = torch.zeros(MODES, dtype=torch.float64)
    lam[: len(q.eigenvalues)] = q.eigenvalues[:MODES]
    return lam.clamp_min(FLOOR).log10().tolist()
