"""The theory sweep of the chapter on RAP: strength × inner strength × image, the flattened bowl beside the plain one and the network itself."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from irlib import AttackGame, Quadratic, create_attack, total_interaction
from irlib.amplification import amplification, reverse_amplification
from irlib.data import FASHION_CLASSES
from irlib.widgets.sweep import Param, Sweep, Table, bars, grey_frames, grey_picture, lines, mode_picture, path, perturbation_frames, picture

STRENGTHS = (0.2, 0.5, 1.0, 2.0)
RATIOS = (0.0, 0.1, 0.2, 0.5, 0.8, 1.2)  # β_r / β: with STEPS outer steps 0, 1, 2, 5, 8 (published) and 12 inner ones
STEPS = 10
SPECTRUM = np.linspace(0, 2, 41)  # βλ of the curves of D


def reverse_perturbation(model: nn.Module, x: Tensor, y: Tensor, strengths: Sequence[float] = STRENGTHS, ratios: Sequence[float] = RATIOS) -> Sweep:
    """Sliders for strength βλ₁, inner strength β_r/β and image: the idealised RAP in closed form, beside plain ascent and the network's own.

    Args:
        model: a source in eval mode, piecewise linear.
        x: images (k, 1, height, width).
        y: their labels.
    """
    quadratics = [Quadratic.at(model, x[i : i + 1], y[i : i + 1]) for i in range(len(x))]
    rank = min(len(q.gamma) for q in quadratics)

    def compute(strength: list[float], ratio: list[float], bowl: list[float]) -> dict[str, Table]:
        return reverse_tables(model, x[bowl], y[bowl], [quadratics[i] for i in bowl], strength, ratio)

    return Sweep(
        "rap",
        "The reverse perturbation on a network’s own modes",
        [
            Param("strength", "strength βλ₁", strengths),
            Param("ratio", "inner strength β_r / β", ratios),
            Param("bowl", "image", range(len(x)), lambda i: FASHION_CLASSES[y[int(i)]]),
        ],
        compute,
        [
            grey_picture("image", "original"),
            mode_picture("δ, plain, closed form", "plain_weights", "modes"),
            mode_picture("δ, RAP, closed form", "weights", "modes"),
            picture("δ, RAP, network", "network"),
            bars("RAP’s amplification of each mode, as a share of plain ascent’s", "kept", [str(i + 1) for i in range(rank)], token="sampling"),
            path(
                "amplification D / β against βλ",
                {
                    "RAP": ("damped", "sampling", None),
                    "plain": ("grown", "pgd", "6 4"),
                    "RAP as printed": ("printed", "theory", "2 3"),
                },
                xs="spectrum",
                xlabel="βλ: strength times eigenvalue",
                low=0,
                high=3.2,
            ),
            lines(
                "δᵀHδ in closed form, as a share of plain ascent’s",
                {"same β": ("same_beta_curve", "sampling", None), "same length": ("same_length_curve", "theory", "6 4")},
                cursor="ratio",
                xlabel="inner strength β_r / β",
            ),
        ],
        {
            "δᵀHδ, share, same β": ("same_beta", " %"),
            "δᵀHδ, share, same length": ("same_length", " %"),
            "‖δ‖₂, share": ("length", " %"),
            "gap, RAP": ("gap", " %"),
            "gap, plain": ("plain_gap", " %"),
            "measured total, RAP": ("total", ""),
            "measured total, plain": ("plain_total", ""),
        },
        start={"strength": 1.0, "ratio": 0.8, "bowl": 0},
        caption="At strength {strength} and inner strength {ratio} β, RAP’s δᵀHδ is {same_beta} of plain ascent’s; made as long as plain ascent’s "
        "perturbation it would be {same_length}. The closed form is {gap} away from the network’s own RAP.",
    )


def reverse_tables(
    model: nn.Module, x: Tensor, y: Tensor, quadratics: Sequence[Quadratic], strength: Sequence[float], ratio: Sequence[float]
) -> dict[str, Table]:
    """The tables of `reverse_perturbation` over strength × ratio × bowl, for STEPS outer steps and ratio·STEPS inner ones of the same α.

    same_beta, same_length and length compare the closed forms, in percent of plain ascent's: δᵀHδ, δᵀHδ/‖δ‖², ‖δ‖₂. gap is ‖δ_network − δ_closed‖
    as a percentage of ‖δ_network‖, total the network's own total interaction (Eq. 12, cross-entropy, 7×7 units). damped, grown and printed are
    D/β of infinitely many steps over `SPECTRUM`, the last one as Corollary 5 states it.
    """
    over = ("strength", "ratio", "bowl")
    inner = [round(r * STEPS) for r in ratio]
    rank = min(len(q.gamma) for q in quadratics)
    lam = torch.stack([q.eigenvalues[:rank] for q in quadratics])  # (bowl, rank)
    gamma = torch.stack([q.gamma[:rank] for q in quadratics])
    modes = torch.stack([q.modes[:, :rank].T for q in quadratics])  # (bowl, rank, n)
    beta = torch.tensor(strength, dtype=torch.float64)[:, None] / lam[:, 0]  # (strength, bowl)
    each = [_amplified(q.eigenvalues[:rank], b.item(), m_r) for row in beta for m_r in [0, *inner] for q, b in zip(quadratics, row, strict=True)]
    amplified = torch.stack(each).view(len(strength), len(inner) + 1, len(quadratics), rank)
    plain, reverse = amplified[:, :1].expand(-1, len(inner), -1, -1), amplified[:, 1:]

    networks = torch.stack([_climbed(model, x, y, beta, m_r) for m_r in [0, *inner]], dim=1)  # (strength, 1 + ratio, bowl, n)
    closed = torch.einsum("smir,irn->smin", amplified * gamma, modes)
    gaps = 100 * (networks - closed).norm(dim=-1) / networks.norm(dim=-1)
    totals = torch.stack([_totals(model, x, y, d) for d in networks.flatten(0, 1)]).view(gaps.shape)

    curvature, square = [[(w * (d * gamma) ** 2).sum(-1) for d in (plain, reverse)] for w in (lam, torch.ones_like(lam))]
    same_beta = 100 * curvature[1] / curvature[0]
    same_length = same_beta * square[0] / square[1]
    numbers = {
        "same_beta": same_beta,
        "same_length": same_length,
        "length": 100 * (square[1] / square[0]).sqrt(),
        "gap": gaps[:, 1:],
        "plain_gap": gaps[:, :1].expand_as(same_beta),
        "total": totals[:, 1:],
        "plain_total": totals[:, :1].expand_as(same_beta),
    }
    damping = np.exp(-np.outer(ratio, SPECTRUM))
    grown = amplification(torch.tensor(SPECTRUM), 1.0).numpy()
    pixels = x.shape[-2:]
    return {
        **{name: Table(value.numpy(), over) for name, value in numbers.items()},
        "same_beta_curve": Table(same_beta.movedim(1, -1).numpy() / 100, ("strength", "bowl")),
        "same_length_curve": Table(same_length.movedim(1, -1).numpy() / 100, ("strength", "bowl")),
        "kept": Table((reverse / plain).numpy(), over),
        "original": Table(grey_frames(x), ("bowl",)),
        "modes": Table(modes.unflatten(-1, pixels).numpy(), ("bowl",)),
        "weights": Table((reverse * gamma).numpy(), over),
        "plain_weights": Table((plain[:, 0] * gamma).numpy(), ("strength", "bowl")),
        "spectrum": Table(SPECTRUM),
        "grown": Table(grown),
        "damped": Table(torch.stack([reverse_amplification(torch.tensor(SPECTRUM), 1.0, r) for r in ratio]).numpy(), ("ratio",)),
        "printed": Table(grown * damping, ("ratio",)),
        **perturbation_frames("network", networks[:, 1:].unflatten(-1, pixels).numpy(), over),
    }


def _amplified(lam: Tensor, beta: float, inner: int) -> Tensor:
    """D of STEPS outer steps and ``inner`` inner ones; plain ascent's for none."""
    return reverse_amplification(lam, beta, beta * inner / STEPS, STEPS, inner) if inner else amplification(lam, beta, STEPS)


def _climbed(model: nn.Module, x: Tensor, y: Tensor, beta: Tensor, inner: int) -> Tensor:
    """The network's own raw ascent in STEPS steps, with ``inner`` steps of descent before each: float64 (strength, image, n)."""
    copies = len(beta)
    method = {"name": "rap", "idealised": True, "inner_steps": inner} if inner else {"name": "pgd", "norm": "none"}
    attack = create_attack(model=model, alpha=(beta.flatten() / STEPS).to(x), steps=STEPS, **method)
    return attack.run(x.repeat(copies, 1, 1, 1), y.repeat(copies)).delta.double().view(copies, len(x), -1)


def _totals(model: nn.Module, x: Tensor, y: Tensor, delta: Tensor) -> Tensor:
    return total_interaction(AttackGame(model, x, delta.view(x.shape).to(x), y, grid=7))
