"""The explorer of the method chapters: one method beside plain PGD, on real networks, step by step."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irlib import create_attack
from irlib.attacks.loop import Attack
from irlib.attacks.projection import norms
from irlib.data import FASHION_CLASSES
from irlib.game import AttackGame
from irlib.interactions import row_sums
from irlib.transfer import logits
from irlib.widgets.sweep import Param, Sweep, Table, grey_frames, grey_picture, lines, perturbation_frames, picture

STEPS = (1, 2, 4, 7, 10)
GRID = 7


def explorer(
    name: str,
    title: str,
    param: Param,
    attack: Callable[[nn.Module, float], Attack],
    sources: Mapping[str, nn.Module],
    targets: Mapping[str, nn.Module],
    x: Tensor,
    y: Tensor,
    start: Mapping[str, float] | None = None,
    *,
    token: str,
    short: str,
) -> Sweep:
    """Sliders for source, image, step and the method's own ``param``: its perturbation and interactions, and plain PGD's, at every step.

    Args:
        name: of the widget, unique in the page; ``title`` is shown.
        attack: (source, value of param) → an attack of 10 steps, ℓ∞, ε = 16/255, α = 2/255, as `create_attack` makes by default. It may attack
            another network than the source it is given; interactions and loss are always those on the source.
        sources, targets: networks in eval mode, by name; of the targets the source itself is left out.
        x: images (k, 1, height, width) to show; y their labels.
        start: values the sliders start at; first source and image, 10 steps and the first value of ``param`` by default.
        token: colour of the method's slot; ``short`` its name in the page, "MI".

    The maps show each cell's share of the total, Σ_b I_ab = v(Ω) − v(Ω∖a) − v(a), on a 7×7 grid of cells; their sum is Eq. 12's total.
    """
    names = list(sources)

    def compute(source: list[int], image: list[int], steps: list[int], **own: list[float]) -> dict[str, Table]:
        shown = [names[k] for k in source]
        return explorer_tables(attack, {n: sources[n] for n in shown}, targets, x[image], y[image], steps, own[param.name], param.name)

    curves = lambda table: {short: (f"{table}s", token, None), "PGD": (f"{table}s_pgd", "pgd", "6 3")}
    return Sweep(
        name,
        title,
        [
            Param("source", "source", range(len(names)), lambda k: names[int(k)].removeprefix("fmnist-")),
            Param("image", "image", range(len(x)), lambda i: FASHION_CLASSES[y[int(i)]]),
            Param("steps", "steps", STEPS, lambda m: f"{m:g}"),
            param,
        ],
        compute,
        [
            grey_picture("image", "x_image"),
            picture(f"δ, {short}", "x_delta"),
            picture("δ, PGD", "x_delta_pgd"),
            picture(f"interactions by cell, {short}", "x_map", pixels=False),
            picture("interactions by cell, PGD", "x_map_pgd", pixels=False),
            lines("total interaction on the source", curves("x_total"), "steps", "steps"),
            lines("targets fooled", curves("x_fooled"), "steps", "steps"),
        ],
        {
            f"loss, {short}": ("x_loss", ""),
            "loss, PGD": ("x_loss_pgd", ""),
            f"total interaction, {short}": ("x_total", ""),
            "total interaction, PGD": ("x_total_pgd", ""),
            f"targets fooled, {short}": ("x_fooled", f" of {len(set(targets) - set(names[:1]))}"),
            "targets fooled, PGD": ("x_fooled_pgd", f" of {len(set(targets) - set(names[:1]))}"),
            f"‖δ‖₂, {short}": ("x_norm", ""),
            "‖δ‖₂, PGD": ("x_norm_pgd", ""),
        },
        start={"source": 0, "image": 0, "steps": 10} | dict(start or {}),
        caption=f"{{source}}, {{image}}, step {{steps}}, {param.label} {{{param.name}}}. {short}: loss {{x_loss}}, total interaction {{x_total}}, "
        "fools {x_fooled} targets. Plain PGD at the same step: loss {x_loss_pgd}, total interaction {x_total_pgd}, fools {x_fooled_pgd}.",
    )


def explorer_tables(
    attack: Callable[[nn.Module, float], Attack],
    sources: Mapping[str, nn.Module],
    targets: Mapping[str, nn.Module],
    x: Tensor,
    y: Tensor,
    steps: list[int],
    values: list[float],
    param: str,
) -> dict[str, Table]:
    """The explorer's tables, over source × image × steps × param for the method and without param for PGD.

    loss is the source's cross-entropy, total its total interaction (Eq. 12) over 7×7 cells and map each cell's part of it, norm ‖δ‖₂, fooled how
    many targets give another label than y.
    """
    over = ("source", "image", "steps")
    tables = {"x_image": Table(grey_frames(x), ("image",))}
    for ending, made, axes in (
        ("_pgd", lambda source, _: create_attack("pgd", source), over),
        ("", attack, (*over, param)),
    ):
        found = [
            torch.stack([_measured(model, name, made(model, value), targets, x, y, steps) for value in (values if param in axes else [0.0])], -1)
            for name, model in sources.items()
        ]
        rows = torch.stack(found).movedim(1, 4)  # (sources, images, steps, values, numbers)
        rows = rows if param in axes else rows[..., 0, :]
        side = x.shape[-1] * x.shape[-2]
        loss, total, fooled, norm = (rows[..., k].numpy() for k in range(4))
        maps, delta = rows[..., 4 : 4 + GRID**2].unflatten(-1, (GRID, GRID)), rows[..., -side:].unflatten(-1, x.shape[-2:])
        numbers = dict(loss=loss, total=total, fooled=fooled, norm=norm)
        tables |= {f"x_{key}{ending}": Table(value, axes) for key, value in numbers.items()}
        others = tuple(axis for axis in axes if axis != "steps")
        tables |= {f"x_{key}s{ending}": Table(np.moveaxis(numbers[key], 2, -1), others) for key in ("total", "fooled")}  # the curves over steps
        tables |= perturbation_frames(f"x_delta{ending}", delta.numpy(), axes) | perturbation_frames(f"x_map{ending}", maps.numpy(), axes)
    return tables


def _measured(model: nn.Module, name: str, attack: Attack, targets: Mapping[str, nn.Module], x: Tensor, y: Tensor, steps: list[int]) -> Tensor:
    """float64 (numbers, images, steps): loss, total, targets fooled, ‖δ‖₂, the cells' parts, δ."""
    if attack.steps < max(steps):
        raise ValueError(f"the attack takes {attack.steps} steps, the explorer shows {max(steps)}: make it with steps={max(steps)} or more")
    run = attack.run(x, y, record=True).deltas[torch.as_tensor(steps)]  # (steps, images, 1, height, width)
    images, labels, delta = x.repeat(len(steps), 1, 1, 1), y.repeat(len(steps)), run.flatten(0, 1)
    game = AttackGame(model, images, delta, labels, grid=GRID)
    parts = row_sums(game)
    loss = F.cross_entropy(logits(model, images + delta).double(), labels, reduction="none")
    others = [target for other, target in targets.items() if other != name]
    missed = sum((logits(target, images + delta).argmax(1) != labels).double() for target in others)
    rows = torch.cat([torch.stack([loss, parts.sum(1), missed, norms(delta).flatten().double()], 1), parts, delta.flatten(1).double()], 1)
    return rows.T.unflatten(1, (len(steps), len(x))).transpose(1, 2)
