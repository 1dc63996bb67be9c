"""What a sweep is made of: parameters with their stops, tables over them, and how a number reads."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Context

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Param:
    """One slider: its name in links and calls, its label, its stops, and how a value reads. ``open`` values may lie between the stops."""

    name: str
    label: str
    values: Sequence[float]
    show: Callable[[float], str] = lambda value: f"{value:.3g}"
    open: bool = False


@dataclass(frozen=True)
class Coalition(Param):
    """A coalition of ``n`` units, instead of a slider the buttons of a `cells` view: its stops are 0 … 2ⁿ − 1, unit a is in it where bit a is set."""

    values: Sequence[float] = field(init=False)
    n: int = 16

    def __post_init__(self):
        object.__setattr__(self, "values", range(2**self.n))
        object.__setattr__(self, "show", lambda value: f"{int(value).bit_count()} of {self.n} units")


@dataclass(frozen=True)
class Table:
    """``data`` of shape (stops of each parameter in ``over`` …, shape of one entry …); float, float16, int8 or uint8."""

    data: np.ndarray
    over: tuple[str, ...] = ()


def entry(table: Table) -> list[int]:
    """The shape of one entry."""
    return list(np.shape(table.data)[len(table.over) :])


def perturbation_frames(name: str, delta: np.ndarray, over: tuple[str, ...]) -> dict[str, Table]:
    """Perturbations (…, height, width) as int8 frames and the scale of each: a quarter of float32's weight, 1/254 of the range as error."""
    scale = np.abs(delta).max((-2, -1), keepdims=True)
    frames = np.rint(127 * delta / np.where(scale > 0, scale, 1)).astype(np.int8)
    return {name: Table(frames, over), f"{name}_scale": Table(scale[..., 0], over)}


def grey_frames(x: Tensor) -> np.ndarray:
    """uint8 (…, height, width): the grey levels of images (…, 1, height, width) in [0, 1]."""
    return (255 * x[..., 0, :, :]).round().to(torch.uint8).numpy()


def pack(tables: Mapping[str, Table], lengths: Mapping[str, int]) -> tuple[dict, bytes]:
    """The tables back to back, each at a multiple of four bytes, and the directory that finds them."""
    directory, parts, offset = {}, [], 0
    for name, table in tables.items():
        data = np.ascontiguousarray(table.data)
        data = data if data.dtype in (np.int8, np.uint8, np.float16) else data.astype("<f4")
        expected = tuple(lengths[p] for p in table.over)
        if data.shape[: len(table.over)] != expected:
            raise ValueError(f"table {name!r} over {table.over} must start with shape {expected}, got {data.shape}")
        raw = data.tobytes()
        over = [[p, lengths[p]] for p in table.over]
        directory[name] = {"dtype": data.dtype.name, "offset": offset, "count": data.size, "over": over, "shape": entry(table)}
        parts += [raw, b"\0" * (-len(raw) % 4)]
        offset += len(raw) + len(parts[-1])
    return directory, b"".join(parts)


def digits(value: float) -> str:
    """A number as the page writes it: the float32 it was sent, to three digits, as JavaScript prints those."""
    value = float(np.float32(value))
    if not np.isfinite(value):
        return "–"
    rounded = float(Context(prec=3, rounding=ROUND_HALF_UP).create_decimal_from_float(value))
    if rounded == 0 or 1e-6 <= abs(rounded) < 1e21:
        text = np.format_float_positional(rounded, trim="-")
    else:
        mantissa, exponent = np.format_float_scientific(rounded, trim="-").split("e")
        text = f"{mantissa}e{int(exponent):+d}"
    return text.replace("-", "−")


def coalition_tables(v: Table, coalition: Coalition) -> dict[str, Table]:
    """What the page derives from v(S) by looking up neighbours of S: ``inside`` = v(S), ``marginals`` = v(S∪a) − v(S∖a) for every unit a.

    ``v`` must run over the coalition as its last parameter, with one number an entry.
    """
    if v.over[-1:] != (coalition.name,) or entry(v):
        raise ValueError(f"v must be a table of single numbers whose last parameter is {coalition.name!r}, got {v.over} with entries {entry(v)}")
    values, sets, units = np.asarray(v.data, dtype=np.float32), np.arange(2**coalition.n)[:, None], 1 << np.arange(coalition.n)
    return {"inside": Table(values, v.over), "marginals": Table(values[..., sets | units] - values[..., sets & ~units], v.over)}


def joint_effect(v: np.ndarray, S: int, pair: Sequence[int]) -> float:
    """v(S∪ab) − v(S∪a) − v(S∪b) + v(S∖ab) for the pair of units (a, b), from v (2ⁿ,) over all coalitions."""
    a, b = (1 << int(u) for u in pair)
    rest = S & ~a & ~b
    return float(v[rest | a | b]) - float(v[rest | a]) - float(v[rest | b]) + float(v[rest])
