"""Every method against plain PGD: interactions on the source and transfer, image by image, at matched strength and as published.

A shard is one method on one source. Its columns are

    beta     raw gradients, PGD's step size and number of steps: α·m·λ₁ = `STRENGTH` for every image, λ₁ the largest eigenvalue of the source's
             Hessian there. The method's idealised form where it has one. IL is made as long as PGD's δ, as Proposition 7 has it.
    tau      normalised ℓ2 steps, stopped where ‖δ‖₂ = τ. PI, which is defined under ℓ∞ alone, is shortened to the length that PGD has there, and
             to be compared with PGD's column "linf".
    linf     as published, in the ℓ∞ ball.

and each holds, image by image, ‖δ‖₂, the mean interaction by both utilities, the rise of the source's loss, and from the targets the mean
transfer utility and who is fooled. Where the network that is attacked is not the source itself, "altered" is the mean interaction in that one.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from irlib import AttackGame, create_attack, interaction_matrix, load_images, load_model, mean_interaction
from irlib.attacks.loop import Attack
from irlib.attacks.projection import norms
from irlib.draws import Draws
from irlib.game import TableGame, margin, rivals
from irlib.quadratic import Quadratic
from irlib.replicate import store
from irlib.replicate.fig2 import free, stopped
from irlib.replicate.presets import METHODS, PRESETS, Preset, shards
from irlib.shapley import coalition_table
from irlib.transfer import all_right, logits

STRENGTH = 0.5  # βλ₁: the loss of a confident image is e^z, on which raw gradient ascent runs away at βλ₁ = 1
RAW_STEPS = 10
FOLDER = store.RESULTS / "methods"


@cache
def study_images(preset: Preset, folder: str | None = None, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """The first images of the preset's set, or of ``folder``, that all its networks have right. Raises ValueError for too few of them."""
    if not (folder or preset.set):
        raise ValueError("this preset is of ImageNet: give --images with a folder of one subfolder a class")
    networks = dict.fromkeys([*(source for source, _ in shards(preset)), *preset.targets, *preset.right])
    x, y = (v.to(device) for v in load_images(folder or preset.set))
    x, y = all_right(x, y, [load_model(name, device) for name in networks])
    if len(x) < preset.images:
        raise ValueError(f"all {len(networks)} networks have {len(x)} of the images right, the preset needs {preset.images}: give more images")
    return x[: preset.images], y[: preset.images]


@cache
def step_sizes(preset: Preset, source: str, folder: str | None = None, device: str = "cpu") -> Tensor:
    """(images,): the α of each image in the column "beta"."""
    model, (x, y) = load_model(source, device), study_images(preset, folder, device)
    steepest = torch.stack([Quadratic.at(model, x[i : i + 1], y[i : i + 1]).eigenvalues[0] for i in range(len(x))])
    return (STRENGTH / RAW_STEPS / steepest).to(x)


def guides(x: Tensor, y: Tensor) -> Tensor:
    """For each image the next one of another class, the first following the last: what AA aims at."""
    order = (torch.arange(len(x))[:, None] + torch.arange(1, len(x))) % len(x)
    other = (y[order] != y[:, None]).int().argmax(1)
    return x[order[torch.arange(len(x)), other]]


def at_beta(name: str, model: nn.Module, alpha: Tensor, x: Tensor, y: Tensor, preset: Preset) -> Tensor:
    """The method's δ by raw gradients and PGD's steps."""
    method, raw = METHODS[name], dict(norm="none", alpha=alpha, steps=RAW_STEPS)
    if name == "il":  # δ_base of half the strength, as long as PGD's
        base = create_attack("il", model, idealised=True, alpha=alpha, steps=1, base_steps=RAW_STEPS // 2).run(x, y).delta
        return base * (norms(create_attack("pgd", model, **raw).run(x, y).delta) / norms(base))
    if name in ("mi", "rap", "pi"):
        attack = create_attack(name, model, idealised=True, alpha=alpha, steps=RAW_STEPS)
        if name == "pi":  # a ball that PGD leaves: half as wide as its δ
            plain = create_attack("pgd", model, **raw).run(x, y).delta
            attack = replace(attack, projection=replace(attack.projection, eps=plain.abs().amax((1, 2, 3), keepdim=True) / 2))
        return attack.run(x, y).delta
    return create_attack(method.attack, model, **raw, **method.given).run(x, y).delta


def at_tau(attack: Attack, x: Tensor, y: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """The attack's δ where its path first has ‖δ‖₂ = τ, and the step; it is not walked farther than all images need. See `stopped`."""
    deltas = []
    for delta in attack.iterates(x, y, Draws(x, attack.seed)):
        deltas.append(delta)
        if (norms(delta) >= tau).all():
            break
    return stopped(torch.stack(deltas), tau)


def outcomes(model: nn.Module, targets: Sequence[nn.Module], x: Tensor, y: Tensor, delta: Tensor, grid: int) -> dict[str, Any]:
    """One column, image by image; with targets also what they make of it, and who of them is fooled as a row of 0 and 1 a target."""
    game = AttackGame(model, x, delta, y, grid=grid, utility=("ce", "margin"))
    interaction = mean_interaction(game)
    rise = game(torch.ones(1, game.n, dtype=torch.bool))[:, 0, 0]
    found = {"norm": norms(delta).flatten(), "ce": interaction[:, 0], "margin": interaction[:, 1], "rise": rise}
    found = {name: store.rounded(values.cpu(), 4) for name, values in found.items()}
    if targets:
        of = lambda z: margin(z.double(), y, rivals(z, y))
        after, before = (torch.stack([of(logits(t, v)) for t in targets]) for v in (x + delta, x))
        found["utility"] = store.rounded((after - before).mean(0).cpu(), 4)
        found["fooled"] = ["".join(map(str, row)) for row in (after > 0).int().tolist()]
    return found


def altered(attack: Attack, x: Tensor, y: Tensor, delta: Tensor, grid: int, together: int) -> list[float]:
    """The mean interaction of each image in the network that the attack attacks, as it is at its first step; so many images ``together``."""
    found = []
    for i in range(0, len(x), together):
        some = slice(i, i + together)
        with attack.network(attack.model, Draws(x[some], attack.seed)) as network:
            found.append(mean_interaction(AttackGame(network, x[some], delta[some], y[some], grid=grid)))
    return store.rounded(torch.cat(found).cpu(), 4)


def by_order(model: nn.Module, x: Tensor, y: Tensor, delta: Tensor) -> list[list[float]]:
    """(images, 8): the mean I_ab^(s) of each order s over the pairs of a 3×3 grid, from all its coalitions."""
    game = TableGame(coalition_table(AttackGame(model, x, delta, y, grid=3))[1].cpu())
    n = game.n
    orders = [interaction_matrix(game, order=s).sum((1, 2)) / (n * (n - 1)) for s in range(n - 1)]
    return store.rounded(torch.stack(orders, 1), 4)


def shard(preset: Preset, source: str, name: str, folder: str | None = None, device: str = "cpu") -> dict[str, Any]:
    """One shard's result, computed."""
    x, y = study_images(preset, folder, device)
    method, plain = METHODS[name], load_model(source, device)
    model = load_model(source + method.network, device) if method.network else plain
    names = [target for target in preset.targets if target != source]
    targets = [load_model(target, device) for target in names]
    given = dict(method.given) | ({"guide": guides(x, y)} if name == "aa" else {})
    published = create_attack(method.attack, model, eps=preset.eps, steps=preset.steps, **given)
    end = published.run(x, y).delta
    deltas = {}
    if method.raw:
        deltas["beta"] = at_beta(name, model, step_sizes(preset, source, folder, device), x, y, preset)
    if name == "pi":
        length = norms(create_attack("pgd", plain, eps=preset.eps, steps=preset.steps).run(x, y).delta)
        deltas["tau"], step = end * (length / norms(end)).clamp_max(1), (norms(end) >= length).flatten().int() - 1
    else:
        deltas["tau"], step = at_tau(free(method.attack, model, alpha=preset.tau / 6, steps=40, **given), x, y, preset.tau)
    deltas["linf"] = end
    result = {"source": source, "method": name, "targets": names, "labels": y.tolist(), "arrived": (step >= 0).int().tolist()}
    for column, delta in deltas.items():
        result[column] = outcomes(plain, targets if column != "beta" else (), x, y, delta, preset.grid)
        if method.altered:
            result[column]["altered"] = altered(published, x, y, delta, preset.grid, 1 if name == "ghost" else len(x))  # each image has its own ghost
    if source == preset.sources[0]:
        few = slice(preset.by_order)
        result["orders"] = by_order(plain, x[few], y[few], deltas["tau"][few])
    return result | store.facts()


def cost(preset: Preset) -> str:
    """The passes of all shards, at most, and the hours they take where the first source makes as many a second as it does now."""
    each = {"vr": 5, "rap": 9, "linbp": 2}
    forwards = gradients = 0
    for source, name in shards(preset):
        targets = sum(target != source for target in preset.targets)
        forwards += preset.images * 3 * ((2 * preset.grid**2 + 4) * (1 + METHODS[name].altered) + 2 * targets)
        forwards += preset.by_order * 512 * (source == preset.sources[0])
        gradients += preset.images * (preset.steps + RAW_STEPS + 20) * each.get(name, 1)
    model = load_model(preset.sources[0])
    probe = torch.rand(100, *load_images(preset.set, 1)[0].shape[1:]) if preset.set else torch.rand(2, 3, 224, 224)
    clock = time.perf_counter()
    logits(model, probe)
    forward = (time.perf_counter() - clock) / len(probe)
    hours = (forwards + 3 * gradients) * forward / 3600
    return f"{forwards:,} forward passes and {gradients:,} gradients at most, about {hours:.1f} hours on one such device"


def run(preset: str, only: str | None = None, again: bool = False, folder: str | None = None, device: str = "cpu") -> None:
    """Compute and store the shards of a preset that are not there yet, or those whose names start with ``only``.

    A line of ``log.jsonl`` says when each was made, how long it took and of which commit.
    """
    where = FOLDER / preset
    for source, name in shards(PRESETS[preset]):
        label = f"{source}-{name}"
        path = where / f"{label}.json"
        if not label.startswith(only or "") or (path.exists() and not again):
            continue
        clock = time.perf_counter()
        store.write(path, shard(PRESETS[preset], source, name, folder, device))
        seconds = round(time.perf_counter() - clock)
        with (where / "log.jsonl").open("a") as log:
            log.write(
                json.dumps({"shard": label, "seconds": seconds, "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M}", "commit": store.commit()}) + "\n"
            )
        print(f"{label}: {seconds} s, {path.stat().st_size / 1000:.0f} kB", flush=True)
