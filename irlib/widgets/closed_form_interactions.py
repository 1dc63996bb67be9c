"""The sweep of the chapter on interactions in closed form (spectrum × strength × steps), and the study of Lemma 2 and Theorem 2 on networks."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irlib import AttackGame, Quadratic, create_attack, total_interaction
from irlib.amplification import amplification
from irlib.data import FASHION_CLASSES
from irlib.game import grid_cells
from irlib.widgets.sweep import Param, Sweep, Table, bars, lines

STRENGTHS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0)
STEPS = (1, 2, 5, 10, 30, 100, math.inf)
MODES = 9

Spectrum = tuple[Tensor, Tensor]  # eigenvalues and squared projections u_i = γ_i² of the gradient, float64 (MODES,) each

# invented: λ and u of nine modes
SYNTHETIC: dict[str, Spectrum] = {
    "invented: all modes alike": (torch.ones(MODES).double(), torch.full((MODES,), 1 / MODES).double()),
    "invented: one mode dominates": (torch.tensor([1] + [0.05] * 8).double(), torch.full((MODES,), 1 / MODES).double()),
    "invented: four modes negative": (torch.linspace(1, -1, MODES).double(), torch.linspace(5, 1, MODES).double() / 27),
}


def closed_form_interactions(model: nn.Module, x: Tensor, y: Tensor, strengths: Sequence[float] = STRENGTHS, steps: Sequence[float] = STEPS) -> Sweep:
    """Sliders for strength β·max|λ|, number of steps and spectrum: δᵀHδ of a multi-step attack and of the single steps it is compared with.

    The spectra are those of ``model``'s own Hessians at the images, and the three of `SYNTHETIC`.

    Args:
        model: a source in eval mode, of at most ten classes; ValueError for more.
        x: images (k, 1, height, width).
        y: their labels.
    """
    spectra = {}
    for i in range(len(x)):
        q = Quadratic.at(model, x[i : i + 1], y[i : i + 1])
        missing = MODES - len(q.gamma)
        if missing < 0:
            raise ValueError(
                f"the widget has bars for {MODES} modes, the loss at image {i} has {len(q.gamma)}: hand in a network of at most ten classes"
            )
        spectra[f"{FASHION_CLASSES[y[i]]}, image {i + 1}"] = (F.pad(q.eigenvalues, (0, missing)), F.pad(q.gamma**2, (0, missing)))
    spectra |= SYNTHETIC
    names = list(spectra)

    def compute(strength: list[float], steps: list[float], spectrum: list[float]) -> dict[str, Table]:
        return closed_form_interactions_tables([spectra[names[int(i)]] for i in spectrum], strength, steps)

    labels = [str(i + 1) for i in range(MODES)]
    return Sweep(
        "closed-form-interactions",
        "One step or many: the interaction in closed form",
        [
            Param("strength", "strength β·max|λ|", strengths, open=True),
            Param("steps", "steps m", steps, lambda m: "∞" if m == math.inf else f"{m:g}", open=True),
            Param("spectrum", "spectrum", range(len(names)), lambda i: names[int(i)]),
        ],
        compute,
        [
            bars("each mode’s share λᵢ(Dᵢγᵢ)² of the interaction, many steps", "share", labels),
            bars("the same, single step", "share_single", labels, token="measured"),
            lines(
                "interaction δᵀHδ, in units of β²‖g‖²·max|λ|",
                {
                    "m steps": ("multi_curve", "theory", None),
                    "single step, same norm": ("norm_curve", "measured", "6 4"),
                    "single step, same β": ("beta_curve", "pgd", "2 3"),
                },
                cursor="strength",
                xlabel="strength β·max|λ|",
            ),
            lines(
                "curvature along δ: δᵀHδ / ‖δ‖², as a share of max|λ|",
                {"m steps": ("curvature_curve", "theory", None), "single step": ("gradient_curve", "measured", "6 4")},
                cursor="strength",
                xlabel="strength β·max|λ|",
            ),
        ],
        {
            "m steps": ("multi", ""),
            "single step, same β": ("beta", ""),
            "single step, same norm": ("norm", ""),
            "ratio, same β": ("ratio_beta", ""),
            "ratio, same norm": ("ratio_norm", ""),
        },
        start={"strength": 1.0, "steps": 10, "spectrum": 0},
        caption="At strength {strength} and {steps} steps, spectrum “{spectrum}”: the many steps have {ratio_beta} times the interaction of a single "
        "step of the same β, and {ratio_norm} times that of a single step of the same length.",
    )


def closed_form_interactions_tables(spectra: Sequence[Spectrum], strength: Sequence[float], steps: Sequence[float]) -> dict[str, Table]:
    """The tables of `closed_form_interactions` over strength × steps × spectrum, in float64.

    multi, beta and norm are δᵀHδ of m steps, of the single step of the same β and of the single step of the same ‖δ‖₂, all in units of
    β²‖g‖²·max|λ|; the ratios are multi's to the other two. share divides λ_i(D_ii γ_i)² by the sum of its absolute values.
    """
    over = ("strength", "steps", "spectrum")
    lam = torch.stack([eigenvalues / eigenvalues.abs().max() for eigenvalues, _ in spectra])
    u = torch.stack([weights / weights.sum() for _, weights in spectra])
    d2 = torch.stack([torch.stack([(amplification(lam, s, m) / s) ** 2 for m in steps]) for s in strength])  # (strength, steps, spectrum, mode)
    parts, single_parts = lam * u * d2, lam * u
    length = (u * d2).sum(-1)  # ‖δ‖² in units of β²‖g‖²
    multi, single = parts.sum(-1), single_parts.sum(-1).expand(length.shape)
    numbers = {
        "multi": multi,
        "beta": single,
        "norm": length * single,
        "ratio_beta": multi / single,
        "ratio_norm": multi / (length * single),
    }
    curves = {"multi": multi, "norm": length * single, "beta": single, "curvature": multi / length, "gradient": single}
    return {
        **{name: Table(value.numpy(), over) for name, value in numbers.items()},
        **{f"{name}_curve": Table(np.moveaxis(value.numpy(), 0, -1), ("steps", "spectrum")) for name, value in curves.items()},
        "share": Table((parts / parts.abs().sum(-1, keepdim=True)).numpy(), over),
        "share_single": Table((single_parts / single_parts.abs().sum(-1, keepdim=True)).numpy(), ("spectrum",)),
    }


def between_units(q: Quadratic, delta: Tensor, units: Tensor) -> Tensor:
    """δᵀHδ − Σ_a δ_aᵀHδ_a, a float64 scalar: what Lemma 2 predicts for `irlib.total_interaction`, whose sum over a ≠ b has no diagonal.

    ``delta`` has one channel; ``units`` holds the unit of each pixel, as `irlib.game.grid_cells` returns it.
    """
    along = q.modes.T * delta.double().flatten()  # (mode, pixel): v_i ⊙ δ
    units = units.flatten()
    of_units = torch.zeros(len(along), int(units.max()) + 1, dtype=torch.float64).index_add_(1, units, along)
    return (q.eigenvalues * (of_units.sum(1) ** 2 - (of_units**2).sum(1))).sum()


def perturbations(model: nn.Module, x: Tensor, y: Tensor, quadratics: Sequence[Quadratic], strength: float) -> tuple[Tensor, Tensor, Tensor]:
    """Raw ascent of that strength βλ₁ in ten steps, in one, and the one step lengthened to the ten's ‖δ‖₂ image by image."""
    beta = torch.tensor([strength / q.eigenvalues[0].item() for q in quadratics], dtype=x.dtype)
    multi, single = (create_attack("pgd", model, norm="none", alpha=beta / m, steps=m).run(x, y).delta for m in (10, 1))
    return multi, single, _as_long_as(single, multi)


def published(model: nn.Module, x: Tensor, y: Tensor, norm: str, eps: float) -> tuple[Tensor, Tensor]:
    """PGD's ten steps and FGSM's one in the ball of radius ``eps``; under l2, FGSM's perturbation is lengthened to PGD's ‖δ‖₂."""
    multi, single = (create_attack(name, model, norm=norm, eps=eps)(x, y) - x for name in ("pgd", "fgsm"))
    return multi, _as_long_as(single, multi) if norm == "l2" else single


def _as_long_as(delta: Tensor, other: Tensor) -> Tensor:
    length, wanted = (d.flatten(1).norm(dim=1).view(-1, 1, 1, 1) for d in (delta, other))
    return delta * (wanted / length)


def study(model: nn.Module, x: Tensor, y: Tensor, strengths: Sequence[float], eps: float = 16 / 255, grid: int = 7) -> dict:
    """Total interactions (Eq. 12) of many steps and of one, on one network, as lists over the images.

    "raw" has, for each strength, "multi" and the single steps of the same "beta" and "norm"; "predicted" what the Hessian at the image says of the
    three, and the "ceiling" of the equal-norm ratio, λ₁‖g‖²/gᵀHg; "published", for linf and l2 and both utilities, "multi" (PGD, ten steps) and
    "single" (FGSM); eps is the linf radius, the l2 radius is eps·√n.
    """
    quadratics = [Quadratic.at(model, x[i : i + 1], y[i : i + 1]) for i in range(len(x))]

    def totals(names: Sequence[str], deltas: Sequence[Tensor], utility: str = "ce") -> dict[str, list[float]]:
        return {n: total_interaction(AttackGame(model, x, d, y, grid=grid, utility=utility)).tolist() for n, d in zip(names, deltas, strict=True)}

    raw = {f"{s:g}": totals(("multi", "beta", "norm"), perturbations(model, x, y, quadratics, s)) for s in strengths}
    units = grid_cells(*x.shape[-2:], grid)
    predicted = {f"{s:g}": [_predicted(q, units, s) for q in quadratics] for s in strengths}
    radii = {"linf": eps, "l2": eps * math.sqrt(x[0].numel())}
    attacks = {norm: published(model, x, y, norm, radius) for norm, radius in radii.items()}
    return {
        "raw": raw,
        "predicted": {s: {name: [each[name] for each in images] for name in images[0]} for s, images in predicted.items()},
        "published": {norm: {u: totals(("multi", "single"), pair, u) for u in ("ce", "margin")} for norm, pair in attacks.items()},
    }


def _predicted(q: Quadratic, units: Tensor, strength: float) -> dict[str, float]:
    """The totals that the quadratic gives its own ten steps, its single step of the same β, and that of the same norm; and the ceiling."""
    beta = strength / q.eigenvalues[0].item()
    multi = q.multi_step(beta / 10, 10)
    steps = {"multi": multi, "beta": q.single_step(beta), "norm": q.single_step_like(multi)}
    ceiling = q.eigenvalues[0] * (q.g @ q.g) / q.interaction(q.g)
    return {name: between_units(q, delta, units).item() for name, delta in steps.items()} | {"ceiling": ceiling.item()}


def locality(model: nn.Module, x: Tensor, y: Tensor, epsilons: Sequence[float], grid: int = 7) -> dict[str, Mapping[str, list]]:
    """Lemma 2 against the network, as lists (ε, image): the total that the Hessian at x "predicted" and the one that the game "measured", for the
    raw gradient scaled to ‖δ‖∞ = ε ("raw") and for PGD's ten sign steps ("pgd"). Hand in a float64 model and images: totals shrink like ε².
    """
    quadratics = [Quadratic.at(model, x[i : i + 1], y[i : i + 1]) for i in range(len(x))]
    g = torch.stack([q.g / q.g.abs().max() for q in quadratics]).view(x.shape).to(x.dtype)
    units = grid_cells(*x.shape[-2:], grid)
    found: dict[str, dict[str, list]] = {name: {"predicted": [], "measured": []} for name in ("raw", "pgd")}
    for eps in epsilons:
        for name, delta in (("raw", eps * g), ("pgd", create_attack("pgd", model, eps=eps)(x, y) - x)):
            found[name]["predicted"].append([between_units(q, d, units).item() for q, d in zip(quadratics, delta, strict=True)])
            found[name]["measured"].append(total_interaction(AttackGame(model, x, delta, y, grid=grid)).tolist())
    return found
