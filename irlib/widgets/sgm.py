"""The sweep of the chapter on SGM: γ × network × image × strength, from the gradients of a network's paths by how many branches they go through."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from irlib import Quadratic, create_attack
from irlib.attacks.loop import Attack
from irlib.attacks.projection import norms
from irlib.balance import class_gradients
from irlib.data import FASHION_CLASSES
from irlib.draws import Draws
from irlib.surgery import residual_branches
from irlib.widgets.sweep import Param, Sweep, Table, bars, grey_frames, grey_picture, lines, perturbation_frames, picture, waterfall

KEPT = tuple(k / 10 for k in range(11))
STRENGTHS = (0.05, 0.2, 0.5, 1.0)
STEPS = 10
SHOWN = 6  # so many bars for paths through 0, 1, … branches; the last bar has all the others
MODES = 9


def sgm(models: Mapping[str, nn.Module], x: Tensor, y: Tensor) -> Sweep:
    """Sliders for γ, network, image and strength βλ₁: what SGM's gradient keeps of the plain one, and the interaction of its steps.

    Args:
        models: piecewise linear sources in eval mode, with residual or dense branches and ten classes, by name; float64 for paths exact to the digit.
        x: images (k, 1, height, width) of the models' dtype.
        y: their labels.
    """
    names = list(models)
    places = [[Place(model, x[i : i + 1], y[i : i + 1]) for i in range(len(x))] for model in models.values()]

    def compute(kept: list[float], net: list[float], photo: list[float], strength: list[float]) -> dict[str, Table]:
        chosen = [[places[int(k)][int(i)] for i in photo] for k in net]
        return sgm_tables(chosen, x[[int(i) for i in photo]], kept, strength)

    counts = [*map(str, range(SHOWN)), f"{SHOWN}+"]
    return Sweep(
        "sgm",
        "A gradient with less of the branches in it",
        [
            Param("kept", "γ: share kept of the gradient through a branch", KEPT, open=True),
            Param("net", "network", range(len(names)), lambda k: names[int(k)]),
            Param("photo", "image", range(len(x)), lambda i: FASHION_CLASSES[y[int(i)]]),
            Param("strength", "strength βλ₁ of ten steps", STRENGTHS, open=True),
        ],
        compute,
        [
            grey_picture("image", "original"),
            picture("a damped step, ‖δ‖₂ = 1", "damped"),
            waterfall("cosine with the plain gradient, by branches on the path", "paths", counts, total="all", token="network"),
            bars("its squared length: share in each mode, and outside", "shares", [*map(str, range(1, MODES + 1)), "out"], token="network"),
            lines(
                "interaction at the same length of δ, plain = 1",
                {
                    "one step": ("single_curve", "network", None),
                    "ten steps": ("many_curve", "measured", "6 4"),
                    "any tilt by that angle": ("tilt_curve", "theory", "2 3"),
                },
                cursor="kept",
                xlabel="γ",
            ),
        ],
        {
            "angle to the plain gradient": ("angle", "°"),
            "its length, of the plain one’s": ("length", "\u00a0%"),
            "outside the modes": ("out", "\u00a0%"),
            "interaction, one step, same β": ("same_beta", "\u00a0%"),
            "one step, same length": ("single", "\u00a0%"),
            "ten steps, same length": ("many", "\u00a0%"),
            "any tilt by that angle": ("tilt", "\u00a0%"),
        },
        start={"kept": 0.2, "net": 0, "photo": 0, "strength": 0.5},
        caption="{net}, {photo}, γ = {kept}: the damped gradient is {angle} off the plain one. At the same length, one step along it has {single} of "
        "the plain step’s interaction; a random tilt by that angle would have {tilt}.",
    )


class Place:
    """A network around one image, by its wrong classes: p (r,), the gradients of z_k − z_y (r, n), and those of the paths through k branches.

    ``paths`` (K + 1, r, n) has the part of the gradients that goes through exactly k of the network's K branches.
    """

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor):
        z, paths = path_gradients(model, x)
        rest = [k for k in range(z.shape[1]) if k != int(y)]
        self.p = z[0].softmax(0)[rest]
        self.paths = paths[:, 0, rest] - paths[:, 0, y]
        self.plain = self.paths.sum(0)
        self.q = Quadratic.at(model, x, y)

    def damped(self, gamma: float) -> Tensor:
        """(r, n): the gradients of z_k − z_y as SGM has them."""
        return torch.einsum("k,krn->rn", _powers(gamma, len(self.paths)), self.paths)

    def climb(self, gamma: float, beta: float, steps: int) -> Tensor:
        """δ (n,) after ``steps`` of SGM's steps on the loss's quadratic (`climbed`), the first as long as a plain one of strength ``beta``."""
        damped = self.damped(gamma)
        length = torch.linalg.vector_norm
        return climbed(self.plain, damped, self.p, beta * float(length(self.p @ self.plain) / length(self.p @ damped)), steps)


def path_gradients(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """(z (batch, c), (K + 1, batch, c, n)), float64: logits, and their gradients along the paths through exactly 0 … K of the K branches.

    SGM's gradient is Σ_k γ^k of them. So K + 1 values of γ tell them apart; at Chebyshev's, 13 values lose nine digits of a float64 network's.
    """
    count = len(residual_branches(model))
    nodes = (1 - np.cos(np.pi * np.arange(count + 1) / count)) / 2
    each = [damped_gradients(model, x, float(gamma)) for gamma in nodes]
    w = torch.stack([gradients for _, gradients in each])
    return each[0][0], torch.linalg.solve(torch.tensor(np.vander(nodes, increasing=True)), w.flatten(1)).view(w.shape)


def damped_gradients(model: nn.Module, x: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """(z (batch, c), (batch, c, n)), float64: logits, and their gradients as SGM has them."""
    with create_attack("sgm", model, gamma=gamma).network(model, Draws(x, 0)) as source:
        return class_gradients(source, x)


def climbed(plain: Tensor, damped: Tensor, p: Tensor, beta: float, steps: int) -> Tensor:
    """δ (n,) after m steps δ ← δ + α·Dᵀ(p + SUδ), α = β/m: SGM where the loss is its own quadratic, in the space of the wrong classes.

    U = ``plain`` and D = ``damped`` (r, n) are the gradients of z_k − z_y, plain and SGM's, p (r,) the wrong classes' probabilities and
    S = diag p − ppᵀ. δ = Dᵀc with c ← c + α(p + Nc), N = SUDᵀ, r × r. With D = U it is `Quadratic.multi_step`.
    """
    change = (torch.diag(p) - torch.outer(p, p)) @ plain @ damped.T
    c = torch.zeros_like(p)
    for _ in range(steps):
        c = c + beta / steps * (p + change @ c)
    return c @ damped


def tilted(cosine: Tensor, q: Quadratic) -> Tensor:
    """What a step along g tilted by that angle to a random side keeps of gᵀHg at the same length: the mean over all sides.

    cos² + sin²·(tr H/h − 1)/(n − 1), with h = gᵀHg/gᵀg: in many pixels almost nothing but cos².
    """
    h = q.interaction(q.g) / (q.g @ q.g)
    return cosine**2 + (1 - cosine**2) * (q.eigenvalues.sum() / h - 1) / (len(q.g) - 1)


def sgm_tables(places: Sequence[Sequence[Place]], x: Tensor, kept: Sequence[float], strength: Sequence[float]) -> dict[str, Table]:
    """The tables of `sgm` over strength × γ × network × image; ``places`` by network and image of x. Curves run over `KEPT`.

    single, many and tilt are δᵀHδ/‖δ‖² as a share of the plain steps'; same_beta is g_γᵀHg_γ over gᵀHg; all in percent.
    """
    over = ("kept", "net", "photo")
    cells = [[_cell(place, kept, strength) for place in row] for row in places]

    def stacked(name: str) -> np.ndarray:
        return np.stack([np.stack([cell[name].numpy() for cell in row]) for row in cells])  # (net, photo, …)

    numbers = ("angle", "length", "out", "same_beta", "single", "tilt", "paths", "shares")
    return {
        "original": Table(grey_frames(x), ("photo",)),
        **{name: Table(np.moveaxis(stacked(name), 2, 0), over) for name in numbers},
        **{name: Table(stacked(name), ("net", "photo")) for name in ("single_curve", "tilt_curve")},
        "many": Table(np.moveaxis(stacked("many"), (2, 3), (0, 1)), ("strength", *over)),
        "many_curve": Table(np.moveaxis(stacked("many_curve"), 2, 0), ("strength", "net", "photo")),
        **perturbation_frames("damped", np.moveaxis(stacked("damped"), 2, 0).reshape(len(kept), len(cells), len(x), *x.shape[-2:]), over),
    }


def _cell(place: Place, kept: Sequence[float], strength: Sequence[float]) -> dict[str, Tensor]:
    """One network at one image."""
    at, along = ([_single(place, gamma) for gamma in gammas] for gammas in (kept, KEPT))
    beta = [s / place.q.eigenvalues[0].item() for s in strength]

    def many(gammas: Sequence[float]) -> Tensor:
        deltas = [[place.climb(gamma, b, STEPS) for gamma in (1, *gammas)] for b in beta]
        curved = torch.stack([torch.stack([curvature(place.q, delta) for delta in row]) for row in deltas])
        return curved[:, 1:] / curved[:, :1]

    found = {name: torch.stack([single[name] for single in at]) for name in at[0]}
    found |= {f"{name}_curve": torch.stack([single[name] for single in along]) / 100 for name in ("single", "tilt")}
    return found | {"many": 100 * many(kept), "many_curve": many(KEPT)}


def _single(place: Place, gamma: float) -> dict[str, Tensor]:
    """One step along the damped gradient."""
    q, plain, g = place.q, place.p @ place.plain, place.p @ place.damped(gamma)
    length, reference = torch.linalg.vector_norm(g), torch.linalg.vector_norm(plain)
    cosine = g @ plain / (length * reference)
    sine = torch.linalg.vector_norm(g / length - cosine * plain / reference)
    by_count = _powers(gamma, len(place.paths)) * (place.paths @ plain @ place.p) / (length * reference)
    inside = torch.nn.functional.pad((q.modes.T @ g / length) ** 2, (0, MODES - len(q.gamma)))
    outside = (1 - inside.sum()).round(decimals=9)
    return {
        "damped": g / length,
        "angle": torch.atan2(sine, cosine).rad2deg().round(decimals=6),
        "length": 100 * length / reference,
        "out": 100 * outside,
        "same_beta": 100 * q.interaction(g) / q.interaction(plain),
        "single": 100 * curvature(q, g) / curvature(q, plain),
        "tilt": 100 * tilted(cosine, q),
        "paths": torch.cat([by_count[:SHOWN], by_count[SHOWN:].sum()[None]]),
        "shares": torch.cat([inside, outside[None]]),
    }


def curvature(q: Quadratic, delta: Tensor) -> Tensor:
    """δᵀHδ/‖δ‖²: the interaction of a perturbation in the direction of δ, whatever its length."""
    return q.interaction(delta) / (delta @ delta)


def _powers(gamma: float, count: int) -> Tensor:
    return torch.tensor([gamma**k for k in range(count)], dtype=torch.float64)


def tilting(attack: Attack, cosine: Tensor, side: Tensor) -> Attack:
    """The attack, its gradient turned towards ``side`` (batch, …) at every step until their cosine (batch, 1, 1, 1) is the given one: a control."""

    def turned(g: Tensor, state: None) -> tuple[Tensor, None]:
        g = g / norms(g)
        off = side - (side * g).flatten(1).sum(1).view(-1, 1, 1, 1) * g
        return cosine * g + (1 - cosine**2).sqrt() * off / norms(off), state

    return replace(attack, direction=turned)
