"""One widget for every sweep: Python evaluates a grid of parameters once, the browser looks results up and draws.

A chapter's widget is a function from parameter values to tables, and a list of views of those tables. The same function fills the grid
and, with a kernel, computes the points between its stops.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import traitlets

from irlib import plotting
from irlib.widgets.fallback import fallback

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Param:
    """One slider: its name in links and calls, its label, its stops, and how a value reads. ``open`` values may lie between the stops."""

    name: str
    label: str
    values: Sequence[float]
    show: Callable[[float], str] = lambda value: f"{value:.3g}"
    open: bool = False


@dataclass(frozen=True)
class Table:
    """``data`` of shape (stops of each parameter in ``over`` …, shape of one entry …); float, int8 or uint8."""

    data: np.ndarray
    over: tuple[str, ...] = ()

    def entry(self) -> list[int]:
        return list(np.shape(self.data)[len(self.over) :])


Compute = Callable[..., Mapping[str, Table]]  # compute(strength=[…], …) -> the tables over the product of those values


def perturbation_frames(name: str, delta: np.ndarray, over: tuple[str, ...]) -> dict[str, Table]:
    """Perturbations (…, height, width) as int8 frames and the scale of each: a quarter of float32's weight, 1/254 of the range as error."""
    scale = np.abs(delta).max((-2, -1), keepdims=True)
    frames = np.rint(127 * delta / np.where(scale > 0, scale, 1)).astype(np.int8)
    return {name: Table(frames, over), f"{name}_scale": Table(scale[..., 0], over)}


def picture(title: str, frames: str) -> dict[str, Any]:
    """View: the perturbation stored by `perturbation_frames` under that name, on the diverging map."""
    return {"kind": "picture", "title": title, "map": "diverging", "frames": frames, "scale": f"{frames}_scale"}


def grey_picture(title: str, frames: str) -> dict[str, Any]:
    """View: a uint8 image."""
    return {"kind": "picture", "title": title, "map": "grey", "frames": frames}


def mode_picture(title: str, weights: str, basis: str) -> dict[str, Any]:
    """View: the perturbation Σ_i weights_i · basis_i, added up in the browser."""
    return {"kind": "picture", "title": title, "map": "diverging", "modes": weights, "basis": basis}


def bars(title: str, table: str, labels: Sequence[str], baseline: float = 0, token: str = "theory") -> dict[str, Any]:
    """View: one bar an entry, drawn from ``baseline``; its axis spans the whole table, so that bars at different stops compare."""
    return {"kind": "bars", "title": title, "table": table, "labels": list(labels), "baseline": baseline, "token": token}


Series = Mapping[str, tuple[str, str, str | None]]  # name → (table whose entries are the curve, colour token, dash pattern)


def lines(title: str, series: Series, cursor: str, xlabel: str, log: bool = False) -> dict[str, Any]:
    """View: curves over the stops of the parameter ``cursor``, its position marked."""
    return {"kind": "lines", "title": title, "series": _series(series), "cursor": cursor, "xlabel": xlabel, "log": log}


def path(title: str, series: Series, xs: str, xlabel: str, low: float, high: float) -> dict[str, Any]:
    """View: curves over the abscissas in table ``xs``, their end marked. The axis runs from ``low`` to ``high``; what lies beyond stops there."""
    return {"kind": "lines", "title": title, "series": _series(series), "xs": xs, "xlabel": xlabel, "y": plotting.axis([low, high])}


def _series(series: Series) -> list[dict[str, Any]]:
    return [{"name": name, "table": table, "token": token, "dash": dash} for name, (table, token, dash) in series.items()]


def _pack(tables: Mapping[str, Table], lengths: Mapping[str, int]) -> tuple[dict, bytes]:
    """The tables back to back, each at a multiple of four bytes, and the directory that finds them."""
    directory, parts, offset = {}, [], 0
    for name, table in tables.items():
        data = np.ascontiguousarray(table.data)
        data = data if data.dtype in (np.int8, np.uint8) else data.astype("<f4")
        expected = tuple(lengths[p] for p in table.over)
        if data.shape[: len(table.over)] != expected:
            raise ValueError(f"table {name!r} over {table.over} must start with shape {expected}, got {data.shape}")
        raw = data.tobytes()
        over = [[p, lengths[p]] for p in table.over]
        directory[name] = {"dtype": data.dtype.name, "offset": offset, "count": data.size, "over": over, "shape": table.entry()}
        parts += [raw, b"\0" * (-len(raw) % 4)]
        offset += len(raw) + len(parts[-1])
    return directory, b"".join(parts)


@dataclass
class _Grid:
    """What the kernel keeps of a sweep: never sent to the page."""

    compute: Compute
    params: dict[str, Param]
    tables: Mapping[str, Table]
    between: Mapping[str, float] | None = None  # the values shown, where they lie between the stops


class Sweep(anywidget.AnyWidget):
    """Sliders over a grid of precomputed results. ``index`` holds their positions, ``value`` the parameter values shown."""

    _esm = _HERE / "sweep.js"
    _css = plotting.palette_css() + (_HERE / "sweep.css").read_text()

    spec = traitlets.Dict().tag(sync=True)  # title, sliders, views, readouts, and the directory of the tables
    blob = traitlets.Bytes(b"").tag(sync=True)  # the tables; travels as a binary buffer
    index = traitlets.Dict().tag(sync=True)
    wanted = traitlets.Dict().tag(sync=True)  # values between the stops, asked for by the page
    point = traitlets.Dict().tag(sync=True)  # the answer: its values, and the directory of point_blob
    point_blob = traitlets.Bytes(b"").tag(sync=True)
    problem = traitlets.Unicode("").tag(sync=True)  # why the page did not get what it asked for

    def __init__(
        self,
        name: str,
        title: str,
        params: Sequence[Param],
        compute: Compute,
        views: Sequence[Mapping[str, Any]],
        readouts: Mapping[str, tuple[str, str]],
        start: Mapping[str, float] | None = None,
    ):
        """Evaluate ``compute`` on all stops and lay out the ``views`` of its tables.

        Args:
            name: identifies the widget in the page; parameter names must be unique in a page, they are the keys of its links.
            compute: called with one list of values a parameter; returns the tables over their product (or over a part of the parameters).
            readouts: label → (table of one number an entry, unit).
            start: values the sliders start at; the first stop where none is given.
        """
        self._grid = _Grid(compute, {p.name: p for p in params}, compute(**{p.name: list(p.values) for p in params}))
        tables = dict(self._grid.tables) | {"colours": Table(plotting.diverging_colours())}
        directory, blob = _pack(tables, {p.name: len(p.values) for p in params})
        index = {p.name: _stop(p, (start or {}).get(p.name, p.values[0])) for p in params}
        spec = {
            "name": name,
            "title": title,
            "params": [_slider(p) for p in params],
            "views": [self._laid_out(view) for view in views],
            "readouts": [{"label": label, "table": table, "unit": unit} for label, (table, unit) in readouts.items()],
            "tables": directory,
            "start": index,
        }
        super().__init__(spec=spec, blob=blob, index=index)

    def _laid_out(self, view: Mapping[str, Any]) -> dict[str, Any]:
        """The view with its axes: their range over the whole table, and ticks."""
        view, tables = dict(view), self._grid.tables
        if view["kind"] == "bars":
            view["y"] = plotting.axis([view["baseline"], *tables[view["table"]].data.ravel()])
        if "xs" in view:
            view["x"] = plotting.axis(tables[view["xs"]].data.ravel())
        elif view["kind"] == "lines":
            view["points"] = [float(v) for v in self._grid.params[view["cursor"]].values]
            view["x"] = plotting.axis(view["points"], log=view.pop("log"), tight=True)
            view["y"] = plotting.axis(np.concatenate([[0.0], *(tables[q["table"]].data.ravel() for q in view["series"])]))
        return view

    @property
    def value(self) -> dict[str, float]:
        """The parameter values shown."""
        if self.point and self._grid.between is not None:
            return dict(self._grid.between)
        return {n: p.values[self.index[n]] for n, p in self._grid.params.items()}

    def table(self, name: str) -> Table:
        """A table over the whole grid, as computed, before it was packed for the page."""
        return self._grid.tables[name]

    def at(self, table: str, **values: float) -> np.ndarray:
        """The entry of ``table`` at these parameter values, each a stop of its slider. Raises ValueError for a value between the stops."""
        found = self._grid.tables[table]
        for name in found.over:
            if values[name] not in self._grid.params[name].values:
                raise ValueError(f"{values[name]} is no stop of {name}: {list(self._grid.params[name].values)}")
        return np.asarray(found.data)[tuple(_stop(self._grid.params[name], values[name]) for name in found.over)]

    def move(self, **values: float) -> None:
        """Show these parameter values; between the stops they are computed now. Raises ValueError for an unknown name or value."""
        for name in values:
            if name not in self._grid.params:
                raise ValueError(f"{self!r} has no parameter {name!r}; it has {', '.join(self._grid.params)}")
        new = self.value | values
        stops = {n: _stop(p, new[n]) for n, p in self._grid.params.items()}
        if all(self._grid.params[n].values[i] == new[n] for n, i in stops.items()):
            self.point, self.index = {}, stops
            return
        for n, p in self._grid.params.items():
            if not p.open and p.values[stops[n]] != new[n]:
                raise ValueError(f"{n} must be one of {list(p.values)}, got {new[n]}")
        directory, blob = _pack(self._grid.compute(**{n: [v] for n, v in new.items()}), dict.fromkeys(new, 1))
        texts = {n: p.show(new[n]) for n, p in self._grid.params.items()}
        with self.hold_sync():
            self._grid.between, self.point_blob, self.index = new, blob, stops
            self.point = {"values": {n: _json(v) for n, v in new.items()}, "texts": texts, "tables": directory}

    @traitlets.observe("wanted")
    def _answer(self, change: Any) -> None:
        if not change["new"]:
            return
        self.wanted, self.problem = {}, ""
        try:
            self.move(**change["new"])
        except (ValueError, OverflowError) as error:
            self.problem = str(error)  # the reader sees it in the widget; a kernel's log nobody does

    def __repr__(self) -> str:  # anywidget's own has a memory address, which no two builds share
        return f"Sweep({self.spec['title']!r}, " + ", ".join(f"{n}: {len(p.values)} stops" for n, p in self._grid.params.items()) + ")"

    def _ipython_display_(self) -> None:
        from IPython.display import HTML, display

        data, metadata = self._repr_mimebundle_()
        display(data, metadata=metadata, raw=True)
        display(HTML(fallback(self.spec, self._grid.tables)))


def _stop(param: Param, value: float) -> int:
    """The position of the stop at ``value``, or else the nearest one; by arctangent, to which ∞ is a value like others."""
    return int(np.argmin([abs(math.atan(v) - math.atan(value)) for v in param.values]))


def _json(value: float) -> float | str:
    return value if math.isfinite(value) else "∞"


def _slider(p: Param) -> dict[str, Any]:
    return {
        "name": p.name,
        "label": p.label,
        "values": [_json(float(v)) for v in p.values],
        "texts": [p.show(v) for v in p.values],
        "keys": [f"{v:g}" for v in p.values],
        "open": p.open,
    }
