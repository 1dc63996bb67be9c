"""The widget of the comparison page: two methods side by side, from the stored measurement and on one image."""

import numpy as np
from torch import Tensor

from irlib import create_attack, load_model
from irlib.game import AttackGame
from irlib.interactions import row_sums
from irlib.replicate import versus
from irlib.replicate.overview import SHOWN
from irlib.replicate.presets import METHODS, PRESETS
from irlib.widgets.sweep import Param, Sweep, Table, bars, grey_frames, grey_picture, perturbation_frames, picture, scatter

COLUMNS = ("tau", "linf")
GRID = 7


def perturbations(x: Tensor, y: Tensor, guide: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """δ as published (methods, sources, height, width) of one image (1, 1, height, width), and each cell's interactions (…, 7, 7) on the source.

    0 where the method was not measured on the source. ``guide`` is what AA aims at.
    """
    names = PRESETS[versus.PRESET].sources
    delta, cells = np.zeros((len(SHOWN), len(names), *x.shape[-2:])), np.zeros((len(SHOWN), len(names), GRID, GRID))
    for k, source in enumerate(names):
        plain = load_model(source)
        for m, name in enumerate(SHOWN):
            if source in versus.sources(name):
                method = METHODS[name]
                model = load_model(source + method.network) if method.network else plain
                found = create_attack(method.attack, model, **method.given, **({"guide": guide} if name == "aa" else {})).run(x, y).delta
                delta[m, k], cells[m, k] = found[0, 0], row_sums(AttackGame(plain, x, found, y, grid=GRID))[0].view(GRID, GRID)
    return delta, cells


def differences(quantity: str) -> np.ndarray:
    """float64 (methods, sources, columns): the judged difference from PGD; NaN where there is none."""
    names = PRESETS[versus.PRESET].sources
    found = np.full((len(SHOWN), len(names), len(COLUMNS)), np.nan)
    for m, name in enumerate(SHOWN):
        for k, source in enumerate(names):
            if source in versus.sources(name):
                found[m, k] = [versus.judged(name, column, quantity, source).difference.mean for column in COLUMNS]
    return found


def side_by_side(x: Tensor, y: Tensor, guide: Tensor) -> Sweep:
    """Sliders for two methods, the source and how they are matched: the stored averages, and one image x (1, 1, height, width) of label y (1,).

    ``guide``, of the same shape, is the image of another class that AA aims at.
    """
    delta, cells = perturbations(x, y, guide)
    interaction, margin, success = (differences(quantity) for quantity in ("ce", "margin", "fooled"))
    sources, names = PRESETS[versus.PRESET].sources, [title for title, *_ in SHOWN.values()]

    def compute(first: list[int], second: list[int], source: list[int], column: list[int]) -> dict[str, Table]:
        tables: dict[str, Table] = {"original": Table(grey_frames(x)[0])}
        for which, chosen in (("first", first), ("second", second)):
            over = (which, "source", "column")
            at = lambda found, chosen=chosen: found[np.ix_(chosen, source, column)]
            tables |= perturbation_frames(f"delta_{which}", delta[np.ix_(chosen, source)], over[:2])
            tables |= perturbation_frames(f"cells_{which}", cells[np.ix_(chosen, source)], over[:2])
            for name, found in (("interaction", interaction), ("margin", margin), ("success", success)):
                tables[f"{name}_{which}"] = Table(at(found), over)
        both = lambda name: np.stack(np.broadcast_arrays(
            tables[f"{name}_first"].data[:, None], tables[f"{name}_second"].data[None, :]), -1)  # fmt: skip
        over = ("first", "second", "source", "column")
        points = np.zeros((len(first), len(second), len(source), len(column), len(SHOWN), 3), dtype=np.float16)
        for c, found in enumerate((interaction, success)):
            points[..., c] = np.moveaxis(found[:, source][:, :, column], 0, -1)
        for i, a in enumerate(first):
            points[i, :, :, :, a, 2] = 1
        for j, b in enumerate(second):
            points[:, j, :, :, b, 2] = 1
        return tables | {
            "interactions": Table(np.concatenate([both("interaction"), both("margin")], -1), over),
            "successes": Table(both("success"), over),
            "points": Table(points, over),
        }

    return Sweep(
        "side-by-side",
        "Two methods side by side",
        [
            Param("first", "first method", range(len(SHOWN)), lambda k: names[int(k)]),
            Param("second", "second method", range(len(SHOWN)), lambda k: names[int(k)]),
            Param("source", "source", range(len(sources)), lambda k: versus.plain(sources[int(k)])),
            Param("column", "compared at", range(len(COLUMNS)), lambda k: versus.COLUMNS[COLUMNS[int(k)]]),
        ],
        compute,
        [
            grey_picture("image", "original"),
            picture("δ, first", "delta_first"),
            picture("δ, second", "delta_second"),
            picture("interactions by cell, first", "cells_first", pixels=False),
            picture("interactions by cell, second", "cells_second", pixels=False),
            scatter("all methods on this source; the two are filled", "points", "change of mean interaction, % of PGD’s", "change of success, points",
                    names=names, tokens=[slot for _, slot, _ in SHOWN.values()]),
            bars("change of mean interaction, % of PGD’s", "interactions", ["first", "second", "first, margin", "second, margin"]),
            bars("change of transfer success, points", "successes", ["first", "second"], token="measured"),
        ],
        {
            "interaction, first": ("interaction_first", " %"),
            "interaction, second": ("interaction_second", " %"),
            "success, first": ("success_first", " points"),
            "success, second": ("success_second", " points"),
        },
        start={"first": 0, "second": list(SHOWN).index("il"), "source": 0, "column": 0},
        caption="On {source}, compared with plain PGD ({column}): {first} changes the mean interaction by {interaction_first} and success by "
        "{success_first}; {second} by {interaction_second} and {success_second}. A dash: not measured on this source.",
    )  # fmt: skip
