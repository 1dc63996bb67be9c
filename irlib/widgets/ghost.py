"""The sweep of the chapter on GhostNet: skip erosion × dropout × ghosts averaged × image, what they predict and where their gradients point."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irlib import Quadratic, create_attack
from irlib.attacks.loop import Attack
from irlib.attacks.projection import norms
from irlib.balance import class_gradients, competitors, wrong
from irlib.data import FASHION_CLASSES
from irlib.draws import Draws
from irlib.widgets.sgm import curvature, tilted
from irlib.widgets.sweep import Param, Sweep, Table, bars, grey_frames, grey_picture, lines, perturbation_frames, picture

RANGES = (0.0, 0.1, 0.22, 0.4)
DROPOUTS = (0.0, 0.006, 0.05)
AVERAGED = (1, 2, 4, 8)
DRAWN = AVERAGED[-1]


@dataclass(frozen=True)
class Ghosts:
    """What the same images are to many ghost networks: logits (draws, batch, c) and gradients of the loss (draws, batch, n), float64."""

    z: Tensor
    g: Tensor


def ghosts(model: nn.Module, x: Tensor, y: Tensor, draws: int, **erosion: float) -> Ghosts:
    """The networks that `irlib.attacks.ghost` draws with the seeds 0 … draws − 1; ``erosion`` are its arguments."""
    attack = create_attack("ghost", model, **erosion)
    found = [_passed(attack, x, y, seed) for seed in range(draws)]
    return Ghosts(torch.stack([z for z, _ in found]), torch.stack([g for _, g in found]))


def _passed(attack: Attack, x: Tensor, y: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    with attack.network(attack.model, Draws(x, seed)) as network, torch.enable_grad():
        at = x.detach().clone().requires_grad_()
        z = network(at).double()
        g = torch.autograd.grad(F.cross_entropy(z, y, reduction="sum"), at)[0]
    return z.detach(), g.flatten(1).double()


class Place:
    """The unaltered network at one image: its quadratic ``q``, its prediction ``p`` (c,) and the wrong classes' gradients z_k − z_y (r, n)."""

    def __init__(self, z: Tensor, w: Tensor, q: Quadratic, y: int):
        self.q, self.y, self.p = q, y, z.softmax(0)
        self.rest = [k for k in range(len(z)) if k != y]
        self.wrong_gradients = w[self.rest] - w[y]

    def pulled(self, prediction: Tensor) -> Tensor:
        """(…, n): W̃(p̂ − Y), the gradient if predictions (…, c) were altered and nothing else."""
        return prediction[..., self.rest] @ self.wrong_gradients

    def kept(self, g: Tensor) -> Tensor:
        """(k,): interaction of a step along each of g (k, n), as a share of the plain step's of the same length."""
        return (self.q.eigenvalues * (g @ self.q.modes) ** 2).sum(1) / (g**2).sum(1) / curvature(self.q, self.q.g)

    def cosine(self, g: Tensor) -> Tensor:
        """(k,): of each of g (k, n) with the plain gradient."""
        return F.cosine_similarity(g, self.q.g[None], dim=1)


def places(model: nn.Module, x: Tensor, y: Tensor) -> list[Place]:
    """One for each image."""
    z, w = class_gradients(model, x)
    return [Place(z[i], w[i], Quadratic.at(model, x[i : i + 1], y[i : i + 1]), int(y[i])) for i in range(len(x))]


def spread(g: Tensor, q: Quadratic) -> tuple[Tensor, Tensor]:
    """Of gradients (draws, n): √tr Σ over ‖μ‖, the noise in the length of the mean, and (tr HΣ/tr Σ)/(μᵀHμ/‖μ‖²), its curvature in the mean's.

    Σ is the unbiased covariance. Raises ValueError for fewer than two draws.
    """
    if len(g) < 2:
        raise ValueError(f"a spread needs at least two draws, got {len(g)}")
    mean, off = g.mean(0), g - g.mean(0)
    total = (off**2).sum() / (len(g) - 1)
    curved = (q.eigenvalues * (off @ q.modes) ** 2).sum() / (len(g) - 1)
    noise = curved / total if total > 0 else torch.zeros_like(total)
    return (total.sqrt() / torch.linalg.vector_norm(mean)), noise / curvature(q, mean)


def ghost(model: nn.Module, x: Tensor, y: Tensor) -> Sweep:
    """Sliders for the skip range Λ, the dropout p, how many ghosts are averaged, and the image.

    Args:
        model: a piecewise linear source in eval mode whose blocks add a shortcut, of ten classes.
        x: images (k, 1, height, width).
        y: their labels.
    """
    each = places(model, x, y)

    def compute(skip: list[float], drop: list[float], averaged: list[float], photo: list[float]) -> dict[str, Table]:
        chosen = [int(i) for i in photo]
        return ghost_tables(model, x[chosen], y[chosen], [each[i] for i in chosen], skip, drop, averaged)

    labels = [name.removeprefix("ankle ")[:4] for name in FASHION_CLASSES]
    return Sweep(
        "ghost",
        "Ghosts of a network, one or many",
        [
            Param("skip", "Λ: shortcuts × U[1−Λ, 1+Λ]", RANGES, open=True),
            Param("drop", "p: share of features dropped", DROPOUTS, open=True),
            Param("averaged", "ghosts averaged", AVERAGED, lambda k: f"{k:g}"),
            Param("photo", "image", range(len(x)), lambda i: FASHION_CLASSES[y[int(i)]]),
        ],
        compute,
        [
            grey_picture("image", "original"),
            picture("step along their mean, ‖δ‖₂ = 1", "mean"),
            bars("wrong classes’ shares, the network", "shares", labels, token="pgd"),
            bars("wrong classes’ shares, mean of the ghosts", "ghost_shares", labels, token="network"),
            lines(
                "interaction of a step of the same length, plain = 1",
                {
                    "mean of the ghosts": ("kept_curve", "network", None),
                    "any tilt by that angle": ("tilt_curve", "theory", "2 3"),
                    "their predictions alone": ("predicted_curve", "measured", "6 4"),
                },
                cursor="averaged",
                xlabel="ghosts averaged",
                log=True,
            ),
        ],
        {
            "angle to the plain gradient": ("angle", "°"),
            "spread of the ghosts’ gradients": ("noise", "\u00a0%"),
            "interaction, same length": ("kept", "\u00a0%"),
            "any tilt by that angle": ("tilt", "\u00a0%"),
            "by their predictions alone": ("predicted", "\u00a0%"),
            "effective competitors, the network": ("rivals", ""),
            "effective competitors, the ghosts": ("ghost_rivals", ""),
        },
        start={"skip": 0.22, "drop": 0.0, "averaged": 1, "photo": 0},
        caption="{photo}, Λ = {skip}, p = {drop}, {averaged} averaged: the gradient is {angle} off the network’s own. At the same length, a step "
        "along it has {kept} of the plain step’s interaction; any tilt by that angle would have {tilt}.",
    )


def ghost_tables(
    model: nn.Module, x: Tensor, y: Tensor, each: Sequence[Place], skip: Sequence[float], drop: Sequence[float], averaged: Sequence[float]
) -> dict[str, Table]:
    """The tables of `ghost` over skip × drop × averaged × image, from `DRAWN` ghosts; ``each`` the places of x. Curves run over `AVERAGED`.

    Of k averaged ghosts there are DRAWN/k groups: angle, kept, tilt, predicted and ghost_rivals are means over the groups, the picture and the
    predicted shares are the first group's. noise is `spread`'s first number in percent.
    """
    over = ("skip", "drop", "averaged", "photo")
    rows = [[_eroded(ghosts(model, x, y, DRAWN, skip_range=float(r), dropout=float(p)), each, averaged) for p in drop] for r in skip]

    def stacked(name: str) -> np.ndarray:
        return np.stack([np.stack([found[name].numpy() for found in row]) for row in rows])

    numbers = ("angle", "kept", "tilt", "predicted", "ghost_rivals", "ghost_shares")
    curves = ("kept_curve", "tilt_curve", "predicted_curve")
    return {
        "original": Table(grey_frames(x), ("photo",)),
        "shares": Table(torch.stack([_shares(place.p, place.y) for place in each]).numpy(), ("photo",)),
        "rivals": Table(torch.stack([competitors(place.p, place.y) for place in each]).numpy(), ("photo",)),
        "noise": Table(stacked("noise"), ("skip", "drop", "photo")),
        **{name: Table(stacked(name), over) for name in numbers},
        **{name: Table(np.moveaxis(stacked(name), 2, -1), ("skip", "drop", "photo")) for name in curves},
        **perturbation_frames("mean", stacked("mean").reshape(*stacked("angle").shape, *x.shape[-2:]), over),
    }


def _eroded(found: Ghosts, each: Sequence[Place], averaged: Sequence[float]) -> dict[str, Tensor]:
    """One pair of Λ and p: entries (averaged or `AVERAGED`, image, …)."""
    at, along = ([[_grouped(found, i, place, int(k)) for i, place in enumerate(each)] for k in counts] for counts in (averaged, AVERAGED))
    result = {name: torch.stack([torch.stack([cell[name] for cell in row]) for row in at]) for name in at[0][0]}
    result |= {f"{n}_curve": torch.stack([torch.stack([cell[n] for cell in row]) for row in along]) / 100 for n in ("kept", "tilt", "predicted")}
    return result | {"noise": torch.stack([100 * spread(found.g[:, i], place.q)[0] for i, place in enumerate(each)])}


def _grouped(found: Ghosts, i: int, place: Place, k: int) -> dict[str, Tensor]:
    """Image i, the ghosts in groups of k."""
    g = found.g[:, i].unflatten(0, (-1, k)).mean(1)
    p = found.z[:, i].softmax(1).unflatten(0, (-1, k)).mean(1)
    cosine = place.cosine(g)
    return {
        "mean": g[0] / torch.linalg.vector_norm(g[0]),
        "angle": torch.arccos(cosine.clamp(-1, 1)).rad2deg().mean().round(decimals=3),
        "kept": 100 * place.kept(g).mean(),
        "tilt": 100 * tilted(cosine, place.q).mean(),
        "predicted": 100 * place.kept(place.pulled(p)).mean(),
        "ghost_rivals": competitors(p, place.y).mean(),
        "ghost_shares": _shares(p[0], place.y),
    }


def _shares(p: Tensor, y: int) -> Tensor:
    """(c,): what each wrong class has of all that wrong classes have; 0 for y."""
    shares = p / wrong(p, y).sum()
    shares[y] = 0
    return shares


def tilting_anew(attack: Attack, cosine: Tensor, seed: int = 0) -> Attack:
    """The attack, its gradient tilted at every step to a new random side, with that cosine (batch, 1, 1, 1) to what it was: a control."""
    random = torch.Generator().manual_seed(seed)

    def turned(g: Tensor, state: None) -> tuple[Tensor, None]:
        side, g = torch.randn(g.shape, generator=random, dtype=g.dtype), g / norms(g)
        off = side - (side * g).flatten(1).sum(1).view(-1, 1, 1, 1) * g
        return cosine * g + (1 - cosine**2).sqrt() * off / norms(off), state

    return replace(attack, direction=turned)
