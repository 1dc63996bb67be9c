"""The sweep of the chapter on momentum: strength × steps × memory × image, on a real network's modes."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from irlib import Quadratic
from irlib.amplification import amplification, momentum_amplification
from irlib.data import FASHION_CLASSES
from irlib.widgets.sweep import Param, Sweep, Table, bars, grey_frames, grey_picture, lines, mode_picture

STRENGTHS = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0)
STEPS = (1, 2, 5, 10, 30, 100, math.inf)
MEMORIES = (0.0, 0.5, 0.9, 1.0)


def remembered_amplification(eigenvalues: Tensor, beta: float, steps: float, memory: float) -> Tensor:
    """D_ii of ascent along a weighted mean of all gradients so far, the gradient of s steps ago with weight memory**s; float64, λ's shape.

    ``memory`` 0 is plain ascent, 1 the mean of Eq. 14; in between the published rule's m ← decay·m + ∇ divided by the sum of its weights. In
    the limit of infinitely many steps any memory below 1 reaches back over a vanishing share of them: plain ascent again.
    """
    if not 0 <= memory <= 1:
        raise ValueError(f"memory must lie in [0, 1], got {memory}: above 1 the oldest gradients would weigh most")
    if memory == 1:
        return momentum_amplification(eigenvalues, beta, steps)
    if memory == 0 or steps == math.inf:
        return amplification(eigenvalues, beta, steps)
    lam = torch.as_tensor(eigenvalues).double()
    past, weight, d = torch.zeros_like(lam), 0.0, torch.zeros_like(lam)
    for _ in range(int(steps)):
        past, weight = memory * past + 1 + lam * d, memory * weight + 1
        d = d + beta / steps * past / weight
    return d


def momentum(model: nn.Module, x: Tensor, y: Tensor, strengths: Sequence[float] = STRENGTHS) -> Sweep:
    """Sliders for strength βλ₁, number of steps, memory and image: the closed forms of momentum and of plain ascent on ``model``'s modes.

    Args:
        model: a source in eval mode.
        x: images (k, 1, height, width).
        y: their labels.
    """
    quadratics = [Quadratic.at(model, x[i : i + 1], y[i : i + 1]) for i in range(len(x))]

    def compute(strength: list[float], number: list[float], memory: list[float], at: list[float]) -> dict[str, Table]:
        chosen = [int(i) for i in at]
        return momentum_tables(x[chosen], [quadratics[i] for i in chosen], strength, number, memory)

    rank = min(len(q.gamma) for q in quadratics)
    return Sweep(
        "mi-modes",
        "Momentum beside plain ascent, in closed form",
        [
            Param("strength", "strength βλ₁", strengths, open=True),
            Param("number", "number of steps", STEPS, lambda m: "∞" if m == math.inf else f"{m:g}"),
            Param("memory", "memory μ", MEMORIES, open=True),
            Param("at", "around", range(len(x)), lambda i: f"{FASHION_CLASSES[y[int(i)]]}, image {int(i) + 1}"),
        ],
        compute,
        [
            grey_picture("image", "original"),
            mode_picture("δ, plain ascent", "plain_weights", "modes"),
            mode_picture("δ, momentum", "weights", "modes"),
            bars("momentum’s amplification of each mode, as a share of plain ascent’s", "share", [str(i + 1) for i in range(rank)], baseline=1),
            lines(
                "amplification D / β of the first mode",
                {
                    "plain": ("plain_curve", "pgd", "2 3"),
                    "momentum": ("first_curve", "direction", None),
                    "one step": ("single_curve", "measured", "6 4"),
                },
                cursor="strength",
                xlabel="strength βλ₁",
            ),
            lines(
                "interaction δᵀHδ of momentum, as a share of plain ascent’s",
                {"same β": ("beta_curve", "direction", None), "same ‖δ‖₂": ("length_curve", "theory", "6 4")},
                cursor="strength",
                xlabel="strength βλ₁",
            ),
        ],
        {
            "D / β, first mode, plain": ("plain_first", ""),
            "D / β, first mode, momentum": ("first", ""),
            "‖δ‖₂, share of plain’s": ("length", " %"),
            "interaction, same β": ("same_beta", " %"),
            "interaction, same ‖δ‖₂": ("same_length", " %"),
        },
        start={"strength": 1.0, "number": 10, "memory": 1.0, "at": 0},
        caption="At strength {strength}, {number} steps and memory {memory}, momentum’s δ is {length} as long as plain ascent’s and has {same_beta} "
        "of its interaction. Made equally long, it has {same_length}.",
    )


def momentum_tables(
    x: Tensor, quadratics: Sequence[Quadratic], strength: Sequence[float], number: Sequence[float], memory: Sequence[float]
) -> dict[str, Table]:
    """The tables of `momentum` over strength × number × memory × at, in float64.

    first and plain_first are D/β of the first mode, share is momentum's D over plain ascent's in every mode; length, same_beta and same_length
    are ‖δ‖₂, δᵀHδ and δᵀHδ/‖δ‖₂² of momentum in percent of plain ascent's. The curves are shares, not percent.
    """
    over = ("strength", "number", "memory", "at")
    rank = min(len(q.gamma) for q in quadratics)
    lam, gamma = (torch.stack([getattr(q, name)[:rank] for q in quadratics]) for name in ("eigenvalues", "gamma"))
    beta = torch.tensor(strength, dtype=torch.float64)[:, None] / lam[:, 0]  # (strength, at)

    def amplified(mu: float) -> Tensor:  # (strength, number, at, mode)
        rows = [remembered_amplification(lam[i], b.item(), m, mu) for row in beta for m in number for i, b in enumerate(row)]
        return torch.stack(rows).view(len(strength), len(number), len(quadratics), rank)

    remembered, plain = torch.stack([amplified(mu) for mu in memory], dim=2), amplified(0)[:, :, None]
    scale = beta[:, None, None, :]
    length, plain_length = (((d * gamma) ** 2).sum(-1) for d in (remembered, plain))
    bent, plain_bent = ((lam * (d * gamma) ** 2).sum(-1) for d in (remembered, plain))
    numbers = {
        "first": remembered[..., 0] / scale,
        "length": 100 * (length / plain_length).sqrt(),
        "same_beta": 100 * bent / plain_bent,
        "same_length": 100 * bent / plain_bent * plain_length / length,
    }
    curves = {"first": numbers["first"], "beta": numbers["same_beta"] / 100, "length": numbers["same_length"] / 100}
    plain_first = plain[:, :, 0, :, 0] / scale[:, 0]
    modes = torch.stack([q.modes[:, :rank].T for q in quadratics])
    return {
        **{name: Table(value.numpy(), over) for name, value in numbers.items()},
        **{f"{name}_curve": Table(np.moveaxis(value.numpy(), 0, -1), over[1:]) for name, value in curves.items()},
        "plain_first": Table(plain_first.numpy(), ("strength", "number", "at")),
        "plain_curve": Table(np.moveaxis(plain_first.numpy(), 0, -1), ("number", "at")),
        "single_curve": Table(np.ones(len(strength))),
        "share": Table((remembered / plain).numpy(), over),
        "weights": Table((remembered * gamma).numpy(), over),
        "plain_weights": Table((plain * gamma)[:, :, 0].numpy(), ("strength", "number", "at")),
        "modes": Table(modes.unflatten(-1, x.shape[-2:]).numpy(), ("at",)),
        "original": Table(grey_frames(x), ("at",)),
    }
