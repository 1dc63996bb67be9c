"""All methods at once: the cast, the table of verdicts, the cloud of methods on a source, the timeline."""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

import numpy as np

from irlib import plotting
from irlib.replicate import versus
from irlib.replicate.correlation import Settings
from irlib.transfer import Interval

# The twelve in the paper's order (of the adversarially trained sources the middle one), then the three of its Table 1: title, slot, year of the
# publication that the chapter cites.
SHOWN: Mapping[str, tuple[str, str, int]] = {
    "mi": ("MI", "direction", 2018), "linbp": ("LinBP", "network", 2020), "adv4": ("adversarially trained", "network", 2021),
    "pi": ("PI", "projection", 2020), "ia": ("IA", "network", 2022), "rap": ("RAP", "sampling", 2022), "il": ("IL", "objective", 2019),
    "vr": ("VR", "sampling", 2018), "sgm": ("SGM", "network", 2020), "ghost": ("GhostNet", "network", 2020), "fd": ("FD", "objective", 2020),
    "fi": ("FI", "objective", 2021), "ti": ("TI", "direction", 2019), "di": ("DI", "sampling", 2019), "aa": ("AA", "objective", 2019),
}  # fmt: skip


@dataclass(frozen=True)
class Cloud:
    """PGD and the methods on one source at the same ‖δ‖₂: ``points`` (methods, 2), the changes of mean interaction (% of PGD's) and of success
    (points) over the ``images`` that arrive under all of them, and Pearson's ``r`` between the two with its interval over images."""

    shown: dict[str, tuple[str, str]]
    points: np.ndarray
    r: Interval
    images: int


def across(source: str) -> Cloud:
    """The methods measured on ``source``. PI, which is compared at another length, is not among them."""
    shown = {"pgd": ("PGD", "pgd")} | {key: about[:2] for key, about in SHOWN.items() if key != "pi" and source in versus.sources(key)}
    interaction, success = (np.stack([versus.values(source, key, "tau", quantity) for key in shown]) for quantity in ("ce", "fooled"))
    settings = Settings(interaction, success, np.array([versus.shard(source, key)["arrived"] for key in shown]) == 1, share=0)
    means = settings.points()
    points = np.stack([100 * (means[:, 0] / means[0, 0] - 1), 100 * (means[:, 1] - means[0, 1])], 1)
    return Cloud(shown, points, settings.correlation(), int(settings.used.sum()))


class summary:
    """An HTML table for the end of a cell, which the book's pages sort by its headings: a row a method, averages over its sources."""

    def __init__(self):
        heads = ["method", "slot"]
        for column, words in versus.COLUMNS.items():
            heads += [f"interaction, {words}", f"smaller on, {words}"] if column != "beta" else [f"smaller on, {words}"]
        heads += [f"transfer, {versus.COLUMNS[column]}" for column in ("tau", "linf")]
        rows = "".join(self._row(key) for key in SHOWN)
        head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in heads)
        self.html = (
            f'<div class="irw-table" tabindex="0"><table class="table irw-sortable"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
        )

    @staticmethod
    def _row(key: str) -> str:
        title, slot, _ = SHOWN[key]
        cells, names = [], versus.sources(key)
        number = lambda value, digits, unit: (value, f"{value:+.{digits}f}{unit}".replace("-", "−"))
        mean = lambda column, quantity: float(np.mean([versus.judged(key, column, quantity, source).difference.mean for source in names]))
        for column in versus.COLUMNS:
            if not versus.has(key, column):
                cells += [(9.0, "–")]
                continue
            if column != "beta":
                cells.append(number(mean(column, "ce"), 0, " %"))
            smaller = versus.counts(key, column, "ce")["holds"]
            cells.append((smaller / len(names), f"{smaller} of {len(names)}"))
        cells += [number(mean(column, "fooled"), 1, " points") for column in ("tau", "linf")]
        said = "".join(f'<td data-value="{value:.6g}">{text}</td>' for value, text in cells)
        return f'<tr><th scope="row">{title}</th><td>{slot}</td>{said}</tr>'

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return "Table: every method against plain PGD"


def timeline() -> plotting.Shown:
    """When each method appeared, a row a slot."""
    slots = ("network", "objective", "sampling", "direction", "projection")
    fig, ax = plotting.figure(8, 3.4)
    said = []
    for row, slot in enumerate(slots):
        for year in sorted({about[2] for about in SHOWN.values()}):
            here = [title.replace("adversarially trained", "adv. trained") for title, of, when in SHOWN.values() if (of, when) == (slot, year)]
            if here:
                ax.plot(year, row, "o", color=plotting.colour(slot))
                ax.annotate("\n".join(here), (year, row), (7, 0), textcoords="offset points", va="center", fontsize=9, color=plotting.colour(slot))
                said.append(f"{year} {slot}: {', '.join(here)}")
    ax.set(ylim=(len(slots) - 0.4, -0.6), xlim=(2017.8, 2022.9))
    ax.set_yticks(range(len(slots)), slots)
    ax.set_xticks(range(2018, 2023))
    return plotting.show(fig, "The methods by year of publication and slot. " + "; ".join(said) + ".")
