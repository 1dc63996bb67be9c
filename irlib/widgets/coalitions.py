"""The explorer of the chapters on Shapley values and interactions: all 65,536 coalitions of sixteen cells of a real perturbation.

Enumerating them takes minutes, so the chapters read stored tables. ``python -m irlib.replicate coalitions`` makes both files anew: the explorer's,
and those of the study, three networks × thirty images × three perturbations.
"""

import json
import platform
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from irlib import AttackGame, create_attack, interaction_matrix, load_images, load_model, shapley_values
from irlib.data import FASHION_CLASSES
from irlib.game import TableGame
from irlib.interactions import row_sums
from irlib.shapley import coalition_table
from irlib.transfer import all_right
from irlib.widgets.sweep import Coalition, Param, Sweep, Table, bars, cells, grey_frames, heat, perturbation_frames, picture, waterfall

RESULTS = Path(__file__).parents[1] / "results" / "coalitions"
NETWORK, SOURCES = "fmnist-resnet14", ("fmnist-mlp", "fmnist-resnet14", "fmnist-vgg")
ATTACKS = ("pgd", "ir")
EPS, GRID, IMAGES = 8 / 255, 4, 30
UNITS = [f"{row + 1}{column + 1}" for row in range(GRID) for column in range(GRID)]  # a cell by its row and column
PAIRS = np.array([(a, b) for a in range(GRID**2) for b in range(a + 1, GRID**2)])


@lru_cache
def stored(name: str) -> dict[str, np.ndarray]:
    """The arrays of ``irlib/results/coalitions/<name>.npz``, "explorer" or "study", as the functions of those names return them."""
    path = RESULTS / f"{name}.npz"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: make it with python -m irlib.replicate coalitions")
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def explorer(network: str = NETWORK, images: int = 2, seed: int = 0) -> dict[str, np.ndarray]:
    """The explorer's tables: the first images, of one of each class, that the network has right; `ATTACKS`, 4×4 cells, cross-entropy.

    x uint8 (image, h, w), y, delta float32 (attack, image, h, w), v float16 (attack, image, 65536), and, from v before it was rounded, shapley
    float64 (attack, image, 16) and interaction float64 (attack, image, 16, 16).
    """
    model = load_model(network)
    x, y = (t[:images] for t in all_right(*load_images("fashion-mnist", 10, seed), [model]))
    deltas = [create_attack(name, model, eps=EPS)(x, y) - x for name in ATTACKS]
    tables = [coalition_table(AttackGame(model, x, delta, y, grid=GRID))[1] for delta in deltas]
    return {
        "x": grey_frames(x),
        "y": y.numpy(),
        "delta": torch.stack(deltas)[:, :, 0].numpy(),
        "v": torch.stack(tables).numpy().astype(np.float16),
        "shapley": torch.stack([shapley_values(TableGame(v)) for v in tables]).numpy(),
        "interaction": torch.stack([interaction_matrix(TableGame(v)) for v in tables]).numpy(),
    }


def study(sources: Sequence[str] = SOURCES, images: int = IMAGES) -> dict[str, np.ndarray]:
    """PGD, IR at the same ε, and PGD's perturbation scaled to the ‖δ‖₂ of IR's, for every source on the same images.

    x uint8 (image, h, w), y; over (source, perturbation, image): delta float32 (h, w); v float32 (512) of all coalitions of 3×3 cells; rows
    float32 (49), v(Ω) − v(Ω∖a) − v(a) of 7×7 cells; margin float64, their sum with the logit margin as v.
    """
    x, y = (t[:images] for t in all_right(*load_images("fashion-mnist", 2 * images, seed=1), [load_model(name) for name in sources]))
    found = {name: [] for name in ("delta", "v", "rows", "margin")}
    for source in sources:
        model = load_model(source)
        pgd, ir = (create_attack(name, model, eps=EPS)(x, y) - x for name in ATTACKS)
        length = [d.flatten(1).norm(dim=1)[:, None, None, None] for d in (pgd, ir)]
        each = torch.stack([pgd, ir, pgd * length[1] / length[0]])
        found["delta"].append(each[:, :, 0])
        found["v"].append(torch.stack([coalition_table(AttackGame(model, x, d, y, grid=3))[1] for d in each]).float())
        found["rows"].append(torch.stack([row_sums(AttackGame(model, x, d, y, grid=7)) for d in each]).float())
        found["margin"].append(torch.stack([row_sums(AttackGame(model, x, d, y, grid=7, utility="margin")).sum(1) for d in each]))
    return {"x": grey_frames(x), "y": y.numpy()} | {k: torch.stack(v).numpy() for k, v in found.items()}


def coalition_explorer(tables: dict[str, np.ndarray] | None = None, pairs: bool = False) -> Sweep:
    """Sixteen cells to switch on and off; ``pairs`` marks two of them and shows how they interact, under PGD and under IR.

    Args:
        tables: what `explorer` returns; by default the stored ones.
    """
    tables = tables or stored("explorer")
    params = [Param("image", "image", range(len(tables["x"])), lambda i: FASHION_CLASSES[tables["y"][int(i)]])]
    every = Coalition("coalition", "units", n=GRID**2)
    if pairs:
        return _pairs(tables, [Param("attack", "attack", range(len(ATTACKS)), lambda k: ATTACKS[int(k)].upper()), *params], every)
    return Sweep(
        "shapley-values",
        "Sixteen cells of a perturbation, and what each is worth",
        [*params, every],
        lambda image, coalition: single_tables(tables, image),
        [
            cells("x + δ on the units chosen: press cells", "delta", "coalition", "x"),
            picture("δ, all of it", "delta"),
            bars("what each unit changes now: v(S∪a) − v(S∖a)", "marginals", UNITS, token="measured"),
            waterfall("Shapley values φ(a), which add up to v(Ω)", "phi", UNITS, total="v(Ω)"),
        ],
        {"v(S)": ("inside", ""), "Σ φ(a) over S": ("share", ""), "v(Ω)": ("full", "")},
        start={"image": 0, "coalition": 2**GRID**2 - 1},
        caption="With {coalition} perturbed, the loss rises by {inside}; the Shapley values of these units add up to {share}.",
        coalition_game={"v": "v"},
    )


def single_tables(tables: dict[str, np.ndarray], image: Sequence[int]) -> dict[str, Table]:
    """PGD's tables over image × coalition: v, and share, the sum of φ(a) over the units of the coalition, both float16."""
    chosen, over = list(image), ("image",)
    v, phi = tables["v"][0, chosen], tables["shapley"][0, chosen]
    members = np.arange(2 ** phi.shape[1])[:, None] >> np.arange(phi.shape[1]) & 1
    return {
        "x": Table(tables["x"][chosen], over),
        **perturbation_frames("delta", tables["delta"][0, chosen], over),
        "v": Table(v, ("image", "coalition")),
        "share": Table((phi @ members.T).astype(np.float16), ("image", "coalition")),
        "phi": Table(phi, over),
        "full": Table(v[:, -1].astype(float), over),
    }


def _pairs(tables: dict[str, np.ndarray], params: list[Param], every: Coalition) -> Sweep:
    return Sweep(
        "interactions",
        "Two of sixteen cells, and what they do for each other",
        [*params, Param("pair", "pair of cells", range(len(PAIRS)), lambda p: " and ".join(UNITS[a] for a in PAIRS[int(p)])), every],
        lambda attack, image, pair, coalition: pair_tables(tables, attack, image, pair),
        [
            cells("x + δ on the units chosen: press cells", "delta", "coalition", "x"),
            picture("δ, all of it", "delta"),
            bars("mean Δv(a, b | S) over contexts of s units", "orders", [str(s) for s in range(GRID**2 - 1)]),
            heat("interaction I(a, b) of every pair", "interaction", UNITS, UNITS, diverging=True),
        ],
        {
            "v(S)": ("inside", ""),
            "Δv(a, b | S)": ("joint", ""),
            "I(a, b)": ("pairwise", ""),
            "lowest Δv": ("lowest", ""),
            "highest Δv": ("highest", ""),
            "contexts with Δv < 0": ("below", " %"),
        },
        start={"attack": 0, "image": 0, "pair": _strongest(tables), "coalition": 2**GRID**2 - 1},
        caption="Around {coalition}, the cells {pair} together add {joint} beyond what they add alone; their interaction, the mean, is {pairwise}.",
        coalition_game={"v": "v", "pair": "units"},
    )


def _strongest(tables: dict[str, np.ndarray]) -> int:
    """The pair of the largest |I_ab| in the explorer's first picture."""
    return int(np.abs(tables["interaction"][0, 0][tuple(PAIRS.T)]).argmax())


def pair_tables(tables: dict[str, np.ndarray], attack: Sequence[int], image: Sequence[int], pair: Sequence[int]) -> dict[str, Table]:
    """The tables over attack × image × pair: I_ab, its mean over contexts of each size, and how Δv(a, b | S) spreads over the 2ⁿ⁻² contexts."""
    pick, shown, over = np.ix_(list(attack), list(image)), PAIRS[list(pair)], ("attack", "image", "pair")
    v, sizes = tables["v"][pick], np.array([S.bit_count() for S in range(2**14)])
    spread = {name: np.empty((len(attack), len(image), len(shown))) for name in ("lowest", "highest", "below")}
    orders = np.empty((len(attack), len(image), len(shown), 15))
    for k, ab in enumerate(shown):
        effects = joint_effects(v, ab)
        spread["lowest"][..., k], spread["highest"][..., k] = effects.min(-1), effects.max(-1)
        spread["below"][..., k] = 100 * (effects < 0).mean(-1)
        for s in range(15):
            orders[..., k, s] = effects[..., sizes == s].mean(-1)
    matrix = tables["interaction"][pick]
    return {
        "x": Table(tables["x"][list(image)], ("image",)),
        **perturbation_frames("delta", tables["delta"][pick], ("attack", "image")),
        "v": Table(v, ("attack", "image", "coalition")),
        "units": Table(shown.astype(np.uint8), ("pair",)),
        "interaction": Table(matrix, ("attack", "image")),
        "pairwise": Table(matrix[..., shown[:, 0], shown[:, 1]], over),
        "orders": Table(orders, over),
        **{name: Table(data, over) for name, data in spread.items()},
    }


def joint_effects(v: np.ndarray, pair: Sequence[int]) -> np.ndarray:
    """float32 (…, 2ⁿ⁻²): Δv(a, b | S) for every context S without a and b, in rising order of S, from v (…, 2ⁿ) over all coalitions."""
    a, b = (1 << int(u) for u in pair)
    S = np.arange(v.shape[-1])
    S, v = S[(S & (a | b)) == 0], v.astype(np.float32)
    return v[..., S | a | b] - v[..., S | a] - v[..., S | b] + v[..., S]


def write() -> None:
    """Write both files, with what they were made by inside."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    made_by = {
        "command": "python -m irlib.replicate coalitions", "network": NETWORK, "sources": SOURCES, "attacks": ATTACKS, "eps": "8/255", "steps": 10,
        "attack_seed": 0, "image_seeds": {"explorer": 0, "study": 1}, "utility": "ce", "device": "cpu",
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
    }  # fmt: skip
    for make in (explorer, study):
        np.savez_compressed(RESULTS / f"{make.__name__}.npz", made_by=json.dumps(made_by), **make())
