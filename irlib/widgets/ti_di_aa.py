"""The sweep of the chapter on TI, DI and AA: TI's kernel × strength × image, on a real network's modes; and TI's ascent in closed form."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from irlib import Quadratic
from irlib.attacks.ti import Translations
from irlib.data import FASHION_CLASSES
from irlib.widgets.sweep import Param, Sweep, Table, bars, grey_frames, grey_picture, lines, perturbation_frames, picture

STRENGTHS = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0)
KERNELS = (1, 3, 5, 7, 9, 15)


def smoothing(size: int, side: int) -> Tensor:
    """float64 (side², side²): TI's kernel of that ``size`` as a matrix W on the pixels of a square image; symmetric."""
    each = torch.eye(side * side, dtype=torch.float64).view(-1, 1, side, side)
    return Translations(size)(each, None)[0].flatten(1)


def smoothed_ascent(q: Quadratic, W: Tensor, beta: float) -> Tensor:
    """δ at time β of δ' = W(g + Hδ) from δ = 0: TI's raw ascent in infinitely many steps, float64 (n,).

    The gradient stays in g + span V. With c its part in the modes, c' = ΛVᵀW(g + Vc), and δ = W∫(g + Vc): one exponential of a (2r+1)-square
    matrix that acts on (c, ∫c, 1).
    """
    r = len(q.eigenvalues)
    left = q.eigenvalues[:, None] * (q.modes.T @ W)
    M = torch.zeros(2 * r + 1, 2 * r + 1, dtype=torch.float64)
    M[:r, :r], M[:r, -1], M[r:-1, :r] = left @ q.modes, left @ q.g, torch.eye(r)
    return W @ (beta * q.g + q.modes @ torch.linalg.matrix_exp(beta * M)[r:-1, -1])


def curvatures(q: Quadratic, W: Tensor) -> Tensor:
    """float64 (r,): the eigenvalues of WH other than 0, in falling order; those of H where W is the identity."""
    root = q.modes * q.eigenvalues.sqrt()
    return torch.linalg.eigvalsh(root.T @ W @ root).flip(0)


def translations(model: nn.Module, x: Tensor, y: Tensor, strengths: Sequence[float] = STRENGTHS) -> Sweep:
    """Sliders for TI's kernel, strength βλ₁ and image: TI's raw ascent beside the plain one, both in closed form on ``model``'s modes.

    Args:
        model: a source in eval mode.
        x: images (k, 1, side, side).
        y: their labels.
    """
    quadratics = [Quadratic.at(model, x[i : i + 1], y[i : i + 1]) for i in range(len(x))]

    def compute(kernel: list[float], strength: list[float], at: list[float]) -> dict[str, Table]:
        chosen = [int(i) for i in at]
        return translations_tables(x[chosen], [quadratics[i] for i in chosen], [int(k) for k in kernel], strength)

    rank = min(len(q.gamma) for q in quadratics)
    return Sweep(
        "ti-modes",
        "A smoothed gradient in a real bowl",
        [
            Param("kernel", "kernel size", KERNELS),
            Param("strength", "strength βλ₁", strengths, open=True),
            Param("at", "around", range(len(x)), lambda i: f"{FASHION_CLASSES[y[int(i)]]}, image {int(i) + 1}"),
        ],
        compute,
        [
            grey_picture("image", "original"),
            picture("δ, plain ascent", "plain"),
            picture("δ, TI", "smoothed"),
            bars("steepness that TI feels: eigenvalues of WH, as a share of H’s", "share", [str(i + 1) for i in range(rank)]),
            lines(
                "interaction δᵀHδ of TI, as a share of plain ascent’s",
                {"same β": ("beta_curve", "direction", None), "same ‖δ‖₂": ("length_curve", "theory", "6 4")},
                cursor="kernel",
                xlabel="kernel size",
            ),
        ],
        {
            "steepest mode, share": ("steepest", " %"),
            "‖δ‖₂, share of plain’s": ("length", " %"),
            "interaction, same β": ("same_beta", " %"),
            "interaction, same ‖δ‖₂": ("same_length", " %"),
        },
        start={"kernel": 5, "strength": 1.0, "at": 0},
        caption="With kernel {kernel} at strength {strength}, the steepest direction is {steepest} as steep for TI. Its δ is {length} as long as "
        "plain ascent’s and has {same_beta} of its interaction. Made equally long, it has {same_length}.",
    )


def translations_tables(x: Tensor, quadratics: Sequence[Quadratic], kernel: Sequence[int], strength: Sequence[float]) -> dict[str, Table]:
    """The tables of `translations` over kernel × strength × at, in float64; the curves are shares, everything else is in percent but for share."""
    over, side = ("kernel", "strength", "at"), x.shape[-1]
    rank = min(len(q.gamma) for q in quadratics)
    matrices = [smoothing(k, side) for k in kernel]
    beta = [[s / q.eigenvalues[0].item() for q in quadratics] for s in strength]
    plain = torch.stack([torch.stack([q.infinite_step(b) for q, b in zip(quadratics, row, strict=True)]) for row in beta])
    smoothed = torch.stack(
        [torch.stack([torch.stack([smoothed_ascent(q, W, b) for q, b in zip(quadratics, row, strict=True)]) for row in beta]) for W in matrices]
    )
    share = torch.stack([torch.stack([(curvatures(q, W) / q.eigenvalues)[:rank] for q in quadratics]) for W in matrices])

    def bent(deltas: Tensor) -> Tensor:
        return torch.stack([torch.stack([q.interaction(d) for q, d in zip(quadratics, row, strict=True)]) for row in deltas])

    same_beta = torch.stack([bent(rows) for rows in smoothed]) / bent(plain)
    length = smoothed.norm(dim=-1) / plain.norm(dim=-1)
    numbers = {"length": length, "same_beta": same_beta, "same_length": same_beta / length**2}
    curves = {"beta": numbers["same_beta"], "length": numbers["same_length"]}
    pixels = (side, side)
    return {
        **{name: Table(100 * value.numpy(), over) for name, value in numbers.items()},
        **{f"{name}_curve": Table(np.moveaxis(value.numpy(), 0, -1), over[1:]) for name, value in curves.items()},
        "steepest": Table(100 * share[..., 0].numpy(), ("kernel", "at")),
        "share": Table(share.numpy(), ("kernel", "at")),
        "original": Table(grey_frames(x), ("at",)),
        **perturbation_frames("plain", plain.unflatten(-1, pixels).numpy(), over[1:]),
        **perturbation_frames("smoothed", smoothed.unflatten(-1, pixels).numpy(), over),
    }
