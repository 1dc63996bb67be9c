"""The sweep of the chapter on LinBP: strength × ReLUs passed unmasked × image, the idealised attack in closed form and the network's own."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor, nn

from irlib import Quadratic, create_attack
from irlib.balance import class_gradients, wrong
from irlib.data import FASHION_CLASSES
from irlib.draws import Draws
from irlib.surgery import adding_blocks
from irlib.widgets.sweep import Param, Sweep, Table, grey_frames, grey_picture, lines, perturbation_frames, picture

STRENGTHS = (0.02, 0.05, 0.2, 0.5, 1.0)
TAKEN = 10  # steps of the network


def linear_gradients(model: nn.Module, x: Tensor, from_layer: str | None = None) -> Tensor:
    """M (batch, c, n), float64: the gradients of the logits with ReLUs from ``from_layer`` on passed unmasked, c backward passes.

    LinBP's gradient of any function of the logits is Mᵀ times its gradient by the logits; but not where LinBP rescales a residual branch,
    by a factor that depends on the function: raises ValueError for a network with such branches.
    """
    if adding_blocks(model):
        raise ValueError("LinBP rescales the gradient of residual branches, which is no linear map of the loss's: use a network without them")
    attack = create_attack("linbp", model, from_layer=from_layer)
    with attack.network(model, Draws(x, 0)) as source:
        return class_gradients(source, x)[1]


class LinearBackward:
    """The idealised LinBP attack (Eq. 143) on one image of a piecewise linear network, in closed form: δ' = M(a + PW̃ᵀδ), δ = 0 at strength 0.

    a = p − Y and P = diag p − ppᵀ are the loss's derivatives by the logits. δ = M·c with c' = a + Nc and N = PW̃ᵀM: the exponential of a
    matrix of the size of the number of classes.

    Args:
        z: float64 (c,) logits.
        w: float64 (c, n) their gradients.
        m: float64 (c, n) their gradients going back linearly.
        y: the label.
    """

    def __init__(self, z: Tensor, w: Tensor, m: Tensor, y: int):
        p = z.softmax(0)
        a, rest = p.clone(), wrong(p, y).sum()
        a[y] = -rest
        P = torch.diag(p) - torch.outer(p, p)
        P[y, y] = p[y] * rest
        self.m = m
        self.g, self.linear = a @ w, a @ m  # the ordinary and the linear gradient
        self._generator = torch.nn.functional.pad(torch.cat([P @ w @ m.T, a[:, None]], 1), (0, 0, 0, 1))  # of (c, 1)

    def infinite_step(self, beta: float) -> Tensor:
        """δ, float64 (n,), after infinitely many steps of total strength ``beta``. Raises OverflowError where it exceeds float64."""
        delta = self.m.T @ torch.linalg.matrix_exp(beta * self._generator)[:-1, -1]
        if not torch.isfinite(delta).all():
            raise OverflowError(f"δ overflows float64 at beta = {beta:g}: choose a smaller one")
        return delta

    def strength_of(self, length: float) -> float:
        """The β at which ‖δ‖₂ first is ``length``: Proposition 2 compares attacks of the same length. Raises ValueError where none is found."""
        beta = low = 1e-3 * length / float(torch.linalg.vector_norm(self.linear))
        while torch.linalg.vector_norm(self.infinite_step(beta)) < length:
            low, beta = beta, 1.5 * beta
            if beta > 1e6 * length / float(torch.linalg.vector_norm(self.linear)):
                raise ValueError(f"the attack never gets as long as {length:g}")
        return brentq(lambda b: float(torch.linalg.vector_norm(self.infinite_step(b))) - length, low, beta, rtol=1e-10)


def angle(a: Tensor, b: Tensor) -> Tensor:
    """The angle between vectors (…, n), in degrees, without the digits that arccos loses near 0."""
    a, b = (torch.nn.functional.normalize(v.double(), dim=-1) for v in (a, b))
    return 2 * torch.atan2(torch.linalg.vector_norm(a - b, dim=-1), torch.linalg.vector_norm(a + b, dim=-1)).rad2deg()


def linear_backward(variants: Sequence[tuple[str, nn.Module, str]], x: Tensor, y: Tensor, strengths: Sequence[float] = STRENGTHS) -> Sweep:
    """Sliders for strength βλ₁, where the gradient starts to pass ReLUs unmasked, and image: LinBP in closed form beside plain multi-step.

    Args:
        variants: (what the slider says, piecewise linear network without residual branches in eval mode, first module passed unmasked).
        x: images (k, 1, height, width).
        y: their labels.
    """
    return Sweep(
        "linear-backward",
        "LinBP in closed form, and the network's own",
        [
            Param("strength", "strength βλ₁ of the plain attack", strengths, open=True),
            Param("passed", "ReLUs passed unmasked", range(len(variants)), lambda k: variants[int(k)][0]),
            Param("picture", "image", range(len(x)), lambda i: FASHION_CLASSES[y[int(i)]]),
        ],
        lambda strength, passed, picture: linear_backward_tables([variants[k][1:] for k in passed], x[list(picture)], y[list(picture)], strength),
        [
            grey_picture("image", "original"),
            picture("δ, plain, closed form", "plain"),
            picture("δ, LinBP, closed form", "closed"),
            picture("δ, LinBP, network", "network"),
            lines(
                "angle between LinBP’s δ and the plain one, degrees",
                {"closed form": ("angle_curve", "theory", "6 4"), "network": ("network_angle_curve", "measured", None)},
                cursor="strength",
                xlabel="strength βλ₁",
                log=True,
            ),
            lines(
                "δᵀHδ of LinBP over the plain one’s at the same length",
                {"closed form": ("at_length_curve", "theory", "6 4"), "cos² of the gradients’ angle": ("cosine_curve", "network", "2 3")},
                cursor="strength",
                xlabel="strength βλ₁",
                log=True,
            ),
        ],
        {
            "δᵀHδ over plain, same length": ("at_length", ""),
            "cos² of the angle of the gradients": ("cosine", ""),
            "δᵀHδ over plain, same β": ("at_beta", ""),
            "angle, closed form": ("angle", "°"),
            "angle, network": ("network_angle", "°"),
            "gap of closed form and network": ("gap", "\u00a0%"),
        },
        start={"strength": 0.2, "passed": 1, "picture": 0},
        caption="{passed}: at the length of a plain attack of strength {strength}, LinBP’s interaction is {at_length} times the plain one’s; "
        "cos² of the angle between the two gradients is {cosine}. At the same β it is {at_beta} times. The network’s own LinBP is {gap} from the "
        "closed form.",
    )


def linear_backward_tables(variants: Sequence[tuple[nn.Module, str]], x: Tensor, y: Tensor, strength: Sequence[float]) -> dict[str, Table]:
    """The tables of `linear_backward` over strength × variant × image, float64 before they are packed.

    The plain attack is δ^(∞) of strength βλ₁; LinBP's δ has its length. at_length and at_beta are the ratios of δᵀHδ, LinBP's over the plain
    one's, at that length and at that β; cosine is cos²∠(g, g_LinBP). The network climbs its raw gradients in `TAKEN` steps, with the two
    strengths of the closed forms; gap is ‖network − closed‖/‖network‖ of LinBP in percent, angles are LinBP's δ against the plain δ.
    """
    over = ("strength", "passed", "picture")
    parts = [_variant(model, layer, x, y, strength) for model, layer in variants]
    found = {name: torch.stack([part[name] for part in parts], 1) for name in parts[0]}
    frames = {name: found.pop(name).unflatten(-1, x.shape[-2:]).numpy() for name in ("plain", "closed", "network")}
    curves = ("angle", "network_angle", "at_length", "cosine")
    return {
        "original": Table(grey_frames(x), ("picture",)),
        **{name: Table(value.numpy(), over) for name, value in found.items()},
        **{f"{name}_curve": Table(np.moveaxis(found[name].numpy(), 0, -1), over[1:]) for name in curves},
        **{key: table for name, value in frames.items() for key, table in perturbation_frames(name, value, over).items()},
    }


def _variant(model: nn.Module, layer: str, x: Tensor, y: Tensor, strength: Sequence[float]) -> dict[str, Tensor]:
    """The tables of one network and layer, each (strength, image) or (strength, image, n)."""
    z, w = class_gradients(model, x)
    m = linear_gradients(model, x, layer)
    attacks = [LinearBackward(z[i], w[i], m[i], int(y[i])) for i in range(len(x))]
    quadratics = [Quadratic.at(model, x[i : i + 1], y[i : i + 1]) for i in range(len(x))]
    cells = [[_cell(attack, q, s / q.eigenvalues[0].item()) for attack, q in zip(attacks, quadratics, strict=True)] for s in strength]
    found = {
        name: torch.stack([torch.stack([torch.as_tensor(cell[name], dtype=torch.float64) for cell in row]) for row in cells]) for name in cells[0][0]
    }
    plain = _ascent(model, "pgd", x, y, found.pop("plain_beta"))
    network = _ascent(model, "linbp", x, y, found.pop("own_beta"), from_layer=layer)
    found["network"] = network
    found["network_angle"] = angle(network, plain)
    found["gap"] = 100 * torch.linalg.vector_norm(network - found["closed"], dim=-1) / torch.linalg.vector_norm(network, dim=-1)
    return found


def _cell(attack: LinearBackward, q: Quadratic, beta: float) -> dict[str, Tensor | float]:
    plain = q.infinite_step(beta)
    own = attack.strength_of(float(torch.linalg.vector_norm(plain)))
    closed = attack.infinite_step(own)
    return {
        "plain": plain,
        "closed": closed,
        "angle": angle(closed, plain),
        "cosine": math.cos(math.radians(angle(attack.g, attack.linear))) ** 2,
        "at_length": q.interaction(closed) / q.interaction(plain),
        "at_beta": q.interaction(attack.infinite_step(beta)) / q.interaction(plain),
        "plain_beta": beta,
        "own_beta": own,
    }


def _ascent(model: nn.Module, name: str, x: Tensor, y: Tensor, beta: Tensor, **method: str) -> Tensor:
    """float64 (strength, image, n): the network's raw ascent of strengths β (strength, image) in `TAKEN` steps."""
    attack = create_attack(name, model, norm="none", alpha=beta.flatten() / TAKEN, steps=TAKEN, **method)
    return attack.run(x.repeat(len(beta), 1, 1, 1), y.repeat(len(beta))).delta.double().flatten(1).unflatten(0, beta.shape)
