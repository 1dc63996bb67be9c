"""One widget for every sweep: Python evaluates a grid of parameters once, the browser looks results up and draws.

A chapter's widget is a function from parameter values to tables, and a list of views of those tables. The same function fills the grid
and, with a kernel, computes the points between its stops.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import traitlets

from irlib import plotting
from irlib.widgets.fallback import fallback
from irlib.widgets.tables import Coalition, Param, Table, coalition_tables, digits, grey_frames, joint_effect, pack, perturbation_frames
from irlib.widgets.views import bars, cells, grey_picture, heat, laid_out, lines, mode_picture, path, picture, scatter, waterfall

__all__ = [
    "Coalition", "Param", "Sweep", "Table", "bars", "cells", "grey_frames", "grey_picture", "heat", "lines", "mode_picture", "path",
    "perturbation_frames", "picture", "scatter", "waterfall",
]  # fmt: skip

_HERE = Path(__file__).parent


Compute = Callable[..., Mapping[str, Table]]  # compute(strength=[…], …) -> the tables over the product of those values


@dataclass
class _Grid:
    """What the kernel keeps of a sweep: never sent to the page."""

    compute: Compute
    params: dict[str, Param]
    tables: Mapping[str, Table]
    derived: Mapping[str, Table]  # of a coalition game: what the page looks up in v
    game: Mapping[str, Any]
    between: Mapping[str, float] | None = None  # the values shown, where they lie between the stops


class Sweep(anywidget.AnyWidget):
    """Sliders over a grid of precomputed results. ``index`` holds their positions, ``value`` the parameter values shown."""

    _esm = (_HERE / "views.js").read_text() + (_HERE / "sweep.js").read_text()
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
        *,
        caption: str,
        coalition_game: Mapping[str, str] | None = None,
    ):
        """Evaluate ``compute`` on all stops and lay out the ``views`` of its tables.

        Args:
            name: identifies the widget in the page; parameter names must be unique in a page, they are the keys of its links.
            compute: called with one list of values a parameter; returns the tables over their product (or over a part of the parameters).
            readouts: label → (table of one number an entry, unit).
            start: values the sliders start at; the first stop where none is given.
            caption: a sentence under the pictures, read out at every move: {parameter} stands for its value, {table} for that readout.
            coalition_game: names of two tables, "v" of v(S) over a `Coalition` and, if wanted, "pair" of two unit numbers. Views and readouts
                may then use `coalition_tables`' "inside" and "marginals" and, of the pair, "joint": v(S∪ab) − v(S∪a) − v(S∪b) + v(S∖ab).
        """
        stored = compute(**{p.name: list(p.values) for p in params})
        derived, game = {}, {}
        if coalition_game is not None:
            coalition = next(p for p in params if isinstance(p, Coalition))
            if any(p.open for p in params):
                raise ValueError("a sweep over coalitions has no values between its stops: no parameter may be open")
            derived = coalition_tables(stored[coalition_game["v"]], coalition)
            game = {"pair": None, **coalition_game, "param": coalition.name, "n": coalition.n}
        self._grid = _Grid(compute, {p.name: p for p in params}, stored, derived, game)
        tables = dict(stored) | {"colours": Table(plotting.diverging_colours())}
        directory, blob = pack(tables, {p.name: len(p.values) for p in params})
        index = {p.name: _stop(p, (start or {}).get(p.name, p.values[0])) for p in params}
        known = {p.name for p in params} | {table for table, _ in readouts.values()}
        if unknown := set(re.findall(r"{(\w+)}", caption)) - known:
            raise ValueError(f"the caption names {', '.join(sorted(unknown))}: it may name the parameters and readouts {', '.join(sorted(known))}")
        spec = {
            "name": name,
            "title": title,
            "params": [_slider(p) for p in params],
            "views": [laid_out(view, stored | derived, self._grid.params) for view in views],
            "readouts": [{"label": label, "table": table, "unit": unit} for label, (table, unit) in readouts.items()],
            "tables": directory,
            "start": index,
            "caption": caption,
            "game": game,
        }
        super().__init__(spec=spec, blob=blob, index=index)

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
        for name, value in values.items():
            if value not in self._grid.params[name].values:
                raise ValueError(f"{value} is no stop of {name}: {list(self._grid.params[name].values)}")
        return self._entry(table, {name: _stop(self._grid.params[name], value) for name, value in values.items()})

    def said(self, table: str, **values: float) -> str:
        """What the page writes for the readout of ``table``, where the sliders start or at these stops: for text that quotes the widget."""
        unit = next(r["unit"] for r in self.spec["readouts"] if r["table"] == table)
        start = {name: self._grid.params[name].values[i] for name, i in self.spec["start"].items()}
        return digits(self.at(table, **(start | values)).item()) + unit

    def _entry(self, table: str, index: Mapping[str, int]) -> np.ndarray:
        if table == "joint" and self._grid.game:
            v, pair, S = (self._grid.tables[self._grid.game["v"]], self._grid.tables[self._grid.game["pair"]], index[self._grid.game["param"]])
            return np.array(joint_effect(v.data[tuple(index[p] for p in v.over[:-1])], S, pair.data[tuple(index[p] for p in pair.over)]))
        found = self._grid.derived.get(table) or self._grid.tables[table]
        return np.asarray(found.data)[tuple(index[name] for name in found.over)]

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
        directory, blob = pack(self._grid.compute(**{n: [v] for n, v in new.items()}), dict.fromkeys(new, 1))
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
        display(HTML(fallback(self.spec, self._entry)))


def _stop(param: Param, value: float) -> int:
    """The position of the stop at ``value``, or else the nearest one; by arctangent, to which ∞ is a value like others."""
    if value in param.values:
        return param.values.index(value)
    return int(np.argmin([abs(math.atan(v) - math.atan(value)) for v in param.values]))


def _json(value: float) -> float | str:
    return value if math.isfinite(value) else "∞"


def _slider(p: Param) -> dict[str, Any]:
    if isinstance(p, Coalition):
        return {"name": p.name, "label": p.label, "units": p.n}
    return {
        "name": p.name,
        "label": p.label,
        "values": [_json(float(v)) for v in p.values],
        "texts": [p.show(v) for v in p.values],
        "keys": [f"{v:g}" for v in p.values],
        "open": p.open,
    }
