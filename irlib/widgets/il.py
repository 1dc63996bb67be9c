"""The theory widget of the chapter on IL: strength × length of the first attack × bowl, on pixels and on features."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from irlib import Quadratic
from irlib.amplification import amplification
from irlib.data import FASHION_CLASSES
from irlib.surgery import features, places
from irlib.widgets.sweep import Param, Sweep, Table, bars, lines, mode_picture

STRENGTHS = (0.25, 0.5, 1.0, 2.0, 3.0)
SHARES = (0.01, 0.1, 0.25, 0.5, 0.75, 1.0)


def pulled(model: nn.Module, x: Tensor, directions: Tensor, layer: str | None = None) -> Tensor:
    """JᵀJ·d for each row d of ``directions`` (k, n), float64: J the Jacobian at one image x (1, …) of the features that IL reads in ``model``.

    ``layer``: dotted name of the module; by default the one registered for IL. A float32 model gives float32's accuracy.
    """
    modules = places(model, "il", layer)
    flat = lambda v: torch.cat([f.flatten() for f in features(model, modules, v)])
    found = []
    for d in directions:
        with torch.enable_grad():  # J·d is the derivative of Jᵀu by u, along d
            at = x.detach().clone().requires_grad_()
            out = flat(at)
            u = torch.zeros_like(out, requires_grad=True)
            back = torch.autograd.grad(out, at, u, create_graph=True)[0]
            forth = torch.autograd.grad(back, u, d.view_as(at).to(at), retain_graph=True)[0]
            found.append(torch.autograd.grad(out, at, forth)[0].flatten().double())
    return torch.stack(found)


def il_theory(
    networks: Mapping[str, nn.Module], x: Tensor, y: Tensor, strength: Sequence[float] = STRENGTHS, share: Sequence[float] = SHARES
) -> Sweep:
    """Sliders for the strength β₁λ₁ of the plain attack, the share β₂/β₁ of the attack that IL lengthens, and the bowl: a network at an image.

    Args:
        networks: sources by the name that the reader sees, each with a layer registered for IL.
        x: images (k, 1, height, width); every network has a bowl at each.
        y: their labels.
    """
    names = [(name, i) for name in networks for i in range(len(x))]
    quadratics = [Quadratic.at(networks[name], x[i : i + 1], y[i : i + 1]) for name, i in names]
    rank = min(len(q.gamma) for q in quadratics)
    images = [pulled(networks[name], x[i : i + 1], q.modes[:, :rank].T) for (name, i), q in zip(names, quadratics, strict=True)]

    def compute(strength: list[float], share: list[float], bowl: list[float]) -> dict[str, Table]:
        chosen = [int(b) for b in bowl]
        return il_tables([quadratics[b] for b in chosen], [images[b] for b in chosen], x.shape[-2:], strength, share)

    curves = {
        "plain": ("il_plain_curve", "pgd", "6 3"),
        "IL on pixels": ("il_pixels_curve", "theory", None),
        "IL on features": ("il_features_curve", "objective", "2 3"),
    }
    labels = [str(i + 1) for i in range(rank)]
    return Sweep(
        "il-theory",
        "Further along a first attack, on measured modes",
        [
            Param("strength", "strength β₁λ₁ of plain many steps", strength),
            Param("share", "first attack, share β₂/β₁", share, lambda s: f"{100 * s:g} %"),
            Param("bowl", "bowl", range(len(names)), lambda b: f"{names[int(b)][0]}, {FASHION_CLASSES[y[names[int(b)][1]]]}"),
        ],
        compute,
        [
            mode_picture("δ, plain", "il_plain_weights", "il_modes"),
            mode_picture("δ, IL on pixels", "il_pixels_weights", "il_modes"),
            mode_picture("δ, IL on features", "il_pixels_weights", "il_pulled"),
            bars("share of ‖δ‖² by mode, plain", "il_plain_share", labels, token="pgd"),
            bars("share of ‖δ‖² by mode, IL on pixels", "il_pixels_share", labels),
            lines("curvature along δ, share of λ₁", curves, cursor="share", xlabel="share β₂/β₁ of the first attack"),
        ],
        {
            "η": ("il_eta", ""),
            "interaction, IL on pixels": ("il_pixels", " %"),
            "interaction, IL on features": ("il_features", " %"),
            "interaction, a single step": ("il_single", " %"),
            "turned by the features": ("il_turn", "°"),
        },
        start={"strength": 1.0, "share": 0.1, "bowl": 0},
        caption="The first attack goes {share} of the way and is lengthened {il_eta} times. At the same length its interaction is {il_pixels} of "
        "plain many steps’, and a single step’s is {il_single}. The features turn it by {il_turn}; then it is {il_features}.",
    )


def il_tables(
    quadratics: Sequence[Quadratic], images: Sequence[Tensor], pixels: Sequence[int], strength: Sequence[float], share: Sequence[float]
) -> dict[str, Table]:
    """The tables of `il_theory`, float64 before they are packed, infinitely many steps.

    In the modes δ_plain = D(β₁)γ and δ_base = D(β₂)γ. il_pixels and il_single are δᵀHδ of η·δ_base and of a single step, in percent of the plain
    attack's at the same ‖δ‖₂; il_features that of JᵀJδ_base, which is what the published objective climbs where the features are linear;
    ``images`` are JᵀJ of the modes, (r, n) each, and il_turn is the angle between it and δ_base, in degrees. The curves are δᵀHδ/(λ₁‖δ‖²).
    """
    rank = min(len(q.gamma) for q in quadratics)
    shape = (len(strength), len(share), len(quadratics))
    names = ("plain", "pixels", "features", "single", "turn", "eta")
    found, weights, shares = {n: np.zeros(shape) for n in names}, np.zeros((2, *shape, rank)), np.zeros((2, *shape, rank))
    for b, (q, moved) in enumerate(zip(quadratics, images, strict=True)):
        lam, gamma = q.eigenvalues[:rank], q.gamma[:rank]
        for i, s in enumerate(strength):
            beta = s / float(lam[0])
            plain = amplification(lam, beta) * gamma
            for j, part in enumerate(share):
                base = amplification(lam, part * beta) * gamma
                on_features = moved.T @ base
                length = torch.linalg.vector_norm(on_features)
                inside = q.modes[:, :rank].T @ on_features
                each = {"plain": (plain, plain.norm()), "pixels": (base, base.norm()), "features": (inside, length), "single": (gamma, gamma.norm())}
                for name, (w, size) in each.items():
                    found[name][i, j, b] = (lam * w**2).sum() / size**2 / lam[0]
                found["turn"][i, j, b] = np.degrees(np.arccos(np.clip(float(inside @ base / length / base.norm()), -1, 1)))
                found["eta"][i, j, b] = plain.norm() / base.norm()
                for k, w in enumerate((plain, base)):
                    weights[k, i, j, b] = w / w.norm()
                    shares[k, i, j, b] = (w / w.norm()) ** 2
    over = ("strength", "share", "bowl")
    percent = {name: 100 * found[name] / found["plain"] for name in ("pixels", "features", "single")}
    modes = np.stack([q.modes[:, :rank].T.unflatten(-1, pixels).numpy() for q in quadratics])
    sizes = np.array([float(torch.linalg.vector_norm(m, dim=1).max()) for m in images])
    return {
        **{f"il_{name}": Table(values, over) for name, values in (percent | {"eta": found["eta"], "turn": found["turn"]}).items()},
        **{f"il_{name}_curve": Table(np.moveaxis(found[name], 1, -1), ("strength", "bowl")) for name in ("plain", "pixels", "features")},
        **{f"il_{name}_weights": Table(weights[k], over) for k, name in enumerate(("plain", "pixels"))},
        **{f"il_{name}_share": Table(shares[k], over) for k, name in enumerate(("plain", "pixels"))},
        "il_modes": Table(modes, ("bowl",)),
        "il_pulled": Table(np.stack([m.unflatten(-1, pixels).numpy() / size for m, size in zip(images, sizes, strict=True)]), ("bowl",)),
    }
