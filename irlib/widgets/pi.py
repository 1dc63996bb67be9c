"""The theory widget of the chapter on PI: who exceeds the ball × how many × strength of the second stage, on real networks' modes."""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from irlib import Quadratic
from irlib.attacks.pi import to_neighbours
from irlib.data import FASHION_CLASSES
from irlib.widgets.sweep import Param, Sweep, Table, grey_frames, grey_picture, lines, perturbation_frames, picture

EXCESS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
SECOND = (0.1, 0.25, 0.5, 1.0, 1.5)
FIRST = 0.5  # β₁λ₁: the strength of the first stage, in which no pixel has reached the ball
WHO = ("the largest |v₁|", "any", "those below their neighbours")


def shares(tau: Tensor, size: int = 3) -> Tensor:
    """The matrix A of Eq. 15, float64 (n, n), for the excess shares ``tau`` (height, width): pixel a keeps 1 − τ_a, its size² − 1 neighbours
    get equal parts of τ_a. What would go beyond the image's edge is lost, as in the published attack."""
    tau_a = tau.double().flatten()
    return torch.diag(1 - tau_a) + _handed(tuple(tau.shape), size) * tau_a


@cache
def _handed(pixels: tuple[int, ...], size: int) -> Tensor:
    """A for τ = 1 everywhere."""
    n = math.prod(pixels)
    return to_neighbours(torch.eye(n, dtype=torch.float64).view(n, 1, *pixels), size).view(n, n).T


def pi_theory(networks: dict[str, nn.Module], x: Tensor, y: Tensor, excess: Sequence[float] = EXCESS, second: Sequence[float] = SECOND) -> Sweep:
    """Sliders for who exceeds the ball, which share of the pixels does, the second stage's strength β₂λ₁, and the bowl: a network at an image.

    Args:
        networks: sources by the name that the reader sees.
        x: images (k, 1, height, width); every network has a bowl at each.
        y: their labels.
    """
    names = [(name, i) for name in networks for i in range(len(x))]
    quadratics = [Quadratic.at(networks[name], x[i : i + 1], y[i : i + 1]) for name, i in names]

    def compute(who: list[float], excess: list[float], second: list[float], bowl: list[float]) -> dict[str, Table]:
        chosen = [int(b) for b in bowl]
        tables = pi_tables([quadratics[b] for b in chosen], x.shape[-2:], who, excess, second)
        return tables | {"pi_original": Table(grey_frames(x[[names[b][1] for b in chosen]]), ("bowl",))}

    return Sweep(
        "pi-theory",
        "The second stage of PI, on measured modes",
        [
            Param("excess", "share of the pixels beyond ε", excess, lambda s: f"{100 * s:g} %"),
            Param("second", "strength β₂λ₁ of the second stage", second),
            Param("who", "which pixels", range(len(WHO)), lambda k: WHO[int(k)]),
            Param("bowl", "bowl", range(len(names)), lambda b: f"{names[int(b)][0]}, {FASHION_CLASSES[y[names[int(b)][1]]]}"),
        ],
        compute,
        [
            grey_picture("image", "pi_original"),
            picture("v₁", "pi_mode"),
            picture("A v₁", "pi_spread"),
            lines(
                "v₁ᵀAv₁: below 1, PI’s interaction is the smaller",
                {
                    "measured": ("bend_curve", "projection", None),
                    "by Assumption 5": ("assumed_curve", "theory", "6 4"),
                    "1": ("one_curve", "pgd", "2 3"),
                },
                cursor="excess",
                xlabel="share of the pixels beyond ε",
                log=True,
            ),
            lines(
                "interaction, % of plain many steps’",
                {
                    "one mode, same β": ("one_mode_curve", "theory", "6 4"),
                    "all modes, same β": ("all_modes_curve", "projection", None),
                    "all modes, same length": ("same_length_curve", "measured", "2 3"),
                },
                cursor="second",
                xlabel="strength β₂λ₁ of the second stage",
            ),
        ],
        {
            "v₁ᵀAv₁": ("bend", ""),
            "by Assumption 5": ("assumed", ""),
            "one mode, same β": ("one_mode", " %"),
            "all modes, same β": ("all_modes", " %"),
            "length, same β": ("length", " %"),
            "all modes, same length": ("same_length", " %"),
        },
        start={"excess": 0.2, "second": 0.5, "who": 0, "bowl": 0},
        caption="{excess} of the pixels are beyond ε: {who}. v₁ᵀAv₁ is {bend}; Assumption 5 would have it {assumed}. At the same strength PI’s "
        "interaction is {all_modes} of plain many steps’, and its length {length}; at the same length the interaction is {same_length}.",
    )


def pi_tables(
    quadratics: Sequence[Quadratic], pixels: Sequence[int], who: Sequence[float], excess: Sequence[float], second: Sequence[float]
) -> dict[str, Table]:
    """The tables of `pi_theory`, float64 before they are packed, infinitely many steps in both stages.

    bend is v₁ᵀAv₁ with τ = 1 on the chosen pixels and 0 elsewhere; assumed the same with each pixel's neighbourhood mean of v₁ replaced by the
    image's (Assumption 5): 1 − Σ_a τ_a v_a (v_a − v̄). one_mode is Lemma 13's interaction in percent of plain ascent's of the same β₁ + β₂;
    all_modes and length are the ratios of δᵀHδ and of ‖δ‖₂ with every mode (`Quadratic.pi_infinite`), same_length = all_modes / length².
    """
    over = ("who", "excess", "bowl")
    shape = (len(who), len(excess), len(quadratics))
    bend, assumed, spread = np.zeros(shape), np.zeros(shape), np.zeros((*shape, *pixels))
    ratios = {name: np.zeros((*shape, len(second))) for name in ("one_mode", "all_modes", "length")}
    for b, q in enumerate(quadratics):
        v, lam = q.modes[:, 0].view(*pixels), q.eigenvalues[0].item()
        plain = [q.infinite_step((FIRST + s) / lam) for s in second]
        for w, which in enumerate(who):
            for e, share in enumerate(excess):
                tau = beyond(v, int(which), share)
                A = shares(tau)
                stepped = (A @ v.flatten()).view_as(v)
                a = float((v * stepped).sum())
                bend[w, e, b], assumed[w, e, b] = a, 1 - float((tau * v * (v - v.mean())).sum())
                spread[w, e, b] = stepped.numpy()
                for k, s in enumerate(second):
                    delta = q.pi_infinite(FIRST / lam, s / lam, A)
                    ratios["one_mode"][w, e, b, k] = (math.expm1(FIRST + s * a) / math.expm1(FIRST + s)) ** 2
                    ratios["all_modes"][w, e, b, k] = q.interaction(delta) / q.interaction(plain[k])
                    ratios["length"][w, e, b, k] = torch.linalg.vector_norm(delta) / torch.linalg.vector_norm(plain[k])
    percent = {name: 100 * r for name, r in ratios.items()} | {"same_length": 100 * ratios["all_modes"] / ratios["length"] ** 2}
    modes = np.stack([q.modes[:, 0].view(*pixels).numpy() for q in quadratics])
    by_excess = {"bend": bend, "assumed": assumed, "one": np.ones(shape)}
    return {
        "bend": Table(bend, over),
        "assumed": Table(assumed, over),
        **{f"{name}_curve": Table(np.moveaxis(values, 1, -1), ("who", "bowl")) for name, values in by_excess.items()},
        **{name: Table(np.moveaxis(values, -1, 2), ("who", "excess", "second", "bowl")) for name, values in percent.items()},
        **{f"{name}_curve": Table(values, over) for name, values in percent.items() if name != "length"},
        **perturbation_frames("pi_mode", modes, ("bowl",)),
        **perturbation_frames("pi_spread", spread, over),
    }


def beyond(v: Tensor, which: int, share: float) -> Tensor:
    """τ, float64 (height, width): 1 on ``share`` of the pixels of v (height, width), 0 elsewhere.

    ``which`` 0: the ones of largest |v|, as Assumption 4 has it; 1: any; 2: the ones of largest v_a (m_a − v_a), m the mean over the
    neighbours, which is the choice that makes vᵀAv as large as it can be.
    """
    gain = v * (to_neighbours(v[None, None], 3)[0, 0] - v)
    keys = [v.abs(), torch.rand(v.shape, generator=torch.Generator().manual_seed(0)), gain]
    tau = torch.zeros_like(v).flatten()
    tau[keys[which].flatten().argsort(descending=True)[: max(1, round(share * v.numel()))]] = 1
    return tau.view_as(v)
