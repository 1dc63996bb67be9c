"""What a sweep can show: each view is a dictionary that names tables; the browser draws it, `laid_out` gives it axes over whole tables."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from irlib import plotting
from irlib.widgets.tables import Param, Table, entry


def picture(title: str, frames: str, pixels: bool = True) -> dict[str, Any]:
    """View: the perturbation stored by `perturbation_frames` under that name, on the diverging map, its scale in 1/255 of a pixel's range.

    ``pixels=False``: other signed maps, such as interactions, whose scale is written as it is.
    """
    return {"kind": "picture", "title": title, "map": "diverging", "frames": frames, "scale": f"{frames}_scale", "pixels": pixels}


def grey_picture(title: str, frames: str) -> dict[str, Any]:
    """View: a uint8 image."""
    return {"kind": "picture", "title": title, "map": "grey", "frames": frames}


def mode_picture(title: str, weights: str, basis: str) -> dict[str, Any]:
    """View: the perturbation Σ_i weights_i · basis_i, added up in the browser."""
    return {"kind": "picture", "title": title, "map": "diverging", "modes": weights, "basis": basis}


def cells(title: str, delta: str, coalition: str, image: str | None = None) -> dict[str, Any]:
    """View and control: the perturbation stored by `perturbation_frames` on the units of a coalition, or the uint8 ``image`` plus it.

    The units are buttons over the picture, square cells row by row, that put a unit into the coalition or take it out.
    """
    return {"kind": "cells", "title": title, "frames": delta, "scale": f"{delta}_scale", "image": image, "coalition": coalition}


def bars(title: str, table: str, labels: Sequence[str], baseline: float = 0, token: str = "theory") -> dict[str, Any]:
    """View: one bar an entry, drawn from ``baseline``; its axis spans the whole table, so that bars at different stops compare."""
    return {"kind": "bars", "title": title, "table": table, "labels": list(labels), "baseline": baseline, "token": token}


def waterfall(title: str, table: str, labels: Sequence[str], total: str = "sum", token: str = "theory") -> dict[str, Any]:
    """View: signed contributions, each bar starting where the last one ended, and their sum as the last bar; the axis fits what is shown."""
    return {"kind": "waterfall", "title": title, "table": table, "labels": [*labels, total], "token": token}


def heat(title: str, table: str, rows: Sequence[str], columns: Sequence[str], diverging: bool = False) -> dict[str, Any]:
    """View: entries (rows, columns) as shaded cells, from 0 to the largest of the whole table, or symmetric about 0 on the diverging map."""
    return {"kind": "heat", "title": title, "table": table, "rows": list(rows), "columns": list(columns), "diverging": diverging}


def scatter(
    title: str, table: str, xlabel: str, ylabel: str, line: str | None = None, names: Sequence[str] = (), tokens: Sequence[str] = ()
) -> dict[str, Any]:
    """View: entries (points, 3) of x, y and 1 for a filled or 0 for a hollow point; the axes fit them.

    ``line``: entries (2, 2), its end points. ``names`` of the points: a hollow one is then not left out, a filled one has its name beside it;
    ``tokens`` are their colours.
    """
    points = {"names": list(names), "tokens": list(tokens)}
    return {"kind": "scatter", "title": title, "table": table, "xlabel": xlabel, "ylabel": ylabel, "line": line, **points}


Series = Mapping[str, tuple[str, str, str | None]]  # name → (table whose entries are the curve, colour token, dash pattern)


def lines(title: str, series: Series, cursor: str, xlabel: str, log: bool = False, ylog: bool = False) -> dict[str, Any]:
    """View: curves over the stops of the parameter ``cursor``, its position marked."""
    return {"kind": "lines", "title": title, "series": _series(series), "cursor": cursor, "xlabel": xlabel, "log": log, "ylog": ylog}


def path(title: str, series: Series, xs: str, xlabel: str, low: float, high: float) -> dict[str, Any]:
    """View: curves over the abscissas in table ``xs``, their end marked. The axis runs from ``low`` to ``high``; what lies beyond stops there."""
    return {"kind": "lines", "title": title, "series": _series(series), "xs": xs, "xlabel": xlabel, "y": plotting.axis([low, high])}


def laid_out(view: Mapping[str, Any], tables: Mapping[str, Table], params: Mapping[str, Param]) -> dict[str, Any]:
    """The view with its axes: their range over the whole table, and ticks."""
    view = dict(view)
    if view["kind"] == "bars":
        view["y"] = plotting.axis([view["baseline"], *_extremes(tables[view["table"]])])
    elif view["kind"] == "heat":
        view["limit"] = float(np.abs(tables[view["table"]].data).max())
        shape = [len(view["rows"]), len(view["columns"])]
        if entry(tables[view["table"]]) != shape:
            raise ValueError(f"heat {view['title']!r} needs entries of shape {shape}, table {view['table']!r} has {entry(tables[view['table']])}")
    if "xs" in view:
        view["x"] = plotting.axis(_extremes(tables[view["xs"]]))
    elif view["kind"] == "lines":
        log, ylog = view.pop("log"), view.pop("ylog")
        view["points"] = [float(v) for v in params[view["cursor"]].values]
        view["x"] = plotting.axis(view["points"], log=log, tight=True)
        ends = [v for q in view["series"] for v in _extremes(tables[q["table"]], positive=ylog)]
        view["y"] = plotting.axis(ends if ylog else [0.0, *ends], log=ylog)
    return view


def _extremes(table: Table, positive: bool = False) -> list[float]:
    values = np.asarray(table.data, dtype=float)
    values = values[np.isfinite(values) & ((values > 0) | (not positive))]
    return [float(values.min()), float(values.max())]


def _series(series: Series) -> list[dict[str, Any]]:
    return [{"name": name, "table": table, "token": token, "dash": dash} for name, (table, token, dash) in series.items()]
