"""The attack as a game (Eq. 2–3): players are the cells of a grid over the perturbation, the reward of a coalition is the loss it adds."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from irlib import _check
from irlib.memory import PassSize, budget, in_parts


class Game(Protocol):
    """What `irlib.shapley` and `irlib.interactions` need: ``n`` players, and v for bool coalitions (k, n) as float64 (batch, k), v(∅) = 0."""

    n: int

    def __call__(self, coalitions: Tensor) -> Tensor: ...


class TableGame:
    """A game given by the values of all its coalitions, float (2ⁿ,) or (batch, 2ⁿ), in the order of `irlib.shapley.coalition_table`.

    Unit a belongs to coalition number S where bit a of S is set. v(∅) is subtracted. Raises ValueError where the values are not 2ⁿ in number.
    """

    def __init__(self, values: Tensor | np.ndarray):
        values = torch.atleast_2d(torch.as_tensor(values).double())
        self.values, self.n = values - values[:, :1], values.shape[1].bit_length() - 1
        if values.ndim != 2 or values.shape[1] != 2**self.n:
            raise ValueError(f"a table of all coalitions has 2^n values, one row a game, got shape {tuple(values.shape)}")

    def __call__(self, coalitions: Tensor) -> Tensor:
        return self.values[:, (coalitions.long() << torch.arange(self.n).to(coalitions.device)).sum(-1)]


def grid_cells(height: int, width: int, grid: int) -> Tensor:
    """int64 (height, width): the unit each pixel belongs to, row by row. Pixel row r lies in cell row ⌊r·grid/height⌋, columns likewise."""
    _check.at_least(grid, 1, "grid")
    if grid > min(height, width):
        raise ValueError(f"grid={grid} is larger than the {height}×{width} image: use at most {min(height, width)}")
    return torch.arange(height)[:, None] * grid // height * grid + torch.arange(width) * grid // width


class AttackGame:
    """v(S) = u(x + δ_S) − u(x) for coalitions S of grid cells; δ_S keeps δ on the cells of S and is 0 elsewhere.

    Args:
        model: images (batch, channels, height, width) in [0, 1] to logits; in eval mode. It is called without gradients and left as it is.
        x: images, of the model's dtype and on its device.
        delta: one perturbation an image, of x's shape; x + delta may leave [0, 1], as raw gradient attacks do.
        y: int64 labels (batch,).
        grid: cells a side; the players are the n = grid² cells of `grid_cells`, with all their channels.
        utility: u, "ce" for the cross-entropy (the paper's text, Eq. 3), "margin" for z_y' − z_y (the authors' code and Fig. 3), where
            y' is the largest other class at the full x + δ, the same for every S. Or a tuple of them, from the same forward passes: v and all
            that is linear in it, such as `irlib.total_interaction`, then has one more axis, the last.
        chunk: images in one forward pass; by default as many as keep its memory under 256 MiB on the CPU, or half the free memory of a GPU.
            Where memory runs out all the same, the chunk is halved, and a warning says so.
        precision: torch.bfloat16 or torch.float16 to run the network's convolutions and products in it (autocast), for speed on a GPU. The
            utilities are float64 sums of what comes out, so what is lost is lost inside the network: `precision_error` measures it. Off (None)
            by default, since it is often more than 1 % of the total interaction.

    Attributes: ``n``, the players; ``units``, the cell of every pixel; ``rival``, y' (y itself for "ce"); ``chunk``, as it came down to; and the
    arguments. A model on a GPU is fastest with channels-last weights, as `irlib.load_model` returns them, and under torch.compile: hand in
    torch.compile(model). Raises ValueError or TypeError, with what to do, for inputs that `irlib` cannot make sense of.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        delta: Tensor,
        y: Tensor,
        grid: int = 16,
        utility: str | tuple[str, ...] = "ce",
        chunk: int | None = None,
        precision: torch.dtype | None = None,
    ):
        _check.eval_mode(model)
        _check.images(x, model)
        _check.computable(x)
        _check.perturbation(delta, x)
        self._names = (utility,) if isinstance(utility, str) else tuple(utility)
        for name in self._names:
            if name not in UTILITIES:
                _check.unknown_name("utility", name, UTILITIES)
        if chunk is not None:
            _check.at_least(chunk, 1, "chunk")
        if precision not in (None, torch.bfloat16, torch.float16):
            raise ValueError(f"precision must be torch.bfloat16, torch.float16, or None for the model's own, got {precision}")
        if precision and x.dtype != torch.float32:
            raise TypeError(f"precision={precision} lowers that of float32 images and models, x is {x.dtype}: use x.float() and model.float()")
        self.model, self.x, self.delta, self.y, self.utility, self.precision = model, x, delta.detach(), y, utility, precision
        self.units = grid_cells(*x.shape[-2:], grid).to(x.device)
        self.n = grid * grid
        with torch.no_grad(), self._autocast():
            with PassSize(model) as one:
                first = model(x[:1])
            _check.logits(first, 1)
            _check.labels(y, x, first.shape[1])
            self.chunk = chunk or max(1, budget(x.device) // one.bytes)
            self.rival = rivals(torch.cat(self._logits(x + self.delta)), y) if "margin" in self._names else y
            clean = torch.cat([first, *self._logits(x[1:])])
        self._empty = self._finite(self._of(clean, y, self.rival)[:, None], torch.zeros(1, 1, self.n, dtype=torch.bool))

    def __call__(self, coalitions: Tensor | np.ndarray) -> Tensor | np.ndarray:
        """float64 (batch, k), or (batch, k, utilities): v of each coalition, bool (k, n) for all images alike or (batch, k, n).

        A NumPy array of coalitions (k, n) or of one (n,) gives one of values (k,), for a game of one image: what shapiq calls. Raises ValueError
        that names the image and the coalition where a utility is not finite.
        """
        if isinstance(coalitions, np.ndarray):
            if len(self.x) != 1:
                raise ValueError(f"NumPy coalitions are for a game of one image, this one has {len(self.x)}: make a game of each, x[i : i + 1]")
            return self(torch.from_numpy(np.atleast_2d(coalitions).astype(bool)))[0].cpu().numpy()
        if not isinstance(coalitions, Tensor) or coalitions.dtype != torch.bool:
            raise TypeError(f"coalitions must be a bool tensor, got {_check.described(coalitions)}")
        shapes = f"(k, {self.n}) or ({len(self.x)}, k, {self.n})"
        if coalitions.ndim not in (2, 3) or coalitions.shape[-1] != self.n or (coalitions.ndim == 3 and len(coalitions) != len(self.x)):
            raise ValueError(f"coalitions must have shape {shapes}, got {tuple(coalitions.shape)}")
        each = coalitions.to(self.x.device)
        with torch.no_grad():
            return self._utilities(each if each.ndim == 3 else each[None]) - self._empty

    def _utilities(self, coalitions: Tensor) -> Tensor:
        """u(x + δ_S), float64 (batch, k, …), for coalitions (1 or batch, k, n); image and coalition run as one flat index through the chunks."""
        batch, k = len(self.x), coalitions.shape[1]
        values = torch.empty(batch * k, *self._empty.shape[2:], dtype=torch.float64, device=self.x.device)

        def part(start: int, stop: int) -> None:
            flat = torch.arange(start, stop, device=self.x.device)
            image = flat // k
            rows = coalitions.flatten(0, 1)[image % len(coalitions) * k + flat % k]
            present = rows.index_select(1, self.units.flatten()).view(-1, 1, *self.units.shape)  # twice as fast as rows[:, self.units]
            with self._autocast():
                z = self.model(self.x[image] + torch.where(present, self.delta[image], 0))
            values[start:stop] = self._of(z, self.y[image], self.rival[image])
            bar.update(stop - start)

        with tqdm(total=batch * k, desc="v(S)", delay=2, leave=False) as bar:
            self.chunk = min(self.chunk, in_parts(part, batch * k, self.chunk))
        return self._finite(values.unflatten(0, (batch, k)), coalitions)

    def _of(self, z: Tensor, y: Tensor, rival: Tensor) -> Tensor:
        """u of the logits z (rows, classes): float64 (rows,), or (rows, utilities) of several."""
        values = [UTILITIES[name](z.double(), y, rival) for name in self._names]
        return values[0] if isinstance(self.utility, str) else torch.stack(values, -1)

    def _finite(self, values: Tensor, coalitions: Tensor) -> Tensor:
        """The utilities (batch, k, …) of coalitions (1 or batch, k, n), or the error that says which one is not finite."""
        if not torch.isfinite(values).all():
            i, s, *which = (~torch.isfinite(values)).nonzero()[0].tolist()
            cells = coalitions[i % len(coalitions), s].nonzero()[:, 0].tolist()
            name = self._names[which[0] if which else 0]
            raise ValueError(
                f"the utility {name!r} is {values[(i, s, *which)].item()} for image {i} and the coalition of {len(cells)} of {self.n} cells {cells}: "
                "the model's logits there are not finite; look at model(x + δ_S), or take precision=None or torch.bfloat16 if it is torch.float16"
            )
        return values

    def _logits(self, images: Tensor) -> list[Tensor]:
        """The model's logits, in parts."""
        parts = []
        self.chunk = min(self.chunk, in_parts(lambda start, stop: parts.append(self.model(images[start:stop])), len(images), self.chunk))
        return parts

    def _autocast(self) -> AbstractContextManager:
        return torch.autocast(self.x.device.type, self.precision) if self.precision else nullcontext()


def rivals(z: Tensor, y: Tensor) -> Tensor:
    """y': for each row of the logits z (rows, classes) the largest class but y."""
    return z.detach().scatter(1, y[:, None], -torch.inf).argmax(1)


def cross_entropy(z: Tensor, y: Tensor, rival: Tensor) -> Tensor:
    """−log softmax(z)_y."""
    return F.cross_entropy(z, y, reduction="none")


def margin(z: Tensor, y: Tensor, rival: Tensor) -> Tensor:
    """z_y' − z_y."""
    return (z.gather(1, rival[:, None]) - z.gather(1, y[:, None]))[:, 0]


UTILITIES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"ce": cross_entropy, "margin": margin}
