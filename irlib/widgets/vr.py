"""The theory widget of the chapter on VR: what noise does to a prediction, by Proposition 8, by a linear network, and by the network itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irlib import _check
from irlib.balance import class_gradients, class_gram, competitors, kappa, noisy, quadratic_form, wrong
from irlib.data import FASHION_CLASSES
from irlib.widgets.sweep import Param, Sweep, Table, bars, grey_frames, grey_picture, heat, lines

SIGMAS = (1, 2, 4, 8, 15, 30, 60)  # in 1/255
# ideal: a linear network with orthogonal class gradients; own: one with the network's own; real: the network
WAYS = ("clean", "Prop. 8", "ideal", "own", "real")


def pairs(draws: int, *shape: int, seed: int = 0) -> Tensor:
    """float64 (draws, *shape): standard normal noise in pairs ξ, −ξ; ``draws`` is even."""
    _check.at_least(draws // 2, 1, "draws // 2")
    half = torch.randn(draws // 2, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.cat([half, -half])


def mean_prediction(model: nn.Module, x: Tensor, noise: Tensor) -> Tensor:
    """float64 (batch, c): the mean of softmax(model(x + ξ)) over the rows ξ of ``noise`` (draws, channels, height, width)."""
    with torch.no_grad():
        return torch.stack([model(image + noise.to(x)).double().softmax(1).mean(0) for image in x])


def mean_gradient(model: nn.Module, x: Tensor, y: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """(q float64 (batch, c), g float64 (batch, n)): the mean prediction, and the mean gradient of the cross-entropy, which VR steps along."""
    found = []
    for image, label in zip(x, y, strict=True):
        copies = (image + noise.to(x)).requires_grad_()
        z = model(copies).double()
        g = torch.autograd.grad(F.cross_entropy(z, label.expand(len(z)), reduction="sum"), copies)[0]
        found.append((z.detach().softmax(1).mean(0), g.double().mean(0).flatten()))
    return tuple(torch.stack(part) for part in zip(*found, strict=True))


def linear_mean(p: Tensor, gram: Tensor, sigma: float, normals: Tensor) -> Tensor:
    """float64 (c,): the mean prediction of a network that is linear around the image, under noise of standard deviation ``sigma`` in each pixel.

    Its logits then have normal noise of covariance σ²·``gram``, the Gram matrix of the class gradients (c, c). ``normals`` (draws, c).
    """
    values, vectors = torch.linalg.eigh(gram)
    root = vectors * values.clamp_min(0).sqrt()
    return (p.log() + sigma * normals @ root.T).softmax(1).mean(0)


@dataclass(frozen=True)
class Bowl:
    """A network at one image: prediction, centred Gram matrix, class gradients W̃ᵀ (c, n), and label."""

    p: Tensor
    gram: Tensor
    gradients: Tensor
    y: int

    def __post_init__(self) -> None:
        wrong(self.p, self.y)

    def interaction(self, g: Tensor) -> float:
        """gᵀHg for any g (n,), H the Hessian of the cross-entropy at the image: the variance under p of the rows of W̃ᵀg."""
        pulled = self.gradients @ g
        return float((self.p * (pulled - self.p @ pulled) ** 2).sum())

    def rivals(self, q: Tensor) -> float:
        """The effective number of wrong classes of q."""
        return float(competitors(q, self.y))


def bowls(model: nn.Module, x: Tensor, y: Tensor) -> list[Bowl]:
    """One a image."""
    z, w = class_gradients(model, x)
    return [Bowl(p, class_gram(v), v - v.mean(0), int(label)) for p, v, label in zip(z.softmax(1), w, y, strict=True)]


def combined(gram: Tensor, p: Tensor, q: Tensor, y: int) -> tuple[float, float]:
    """(gᵀHg, gᵀg) of g = W̃(q − Y), the gradient of a linear network averaged over noise, and the Hessian H of its prediction p without noise."""
    a = q.clone()
    a[y] = -wrong(q, y).sum()
    pulled = gram @ a
    return float((p * (pulled - p @ pulled) ** 2).sum()), float(a @ pulled)


def vr_theory(networks: Mapping[str, nn.Module], x: Tensor, y: Tensor, sigmas: Sequence[float] = SIGMAS, draws: int = 64) -> Sweep:
    """Sliders for the noise, a network and an image: the mean prediction by five ways, and the single VR step's interaction beside the plain one's.

    Args:
        networks: piecewise linear sources, by the name that the reader sees.
        x: images (k, 1, height, width) that they classify right; ``y`` their labels.
        draws: copies of the image that the network's own mean is taken over, an even number.
    """
    names = list(networks)
    there = {name: bowls(model, x, y) for name, model in networks.items()}
    labels = [name.removeprefix("ankle ")[:4] for name in FASHION_CLASSES]

    def compute(noise: list[float], network: list[int], picture: list[int]) -> dict[str, Table]:
        chosen = [names[int(k)] for k in network]
        found = vr_tables([networks[n] for n in chosen], [[there[n][i] for i in picture] for n in chosen], x[picture], y[picture], noise, draws)
        return found | {"vr_original": Table(grey_frames(x[picture]), ("picture",))}

    three = lambda table: {
        "ideal": (f"{table}_ideal", "theory", "6 4"),
        "own": (f"{table}_own", "theory", None),
        "real": (f"{table}_network", "measured", None),
    }
    return Sweep(
        "vr-theory",
        "What noise does to a prediction",
        [
            Param("noise", "noise σ, in 1/255", sigmas, lambda s: f"{s:g}/255"),
            Param("network", "network", range(len(names)), lambda k: names[int(k)]),
            Param("picture", "picture", range(len(x)), lambda i: FASHION_CLASSES[y[int(i)]]),
        ],
        compute,
        [
            grey_picture("image", "vr_original"),
            heat("shares of the wrong classes", "shares", labels, WAYS),
            bars("probability of the true class", "true_class", WAYS),
            lines("effective competitors", three("rivals"), "noise", "noise σ, in 1/255", log=True),
            lines("interaction, same strength, plain = 1", three("strength"), "noise", "noise σ, in 1/255", log=True, ylog=True),
            lines("interaction, same length, plain = 1", three("length"), "noise", "noise σ, in 1/255", log=True, ylog=True),
        ],
        {
            "p of the true class": ("clean_true", ""),
            "under noise": ("network_true", ""),
            "Proposition 8": ("eighth_true", ""),
            "τ = σ√κ": ("tau", ""),
            "competitors, clean": ("rivals_clean", ""),
            "competitors under noise": ("rivals_shown", ""),
            "interaction, same strength": ("strength_shown", "\u00a0%"),
            "interaction, same length": ("length_shown", "\u00a0%"),
        },
        start={"noise": 15, "network": 1, "picture": 0},
        caption="{network}, {picture}, σ = {noise}: the true class falls from {clean_true} to {network_true}; effective competitors {rivals_clean} "
        "without noise, {rivals_shown} with it. The VR step’s interaction is {strength_shown} of the plain step’s at the same strength, "
        "{length_shown} at the same length.",
    )


def vr_tables(
    models: Sequence[nn.Module], there: Sequence[Sequence[Bowl]], x: Tensor, y: Tensor, noise: Sequence[float], draws: int
) -> dict[str, Table]:
    """The tables of `vr_theory` over noise × network × picture; the curves of a picture run over the stops of ``noise``.

    shares: q_i/(1 − q_y) of the wrong classes, one column for each of `WAYS`. strength and length: gᵀHg of the averaged gradient over that of the
    plain one, both divided by (1 − q_y)² (Eq. 299) or by their squared length.
    """
    pixels, normals = pairs(draws, *x.shape[1:]), pairs(4096, there[0][0].p.shape[0], seed=1)
    cells = [[[] for _ in x] for _ in models]
    for sigma in noise:
        for j, model in enumerate(models):
            q, g = mean_gradient(model, x, y, sigma / 255 * pixels)
            for i, bowl in enumerate(there[j]):
                cells[j][i].append(_cell(bowl, q[i], g[i], sigma / 255, normals))

    def stacked(name: str) -> np.ndarray:
        return np.array([[[cell[name] for cell in row] for row in rows] for rows in cells])

    over = ("network", "picture")
    tables = {name: Table(np.moveaxis(stacked(name), 2, 0), ("noise", *over)) for name in ("shares", "true_class", "tau")}
    for name in ("clean_true", "rivals_clean"):
        tables[name] = Table(stacked(name)[..., 0], over)
    for name, column in (("eighth_true", 1), ("network_true", 4)):
        tables[name] = Table(np.moveaxis(stacked("true_class")[..., column], 2, 0), ("noise", *over))
    for name, factor in (("rivals", 1), ("strength", 100), ("length", 100)):
        for way in ("ideal", "own", "network"):
            tables[f"{name}_{way}"] = Table(stacked(f"{name}_{way}"), over)
        tables[f"{name}_shown"] = Table(factor * np.moveaxis(stacked(f"{name}_network"), 2, 0), ("noise", *over))
    return tables


def _cell(bowl: Bowl, q: Tensor, g: Tensor, sigma: float, normals: Tensor) -> dict[str, np.ndarray | float]:
    """One network at one image under one noise; q and g are its own mean prediction and gradient."""
    p, y, scale = bowl.p, bowl.y, kappa(bowl.gram)
    ideal_gram = scale * torch.eye(len(p), dtype=p.dtype)
    means = {"ideal": linear_mean(p, ideal_gram, sigma, normals), "own": linear_mean(p, bowl.gram, sigma, normals)}
    tau = sigma * float(scale.sqrt())
    ways = torch.stack([p, noisy(p, tau), means["ideal"], means["own"], q])
    shares, true_class = ways.clone(), ways[:, y].clone()
    shares[:, y] = 0
    found = {"shares": (shares / shares.sum(1, keepdim=True)).T.numpy(), "true_class": true_class.numpy(), "tau": tau}
    found |= {"clean_true": float(p[y]), "rivals_clean": bowl.rivals(p)}

    left = lambda v: float(wrong(v, y).sum())
    for way, mean in (*means.items(), ("network", q)):
        gram = ideal_gram if way == "ideal" else bowl.gram
        plain, plain_length = (float(v) for v in quadratic_form(gram, p, y))
        bent, length = (bowl.interaction(g), float(g @ g)) if way == "network" else combined(gram, p, mean, y)
        found[f"rivals_{way}"] = bowl.rivals(mean)
        found[f"strength_{way}"] = bent / plain * (left(p) / left(mean)) ** 2
        found[f"length_{way}"] = bent / plain * plain_length / length
    return found
