"""The book's visual language: colours, the diverging map, axes, still figures. Nobody picks a colour elsewhere.

Colour means slot: one hue for each of the five slots, PGD grey, IR the accent; beside them theory (closed forms) and measurement. Colours are
CSS variables, so that widgets and still figures follow the page's light and dark mode; text takes the page's own colour.
"""

import html
import io
import re
from collections.abc import Iterable
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, MaxNLocator

# token: (light mode, dark mode); each at least 4.5:1 against its background
PALETTE = {
    "network": ("#0067a5", "#5cb3ee"),
    "objective": ("#a05a00", "#f0a742"),
    "sampling": ("#00785a", "#39c79d"),
    "direction": ("#8e44a3", "#d58fe8"),
    "projection": ("#6b6b00", "#c9c445"),
    "pgd": ("#5f6670", "#a7b0ba"),
    "ir": ("#c62f4b", "#ff7a90"),
    "theory": ("#7d3fb5", "#c9a0f5"),
    "measured": ("#1f2933", "#e8edf2"),
}
DARK = "html[data-theme=dark],html[theme=dark],body[data-jp-theme-light=false]"
DIVERGING = "RdBu_r"  # of every perturbation and every matrix of interactions: blue below zero, white at it, red above
INK = "#010203"  # stands for the page's text colour until the figure is in the page


def palette_css() -> str:
    """The palette as CSS variables ``--irw-token`` for both modes."""
    light, dark = ("".join(f"--irw-{token}:{pair[mode]};" for token, pair in PALETTE.items()) for mode in (0, 1))
    return f":root{{{light}}}{DARK}{{{dark}}}"


def colour(token: str) -> str:
    """The colour of ``token`` for Matplotlib; `show` makes it follow the page's mode."""
    return PALETTE[token][0]


def diverging_colours() -> np.ndarray:
    """uint8 (256, 3): the diverging map, for the browser."""
    return (mpl.colormaps[DIVERGING](np.linspace(0, 1, 256))[:, :3] * 255).round().astype(np.uint8)


def diverging_wash(values: np.ndarray, limit: float) -> np.ndarray:
    """float (…, 4): the diverging map's blue or red, thinner for smaller values and transparent at 0, for cells that carry text in both modes."""
    ends = mpl.colormaps[DIVERGING](np.where(np.asarray(values) < 0, 0.1, 0.9))
    ends[..., 3] = 0.55 * np.abs(values) / limit
    return ends


def axis(values: Iterable[float], log: bool = False, tight: bool = False) -> dict[str, Any]:
    """An axis that holds the finite ``values``: its domain, and ticks as (position, text). ``tight`` ends at the values, not at ticks."""
    finite = np.array([v for v in values if np.isfinite(v)], dtype=float)
    low, high = float(finite.min()), float(finite.max())
    if low == high:
        high = low + 1
    found = LogLocator(subs=(1, 2, 5), numticks=9).tick_values(low, high) if log else MaxNLocator(5).tick_values(low, high)
    ticks = [float(f"{t:.6g}") for t in found]
    domain = [low, high] if tight or log else [min(low, *ticks), max(high, *ticks)]
    return {"domain": domain, "log": log, "ticks": [[t, f"{t:g}".replace("-", "−")] for t in ticks if domain[0] <= t <= domain[1]]}


def figure(width: float = 7, height: float = 3, columns: int = 1, **kw: Any) -> tuple[Figure, Any]:
    """A figure in inches and its axes, in the book's style; hand it to `show`."""
    style = {
        "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False,
        "lines.linewidth": 1.8, "lines.markersize": 5, "axes.titlesize": 10,
    } | dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "axes.titlecolor"), INK)  # fmt: skip
    with mpl.rc_context(style):
        fig = Figure(figsize=(width, height), layout="constrained")
        axes = fig.subplots(1, columns, **kw)
    fig.irlib_style = style
    return fig, axes


class Shown:
    """A still figure for the page: inline SVG whose text and colours follow light and dark mode, with a description for who cannot see it."""

    def __init__(self, fig: Figure, alt: str):
        if not alt.strip():
            raise ValueError("a figure needs alt: one or two sentences that say what it shows")
        for text in fig.findobj(Text):
            if text.get_color() == "black":  # Matplotlib's default, for what was added after the axes: legends, annotations
                text.set_color(INK)
        for legend in fig.findobj(Legend):
            legend.set_frame_on(False)
        buffer = io.StringIO()
        # ids inside an SVG are the page's: salted with the description, two figures never share one
        with mpl.rc_context(fig.irlib_style | {"svg.hashsalt": alt}):
            fig.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        svg = buffer.getvalue()
        svg = svg[svg.index("<svg") :].replace(INK, "currentColor").replace("stroke: #000000", "stroke: currentColor")
        for token, (light, _) in PALETTE.items():
            svg = svg.replace(light, f"var(--irw-{token},{light})")
        svg = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', f'role="img" aria-label="{html.escape(alt)}"', svg, count=1)
        self.alt = alt
        # on a phone the figure keeps a readable size and scrolls in itself
        style = f"{palette_css()}.irw-figure{{overflow-x:auto}}.irw-figure svg{{width:100%;min-width:27rem;height:auto}}"
        self.html = f'<div class="irw-figure"><style>{style}</style>{svg}</div>'

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return f"Figure: {self.alt}"


def show(fig: Figure, alt: str) -> Shown:
    """The figure as the last value of a cell. ``alt`` says in words what it shows."""
    return Shown(fig, alt)
