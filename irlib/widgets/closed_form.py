"""The sweep of the chapter on the closed form: strength × steps × image, on a real network."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from irlib import Quadratic, create_attack
from irlib.data import FASHION_CLASSES
from irlib.widgets.sweep import Param, Sweep, Table, bars, grey_frames, grey_picture, lines, mode_picture, path, perturbation_frames, picture

STRENGTHS = (0.05, 0.1, 0.2, 0.35, 0.5, 1.0, 1.4, 2.0)
STEPS = (1, 2, 5, 10, 30, 100, math.inf)
ALONG = 10  # points of a trajectory after its start
FLOW_STEPS = 150  # of the network where the closed form takes infinitely many


def closed_form(model: nn.Module, x: Tensor, y: Tensor, strengths: Sequence[float] = STRENGTHS, steps: Sequence[float] = STEPS) -> Sweep:
    """Sliders for strength βλ₁, number of steps and image: the closed form of ``model``'s loss beside what the network itself does.

    The strength is given as βλ₁, with λ₁ the largest eigenvalue at each image: the same position of the slider bends a confident image's tiny
    gradient as much as an unsure image's large one. The network climbs its raw gradient (norm="none"); for ∞ it takes `FLOW_STEPS` steps.

    Args:
        model: a source in eval mode, piecewise linear for the closed form to be its own.
        x: images (k, 1, height, width).
        y: their labels.
    """
    quadratics = [Quadratic.at(model, x[i : i + 1], y[i : i + 1]) for i in range(len(x))]
    confidence = model(x).softmax(1).gather(1, y[:, None])[:, 0].tolist()

    def caption(i: float) -> str:
        return f"{FASHION_CLASSES[y[int(i)]]}, p = {confidence[int(i)]:.4f}"

    def compute(strength: list[float], steps: list[float], image: list[float]) -> dict[str, Table]:
        return closed_form_tables(model, x[image], y[image], [quadratics[i] for i in image], strength, steps)

    rank = min(len(q.gamma) for q in quadratics)
    return Sweep(
        "closed-form",
        "A perturbation in closed form, and the network's own",
        [
            Param("strength", "strength βλ₁", strengths, open=True),
            Param("steps", "steps m", steps, lambda m: "∞" if m == math.inf else f"{m:g}", open=True),
            Param("image", "image", range(len(x)), caption),
        ],
        compute,
        [
            grey_picture("image", "original"),
            mode_picture("δ, closed form", "weights", "modes"),
            picture("δ, network", "network"),
            bars("amplification D / β of each mode", "amplification", [str(i + 1) for i in range(rank)], baseline=1),
            lines(
                "distance of the two, as a share of the network’s δ",
                {"gap": ("gap_curve", "measured", None), "outside the modes": ("outside_curve", "theory", "6 4")},
                cursor="strength",
                xlabel="strength βλ₁",
                log=True,
            ),
            path(
                "loss rise along the trajectory, as a share of the network’s at its end",
                {"network": ("path_network", "measured", None), "closed form": ("path_closed", "theory", "6 4")},
                xs="path_share",
                xlabel="share of the steps taken",
                low=0,
                high=1.5,
            ),
        ],
        {
            "β": ("beta", ""),
            "D / β, first mode": ("first", ""),
            "‖δ‖₂, closed form": ("norm", ""),
            "‖δ‖₂, network": ("network_norm", ""),
            "gap": ("gap", " %"),
            "outside the modes": ("outside", " %"),
            "loss rise, closed form": ("rise", ""),
            "loss rise, network": ("network_rise", ""),
        },
        start={"strength": 0.5, "steps": 10, "image": 0},
        caption="At strength {strength} and {steps} steps, the closed form and the network’s own perturbation are {gap} apart; "
        "{outside} of the network’s lies outside the modes. The loss is to rise by {rise} and rises by {network_rise}.",
    )


def closed_form_tables(
    model: nn.Module, x: Tensor, y: Tensor, quadratics: Sequence[Quadratic], strength: Sequence[float], steps: Sequence[float]
) -> dict[str, Table]:
    """The tables of `closed_form` over strength × steps × image, float64 before they are packed.

    gap is ‖δ_network − δ_closed‖₂ / ‖δ_network‖₂; outside is the share of ‖δ_network‖₂ that is orthogonal to every mode, where the closed form
    never goes; both in percent. rise is the quadratic's loss increase at its own δ, network_rise the measured L(x+δ) − L(x) at the network's.
    path_closed and path_network follow both rises from the first step to the last, divided by |network_rise|.
    """
    over, over_image = ("strength", "steps", "image"), ("image",)
    rank = min(len(q.gamma) for q in quadratics)
    modes = torch.stack([q.modes[:, :rank].T for q in quadratics])  # (image, rank, n)
    beta = torch.tensor([[s / q.eigenvalues[0].item() for q in quadratics] for s in strength], dtype=torch.float64)
    each = [q.amplification(b.item(), m)[:rank] for row in beta for m in steps for q, b in zip(quadratics, row, strict=True)]
    amplified = torch.stack(each).view(len(strength), len(steps), len(quadratics), rank)
    weights = amplified * torch.stack([q.gamma[:rank] for q in quadratics])
    closed = torch.einsum("smir,irn->smin", weights, modes)
    climbed = [_raw_ascent(model, x, y, beta, m) for m in steps]
    network, measured = torch.stack([d for d, _ in climbed], dim=1), torch.stack([r for _, r in climbed], dim=1)
    size = torch.linalg.vector_norm(network, dim=-1)
    gap = torch.linalg.vector_norm(network - closed, dim=-1) / size
    inside = torch.einsum("smin,irn->smir", network, modes)
    outside = torch.linalg.vector_norm(network - torch.einsum("smir,irn->smin", inside, modes), dim=-1) / size
    rise = torch.stack([_predicted_rises(quadratics, row, steps) for row in beta])
    scale = measured[..., -1:].abs().clamp_min(torch.finfo(torch.float64).tiny)
    numbers = {
        "beta": beta[:, None].expand(-1, len(steps), -1),
        "first": amplified[..., 0] / beta[:, None],
        "norm": torch.linalg.vector_norm(closed, dim=-1),
        "network_norm": size,
        "gap": 100 * gap,
        "outside": 100 * outside,
        "rise": rise[..., -1],
        "network_rise": measured[..., -1],
    }
    curves = {f"{name}_curve": Table(np.moveaxis(numbers[name].numpy() / 100, 0, -1), ("steps", "image")) for name in ("gap", "outside")}
    pixels = x.shape[-2:]
    return {
        **{name: Table(value.numpy(), over) for name, value in numbers.items()},
        **curves,
        "original": Table(grey_frames(x), over_image),
        "modes": Table(modes.unflatten(-1, pixels).numpy(), over_image),
        "weights": Table(weights.numpy(), over),
        "amplification": Table((amplified / beta[:, None, :, None]).numpy(), over),
        "path_share": Table(np.array([[t / _taken(m) for t in _checkpoints(m)] for m in steps]), ("steps",)),
        "path_closed": Table((rise / scale).numpy(), over),
        "path_network": Table((measured / scale).numpy(), over),
        **perturbation_frames("network", network.unflatten(-1, pixels).numpy(), over),
    }


def _taken(steps: float) -> int:
    """The steps that the network takes."""
    return FLOW_STEPS if steps == math.inf else int(steps)


def _checkpoints(steps: float) -> list[int]:
    """ALONG + 1 evenly spread step numbers from 0 to the last; an attack of fewer steps repeats some."""
    return [round(k * _taken(steps) / ALONG) for k in range(ALONG + 1)]


def _predicted_rises(quadratics: Sequence[Quadratic], beta: Tensor, steps: Sequence[float]) -> Tensor:
    """float64 (steps, image, ALONG + 1): the quadratic's loss increase at its own δ after each checkpoint's share of the strength β."""
    rises = torch.zeros(len(steps), len(quadratics), ALONG + 1, dtype=torch.float64)
    for i, m in enumerate(steps):
        for j, (q, b) in enumerate(zip(quadratics, beta.tolist(), strict=True)):
            for k, t in enumerate(_checkpoints(m)):
                if t > 0:
                    share = b * t / _taken(m)
                    rises[i, j, k] = q.loss_increase(q.infinite_step(share) if m == math.inf else q.multi_step(share / t, t))
    return rises


def _raw_ascent(model: nn.Module, x: Tensor, y: Tensor, beta: Tensor, steps: float) -> tuple[Tensor, Tensor]:
    """The network's own raw gradient ascent of total strength β: its last perturbation, float64 (strength, image, n), and the loss increase
    at every checkpoint, float64 (strength, image, ALONG + 1)."""
    taken, copies = _taken(steps), len(beta)
    attack = create_attack("pgd", model, norm="none", alpha=beta.flatten() / taken, steps=taken)
    run = attack.run(x.repeat(copies, 1, 1, 1), y.repeat(copies), record=True)
    rises = (run.losses[_checkpoints(steps)] - run.losses[0]).T
    return run.delta.double().view(copies, len(x), -1), rises.view(copies, len(x), -1)
