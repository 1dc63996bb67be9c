"""What `irlib.replicate.methods` measured, judged by the book's rule: method against PGD on the same images, a bootstrap interval over images.

A claim "smaller than PGD's" holds on a source if the 95 % interval of the paired difference lies below 0, fails if above, and else is undecided. In
the column "beta" the interactions of the images span many orders of magnitude, since βλ₁ is the same and the loss is not; every image counts the
same there: the difference is that of the fraction of images with a smaller interaction from a half, negative where the method's is smaller.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from typing import Any

import numpy as np

from irlib import plotting
from irlib.replicate import store
from irlib.replicate.methods import FOLDER
from irlib.replicate.presets import PRESETS
from irlib.transfer import Interval, interval

PRESET = "quick"
INTERACTIONS = ("ce", "margin", "altered")
COLUMNS = {"beta": "raw gradients, same β", "tau": "same ‖δ‖₂", "linf": "as published"}


@dataclass(frozen=True)
class Judged:
    """A paired difference from the baseline, and what it says: in percent of its mean for interactions (with the margin, of their mean size), in
    points for success, else as measured.

    ``share`` is the fraction of images on which the method's value is the smaller one, ``images`` how many were compared: those whose δ reaches
    ‖δ‖₂ = τ under both (for PI, the length of PGD's).
    """

    difference: Interval
    verdict: str
    share: float
    images: int
    unit: str

    def __str__(self) -> str:
        digits = 2 if max(map(abs, self.difference)) < 1 else 0 if max(map(abs, self.difference)) >= 10 else 1
        mean, low, high = (f"{0.0 if round(v, digits) == 0 else v:+.{digits}f}".replace("-", "−") for v in self.difference)
        return f"{mean}{self.unit} [{low}, {high}]".replace(" ", "\u00a0").replace("\u00a0[", " [")  # a line breaks between the two only


@cache
def shard(source: str, method: str) -> dict[str, Any]:
    """One shard as stored. Raises FileNotFoundError with the command that makes it."""
    return store.read(FOLDER / PRESET / f"{source}-{method}.json", f"methods --preset {PRESET}")


def sources(method: str) -> list[str]:
    """The sources that the method was measured on."""
    return list(PRESETS[PRESET].where.get(method, PRESETS[PRESET].sources))


def has(method: str, column: str, quantity: str = "ce") -> bool:
    """Whether the method has this column and quantity: a method with an objective of its own has no "beta", few have "altered"."""
    return quantity in shard(sources(method)[0], method).get(column, {})


def values(source: str, method: str, column: str, quantity: str) -> np.ndarray:
    """float64 (images,): "ce", "margin", "altered" (mean interactions), "fooled" (fraction of targets), "utility", "rise", "norm", or with a
    suffix "/norm²" divided by ‖δ‖₂²."""
    if quantity.endswith("/norm²"):
        return values(source, method, column, quantity.removesuffix("/norm²")) / values(source, method, column, "norm") ** 2
    found = shard(source, method)[column]
    if quantity == "fooled":
        return np.array([[digit == "1" for digit in row] for row in found["fooled"]]).mean(0)
    return np.array(found[quantity], dtype=float)


def judged(method: str, column: str, quantity: str, source: str, baseline: str = "pgd") -> Judged:
    """The method less the baseline on one source."""
    beside = "linf" if (method, column) == ("pi", "tau") else column  # as long as PGD in its ℓ∞ ball
    used = np.ones(len(shard(source, method)["labels"]), dtype=bool)
    for name, where in ((method, column), (baseline, beside)):
        if where == "tau":
            used &= np.array(shard(source, name)["arrived"]) == 1
    own = values(source, method, column, quantity)[used]
    other = values(source, baseline, beside, quantity.replace("altered", "ce") if baseline == "pgd" else quantity)[used]
    smaller, kind = own < other, quantity.removesuffix("/norm²")
    if column == "beta" and kind in INTERACTIONS:
        difference, unit = interval(50 * np.sign(own - other)), " points"
    elif kind in INTERACTIONS:
        size = np.abs(other).mean() if kind == "margin" else abs(other.mean())  # the margin's interactions have both signs, their mean is near 0
        difference, unit = Interval(*(100 * np.array(interval(own - other)) / size)), " %"
    else:
        difference, unit = interval((100 if quantity == "fooled" else 1) * (own - other)), " points" if quantity == "fooled" else ""
    verdict = "holds" if difference.high < 0 else "fails" if difference.low > 0 else "undecided"
    return Judged(difference, verdict, float(smaller.mean()), int(used.sum()), unit)


def counts(method: str, column: str, quantity: str, baseline: str = "pgd") -> Counter:
    """How many sources say "holds", "fails", "undecided"."""
    return Counter(judged(method, column, quantity, source, baseline).verdict for source in sources(method))


def counted(method: str, column: str, quantity: str, baseline: str = "pgd") -> str:
    """The same in words: "holds on 2 of 3 sources, undecided on 1"."""
    found, total = counts(method, column, quantity, baseline), len(sources(method))
    parts = [f"{verdict} on {found[verdict]}" for verdict in ("holds", "fails", "undecided") if found[verdict]]
    return ", ".join([f"{parts[0]} of {total} source" + "s" * (total > 1), *parts[1:]])


def orders(method: str) -> np.ndarray:
    """float64 (images, 8): the mean interaction of each order over the pairs of a 3×3 grid, on the first source, at ‖δ‖₂ = τ."""
    return np.array(shard(PRESETS[PRESET].sources[0], method)["orders"])


def provenance() -> str:
    """One line that says what was measured, where and when."""
    preset = PRESETS[PRESET]
    log = [json.loads(line) for line in (FOLDER / PRESET / "log.jsonl").read_text().splitlines()]
    made = shard(preset.sources[0], "pgd")
    dates, commits = sorted({line["date"][:10] for line in log}), list(dict.fromkeys(line["commit"] for line in log))
    return (
        f"Preset “{PRESET}”: {preset.images} Fashion-MNIST images that every network has right, {preset.grid}×{preset.grid} cells; {made['device']}, "
        f"torch {made['versions']['torch'].split('+')[0]}, {' to '.join(dict.fromkeys((dates[0], dates[-1])))}, commit {', '.join(commits)}."
    )


def plain(source: str) -> str:
    """A network's name as the pages write it."""
    return source.removeprefix("fmnist-")


def rows(method: str, baseline: str = "pgd") -> Iterator[tuple[str, str, str, Judged]]:
    """(column, quantity, source, judged) of all that the table and the figure show."""
    for column in COLUMNS:
        for quantity in ("ce", "margin", "altered", "fooled", "utility"):
            if has(method, column, quantity):
                for source in sources(method):
                    yield column, quantity, source, judged(method, column, quantity, source, baseline)


NAMES = {
    "ce": "interaction, cross-entropy", "margin": "interaction, margin", "altered": "interaction in the attacked network",
    "fooled": "transfer success", "utility": "transfer utility",
}  # fmt: skip


class table:
    """An HTML table for the end of a cell: for every column and quantity, each source's difference from the baseline and what it says."""

    def __init__(self, method: str, baseline: str = "pgd"):
        found = {(column, quantity, source): j for column, quantity, source, j in rows(method, baseline)}
        head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in ("compared at", "quantity", *map(plain, sources(method))))
        lines = []
        for column, quantity in dict.fromkeys((c, q) for c, q, _ in found):
            cells = [found[column, quantity, source] for source in sources(method)]
            said = "".join(f"<td>{escape(str(j))}<br>{self.word(j, quantity)}</td>" for j in cells)
            lines.append(f'<tr><td>{COLUMNS[column]}</td><th scope="row">{NAMES[quantity]}</th>{said}</tr>')
        alike = "At the same β every image counts alike: the number is the share of images with the larger interaction less a half, in points."
        note = f"<p>{alike}</p>" if has(method, "beta") else ""
        body = f'<table class="table"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
        self.html = f'<div class="irw-table" tabindex="0">{body}</div>{note}'

    @staticmethod
    def word(j: Judged, quantity: str) -> str:
        if quantity in ("fooled", "utility"):
            return {"holds": "transfers worse", "fails": "transfers better", "undecided": "undecided"}[j.verdict]
        return {"holds": "smaller: holds", "fails": "larger: fails", "undecided": "undecided"}[j.verdict]

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return "Table: the method against plain PGD, by column, quantity and source"


def figure(method: str, token: str, baseline: str = "pgd") -> plotting.Shown:
    """Each source's change of interaction and of transfer success, with intervals, in the columns "tau" and "linf"; ``token``: the slot's colour."""
    fig, axes = plotting.figure(8, 0.7 + 0.34 * 2 * len(sources(method)), 2, sharey=True)
    said = []
    for ax, quantity, label in zip(axes, ("ce", "fooled"), ("mean interaction, % of PGD’s", "transfer success, points"), strict=True):
        lines = [(column, source) for column in ("tau", "linf") for source in sources(method)]
        for row, (column, source) in enumerate(lines):
            mean, low, high = judged(method, column, quantity, source, baseline).difference
            marker = {"tau": "o", "linf": "D"}[column]
            ax.plot([low, high], [row, row], color=plotting.colour(token))
            ax.plot(mean, row, marker=marker, color=plotting.colour(token), markerfacecolor=plotting.colour(token) if column == "tau" else "none")
            said.append(f"{plain(source)}, {COLUMNS[column]}: {NAMES[quantity]} {judged(method, column, quantity, source, baseline)}")
        ax.axvline(0, color=plotting.colour("pgd"), linewidth=1)
        ax.set(xlabel=f"change of {label}", ylim=(len(lines) - 0.5, -0.5))
        ax.set_yticks(range(len(lines)), [f"{plain(source)}, {COLUMNS[column]}" for column, source in lines])
    return plotting.show(fig, "Difference from plain PGD with its 95 % interval. " + "; ".join(said) + ".")


def by_order(method: str, token: str) -> plotting.Shown:
    """The mean interaction of each order for the method and for PGD, with intervals over images; `orders`."""
    fig, ax = plotting.figure(5.5, 3)
    said = []
    for name, which, dash, marker, shift in (("pgd", "pgd", "--", "s", -0.06), (method, token, "-", "o", 0.06)):
        found = [interval(column) for column in orders(name).T]
        means, low, high = np.array(found).T
        x = np.arange(len(means)) + shift
        ax.plot(x, means, dash, marker=marker, color=plotting.colour(which), label=name.upper())
        ax.vlines(x, low, high, color=plotting.colour(which), linewidth=1)
        said.append(f"{name}: " + ", ".join(f"{mean:.3g}" for mean in means))
    ax.axhline(0, color=plotting.colour("pgd"), linewidth=0.8)
    ax.set(xlabel="order: units in the context", ylabel="mean interaction of a pair")
    ax.legend()
    return plotting.show(fig, "Mean interaction by order. " + "; ".join(said) + ".")


def order_differences(method: str) -> Sequence[Interval]:
    """For each order the paired difference from PGD, an interval over images."""
    return [interval(column) for column in (orders(method) - orders("pgd")).T]
