"""The sweep of the chapter on Hypothesis 1: Fig. 2 for every source, target, p and τ, with and without the settings that never reach τ."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from irlib.replicate.correlation import Settings, regression, settings
from irlib.widgets.sweep import Param, Sweep, Table, bars, scatter

Shards = Mapping[tuple[str, str], Mapping[str, Any]]
SCALE = 1000  # interactions are shown in thousandths
FAMILIES = (("fmnist-resnet14", "fmnist-resnet26"), ("fmnist-densenet22", "fmnist-densenet40"))


def target_groups(source: str, others: Sequence[str]) -> dict[str, list[str]]:
    """What transfer is averaged over, by name: the networks of the family that ``source`` is not of, one by one and together; each further
    network; and all of ``others``, the networks that are not the source."""
    family = next(f for f in FAMILIES if source not in f)
    alone = [name for name in others if name not in sum(FAMILIES, ())]
    pair = {"other family, both": list(family), "other family, shallow": [family[0]], "other family, deep": [family[1]]}
    return pair | {name: [name] for name in alone} | {"all eleven networks": list(others)}


def negative_correlation(shards: Shards) -> Sweep:
    """Sliders for source, target, p, τ and what is done with the settings that never reach τ: the cloud of Fig. 2, its line and its r.

    Args:
        shards: `irlib.replicate.fig2.published`, or the same layout for other networks or images.
    """
    sources = list(dict.fromkeys(source for source, _ in shards))
    first = shards[sources[0], "p2"]
    groups = list(target_groups(sources[0], first["targets"]))

    def compute(source: list[int], target: list[int], p: list[int], tau: list[float], unreached: list[int]) -> dict[str, Table]:
        return tables(shards, [sources[i] for i in source], [groups[i] for i in target], p, tau, unreached)

    return Sweep(
        "negative-correlation",
        "Transfer against interaction, one point a setting",
        [
            Param("source", "source", range(len(sources)), lambda i: sources[int(i)]),
            Param("target", "target", range(len(groups)), lambda i: groups[int(i)]),
            Param("p", "norm of the penalty p", (2, 5)),
            Param("tau", "length τ", first["taus"]),
            Param("unreached", "settings that fall short of τ", (0, 1), lambda k: ("left out", "kept")[int(k)]),
        ],
        compute,
        [
            scatter("each setting’s averages over images", "points", "mean interaction on the source, thousandths", "transfer utility", "line"),
            bars(
                "share of the images that reach τ, by setting, weakest penalty first",
                "share",
                [str(k + 1) for k in range(len(first["c"]))],
                token="measured",
            ),
        ],
        {
            "Pearson’s r": ("r", ""),
            "interval from": ("low", ""),
            "to": ("high", ""),
            "settings that fall short": ("left", ""),
            "images used": ("images", ""),
        },
        start={"source": 0, "target": 0, "p": 5, "tau": 0.6, "unreached": 0},
        caption="From {source} to {target}, p = {p}: with the settings that fall short of τ = {tau} {unreached}, r is {r}. "
        "{left} of the settings fall short.",
    )


def tables(
    shards: Shards, sources: Sequence[str], groups: Sequence[str], p: Sequence[int], tau: Sequence[float], unreached: Sequence[int]
) -> dict[str, Table]:
    """The tables of `negative_correlation` over source × target × p × τ × unreached (0: left out, 1: kept)."""
    shape = (len(sources), len(groups), len(p), len(tau), len(unreached))
    count = len(shards[sources[0], f"p{p[0]}"]["c"])
    points, line, r = np.zeros((*shape, count, 3)), np.full((*shape, 2, 2), np.nan), np.full((*shape, 3), np.nan)
    fewer = (shape[0], *shape[2:4])
    share, left, used = np.zeros((*fewer, count)), np.zeros(fewer), np.zeros(fewer)
    for at in np.ndindex(shape):
        shard = shards[sources[at[0]], f"p{p[at[2]]}"]
        found = settings(shard, tau[at[3]], target_groups(sources[at[0]], shard["targets"])[groups[at[1]]])
        everything = bool(unreached[at[4]])
        points[at], line[at] = cloud(found, everything)
        r[at] = found.correlation(everything)
        where = at[0], at[2], at[3]
        share[where], left[where], used[where] = found.arrived.mean(1), (~found.kept).sum(), found.used.sum()
    over, same = ("source", "target", "p", "tau", "unreached"), ("source", "p", "tau")
    return {
        "points": Table(points, over),
        "line": Table(line, over),
        **{name: Table(r[..., k], over) for k, name in enumerate(("r", "low", "high"))},
        "share": Table(share, same),
        "left": Table(left, same),
        "images": Table(used, same),
    }


def cloud(found: Settings, everything: bool) -> tuple[np.ndarray, np.ndarray]:
    """The points (settings, 3), x in thousandths, and the end points (2, 2) of the line through the filled ones, NaN for fewer than three."""
    kept = np.ones_like(found.kept) if everything else found.kept
    points = np.column_stack([found.points() * (SCALE, 1), kept])
    x, y = points[kept, 0], points[kept, 1]
    if len(x) < 3:
        return points, np.full((2, 2), np.nan)
    ends = np.array([x.min(), x.max()])
    return points, np.column_stack([ends, regression(x, y, ends)[0]])
