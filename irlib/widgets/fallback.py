"""A sweep for readers without scripts, and for print: pictures at a few stops, and the numbers there in a table."""

import base64
import html
import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from irlib import plotting
from irlib.widgets.tables import digits

Entry = Callable[[str, Mapping[str, int]], np.ndarray]  # (table, positions of the sliders) -> its entry there


def fallback(spec: dict[str, Any], entry: Entry, stops: int = 4) -> str:
    """HTML for readers without scripts, and for print: the pictures at four stops of the first slider, and the numbers there in a table."""
    first, start = next(p for p in spec["params"] if "texts" in p), spec["start"]
    chosen = np.unique(np.linspace(0, len(first["values"]) - 1, stops).round().astype(int))
    states = [start | {first["name"]: int(i)} for i in chosen]
    others = "".join(f"; {p['label']} {p['texts'][start[p['name']]]}" for p in spec["params"] if "texts" in p and p is not first)
    caption = html.escape(f"{spec['title']}. At {first['label']} {', '.join(first['texts'][i] for i in chosen)}{others}.")
    pictures = [v for v in spec["views"] if v["kind"] == "picture"]
    image = f'<img alt="{caption}" src="data:image/png;base64,{_multiples(pictures, states, entry)}">' if pictures else ""
    rows = [[first["label"], *(first["texts"][i] for i in chosen)]]
    rows += [[r["label"], *(f"{digits(entry(r['table'], s).item())}{r['unit']}" for s in states)] for r in spec["readouts"]]
    cells = "".join(f"<tr><th>{html.escape(head)}</th>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for head, *row in rows)
    return f'<noscript class="irw-fallback">{image}<table><caption>{caption}</caption>{cells}</table></noscript>'


def _multiples(pictures: list[dict], states: list[dict[str, int]], entry: Entry) -> str:
    fig = Figure(figsize=(1.5 * len(states), 1.7 * len(pictures)), layout="constrained", facecolor="white")
    for view, axes in zip(pictures, fig.subplots(len(pictures), len(states), squeeze=False), strict=True):
        for state, ax in zip(states, axes, strict=True):
            modes = view.get("modes")
            image = np.tensordot(entry(modes, state), entry(view["basis"], state), 1) if modes else entry(view["frames"], state)
            limit = max(float(np.abs(image).max()), 1e-30)
            grey = view["map"] == "grey"
            ax.imshow(
                image, cmap="gray" if grey else plotting.DIVERGING, vmin=0 if grey else -limit, vmax=255 if grey else limit, interpolation="nearest"
            )
            ax.set_axis_off()
        axes[0].set_title(view["title"], fontsize=7, loc="left")
    out = io.BytesIO()
    fig.savefig(out, format="png", dpi=72, metadata={"Software": None})
    return base64.b64encode(out.getvalue()).decode()
