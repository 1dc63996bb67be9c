"""Fig. 2: does transfer fall where interaction rises? The relaxed attack at ten weights c, stopped where ‖δ‖₂ = τ, on four sources.

The attack ascends Loss(x+δ) − c‖δ‖_p^p by normalised gradient steps of one ℓ2 length, clipped to [0, 1]. For every τ it is taken at its first
step with ‖δ‖₂ ≥ τ and shortened to ‖δ‖₂ = τ, which keeps it in the box. Where it never gets there its last δ is kept, and marked by step −1.

The weights are set by a pull ρ: c = ρ · median over images of ‖∇Loss‖₂ / ‖∇‖δ‖_p^p‖₂, both at the δ of c = 0 stopped at ‖δ‖₂ = `REFERENCE`. At
ρ = 1 the penalty pulls there as hard as the loss. Each grid runs from a pull that changes nothing to one under which few images arrive, and was
chosen by that alone, in a trial on the first source.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from irlib import AttackGame, create_attack, load_images, load_model, mean_interaction
from irlib.attacks.loop import Ascended, Attack, CrossEntropy, Opened, gradient
from irlib.attacks.projection import norms
from irlib.draws import Draws
from irlib.game import margin, rivals
from irlib.replicate import store
from irlib.transfer import all_right, logits

SOURCES = ("fmnist-resnet14", "fmnist-resnet26", "fmnist-densenet22", "fmnist-densenet40")
NETWORKS = (
    *SOURCES,
    *(f"fmnist-{name}" for name in ("alexnet", "dpn", "inception-resnet", "inception3", "inception4", "mlp", "seresnet", "vgg")),
)
PULLS = {2: tuple(0.001 * 2**k for k in range(10)), 5: tuple(0.1 * 2**k for k in range(10))}  # each twice the last
TAUS = (0.4, 0.6, 0.8)
REFERENCE = 0.6
STEPS, LENGTH, GRID, IMAGES, SEED = 40, 0.1, 7, 32, 0
FOLDER = store.RESULTS / "fig2"

# Other ways to a δ of the same length: PGD by fewer and longer or more and shorter steps, and methods at the sweep's own step length.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "PGD, step 1.6": ("pgd", dict(alpha=1.6, steps=2)),
    "PGD, step 0.4": ("pgd", dict(alpha=0.4, steps=12)),
    "PGD, step 0.2": ("pgd", dict(alpha=0.2, steps=20)),
    "PGD": ("pgd", {}),
    "MI": ("mi", {}),
    "TI": ("ti", {}),
    "VR": ("vr", dict(samples=3)),
    "SGM": ("sgm", {}),
    "IR": ("ir", dict(draws=4)),
}


@dataclass(frozen=True)
class Penalised:
    """The objective Loss(x+δ) − c‖δ‖_p^p."""

    c: float
    p: int

    def __call__(self, opened: Opened, x: Tensor, y: Tensor, draws: Draws) -> Ascended:
        loss = CrossEntropy()
        return lambda source, base, delta: loss.of(source(base + delta), y) - self.c * penalty(delta, self.p)


def penalty(delta: Tensor, p: int) -> Tensor:
    """float64 (batch,): ‖δ‖_p^p."""
    return delta.double().abs().pow(p).flatten(1).sum(1)


def free(name: str, model: nn.Module, alpha: float = LENGTH, steps: int = STEPS, **method: Any) -> Attack:
    """The attack ``name`` by normalised steps of ℓ2 length ``alpha`` in [0, 1], without a ball: the longest δ of 784 pixels has length 28."""
    return create_attack(name, model, norm="l2", eps=28.0, alpha=alpha, steps=steps, seed=SEED, **method)


def stopped(deltas: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """Each image's δ at its first step with ‖δ‖₂ ≥ τ, shortened to τ, and that step; the last δ as it is, and −1, where there is none.

    ``deltas`` is (steps + 1, batch, channels, height, width).
    """
    length = torch.linalg.vector_norm(deltas, dim=(2, 3, 4))
    there = length >= tau
    step = torch.where(there.any(0), there.int().argmax(0), -1)
    delta = deltas[step, torch.arange(deltas.shape[1])]
    return torch.where((step >= 0)[:, None, None, None], delta * (tau / norms(delta).clamp_min(tau)), delta), step


def weights(model: nn.Module, x: Tensor, y: Tensor, p: int, pulls: Sequence[float]) -> list[float]:
    """The c of each pull ρ on this source, to three digits."""
    delta, _ = stopped(trajectory(free("pgd", model), x, y), REFERENCE)
    loss = CrossEntropy()
    slope = norms(gradient(lambda base, d: loss.of(model(base + d), y), x, delta))
    steepness = norms(gradient(lambda base, d: penalty(d, p), x, delta))
    return [float(f"{rho * (slope / steepness).median().item():.3g}") for rho in pulls]


def outcomes(model: nn.Module, targets: Sequence[nn.Module], x: Tensor, y: Tensor, delta: Tensor) -> np.ndarray:
    """float64 (3 + 2·targets, batch): ‖δ‖₂, mean interaction and rise of the loss on the source; per target its margin, then fooled or not."""
    game = AttackGame(model, x, delta, y, grid=GRID)
    rise = game(torch.ones(1, game.n, dtype=torch.bool))[:, 0]
    z = [logits(target, x + delta) for target in targets]
    rows = [norms(delta).flatten().double(), mean_interaction(game), rise]
    rows += [margin(each.double(), y, rivals(each, y)) for each in z]
    rows += [(each.argmax(1) != y).double() for each in z]
    return torch.stack(rows).numpy()


def trajectory(attack: Attack, x: Tensor, y: Tensor) -> Tensor:
    """(steps + 1, batch, channels, height, width): every δ of the attack."""
    return torch.stack(list(attack.iterates(x, y, Draws(x, attack.seed))))


def measured(
    model: nn.Module, targets: Sequence[nn.Module], x: Tensor, y: Tensor, attacks: Sequence[Attack], taus: Sequence[float]
) -> dict[str, Any]:
    """Every attack at every τ: arrays (attacks, taus, images), those of the targets (targets, attacks, taus, images), rounded for storing."""
    found = np.zeros((3 + 2 * len(targets), len(attacks), len(taus), len(x)))
    steps = np.zeros(found.shape[1:], dtype=int)
    for a, attack in enumerate(attacks):
        deltas = trajectory(attack, x, y)
        for t, tau in enumerate(taus):
            delta, step = stopped(deltas, tau)
            steps[a, t] = step.numpy()
            new = torch.ones_like(step, dtype=torch.bool)
            if t > 0:  # an image that had not arrived before, nor has now, shows the same last δ
                found[:, a, t] = found[:, a, t - 1]
                new = (step >= 0) | torch.from_numpy(steps[a, t - 1] >= 0)
            if new.any():
                found[:, a, t, new] = outcomes(model, targets, x[new], y[new], delta[new])
    norm, interaction, rise = (store.rounded(array, 4) for array in found[:3])
    clean = np.stack([margin(z.double(), y, rivals(z, y)).numpy() for z in (logits(target, x) for target in targets)])
    utility, missed = found[3 : 3 + len(targets)] - clean[:, None, None], found[3 + len(targets) :].astype(int)
    return {
        "step": steps.tolist(),
        "norm": norm,
        "interaction": interaction,
        "rise": rise,
        "utility": store.rounded(utility, 3),
        "fooled": [[["".join(map(str, row)) for row in rows] for rows in each] for each in missed],
    }


def images(models: dict[str, nn.Module], n: int = IMAGES, seed: int = SEED) -> tuple[Tensor, Tensor]:
    """The first ``n`` bundled images, in the order of a subset of 3n drawn from ``seed``, that every network classifies right."""
    x, y = all_right(*load_images("fashion-mnist", 3 * n, seed=seed), list(models.values()))
    return x[:n], y[:n]


def shards() -> Iterator[tuple[str, str]]:
    """(source, part): for each source the sweeps of c for p = 2 and p = 5; for the small network of each family the other methods too."""
    yield from ((source, part) for part in ("p2", "p5") for source in SOURCES)
    yield from ((source, "methods") for source in SOURCES[::2])


def shard(source: str, part: str) -> dict[str, Any]:
    """One shard's result, computed."""
    models = {name: load_model(name) for name in NETWORKS}
    x, y = images(models)
    model, targets = models[source], [name for name in NETWORKS if name != source]
    taus = (REFERENCE,) if part == "methods" else TAUS
    result = {"source": source, "part": part, "images": len(x), "seed": SEED, "steps": STEPS, "length": LENGTH, "grid": GRID, "taus": list(taus)}
    if part == "methods":
        attacks = [free(name, model, **given) for name, given in METHODS.values()]
        result["methods"] = list(METHODS)
    else:
        p = int(part[1:])
        result["pulls"], result["c"] = PULLS[p], weights(model, x, y, p, PULLS[p])
        attacks = [replace(free("pgd", model), objective=Penalised(c, p)) for c in result["c"]]
    found = measured(model, [models[name] for name in targets], x, y, attacks, taus)
    return result | store.facts() | {"labels": y.tolist(), "targets": targets} | found


def cost() -> str:
    """The passes of the whole figure."""
    sweep = sum(map(len, PULLS.values()))
    gradients = len(SOURCES) * IMAGES * (sweep + 10) * STEPS
    forwards = len(SOURCES) * IMAGES * (sweep * len(TAUS) + len(METHODS) / 2) * (2 * GRID**2 + 4 + len(NETWORKS) - 1)
    return f"{forwards:,.0f} forward passes at most and about {gradients:,} gradients"


def published() -> dict[tuple[str, str], dict[str, Any]]:
    """The stored results by (source, part), of the sources that both sweeps are there for. Raises FileNotFoundError where there are none."""
    files = {which: FOLDER / f"{which[0]}-{which[1]}.json" for which in shards()}
    complete = [source for source in SOURCES if files[source, "p2"].exists() and files[source, "p5"].exists()]
    if not complete:
        raise FileNotFoundError(f"no sweep is complete in {FOLDER}: run `python -m irlib.replicate fig2`")
    return {(source, part): store.read(path) for (source, part), path in files.items() if source in complete and path.exists()}
