"""The attack as a game (Eq. 2–3): players are the cells of a grid over the perturbation, the reward of a coalition is the loss it adds."""

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from irlib import _check

CPU_BYTES = 256 * 2**20


class Game(Protocol):
    """What `irlib.shapley` and `irlib.interactions` need: ``n`` players, and v for bool coalitions (k, n) as float64 (batch, k), v(∅) = 0."""

    n: int

    def __call__(self, coalitions: Tensor) -> Tensor: ...


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
            y' is the largest other class at the full x + δ, the same for every S.
        chunk: images in one forward pass; by default as many as keep its memory under 256 MiB on the CPU, or half the free memory of a GPU.

    Raises ValueError or TypeError, with what to do, for inputs that `irlib` cannot make sense of.
    """

    def __init__(self, model: nn.Module, x: Tensor, delta: Tensor, y: Tensor, grid: int = 16, utility: str = "ce", chunk: int | None = None):
        _check.eval_mode(model)
        _check.images(x, model)
        _check.perturbation(delta, x)
        if utility not in UTILITIES:
            _check.unknown_name("utility", utility, UTILITIES)
        if chunk is not None:
            _check.at_least(chunk, 1, "chunk")
        self.model, self.x, self.delta, self.y, self.utility = model, x, delta.detach(), y, utility
        self.units = grid_cells(*x.shape[-2:], grid).to(x.device)
        self.n = grid * grid
        with torch.no_grad():
            with PassSize(model) as one:
                clean = model(x[:1])
            _check.logits(clean, 1)
            _check.labels(y, x, clean.shape[1])
            self.chunk = chunk or max(1, budget(x.device) // one.bytes)
            self._rival = self._rivals() if utility == "margin" else y
            self._empty = self._utilities(torch.zeros(1, 1, self.n, dtype=torch.bool, device=x.device))

    def __call__(self, coalitions: Tensor) -> Tensor:
        """float64 (batch, k): v of each coalition, bool (k, n) for all images alike or (batch, k, n)."""
        if not isinstance(coalitions, Tensor) or coalitions.dtype != torch.bool:
            raise TypeError(f"coalitions must be a bool tensor, got {_check.described(coalitions)}")
        shapes = f"(k, {self.n}) or ({len(self.x)}, k, {self.n})"
        if coalitions.ndim not in (2, 3) or coalitions.shape[-1] != self.n or (coalitions.ndim == 3 and len(coalitions) != len(self.x)):
            raise ValueError(f"coalitions must have shape {shapes}, got {tuple(coalitions.shape)}")
        each = coalitions.to(self.x.device)
        with torch.no_grad():
            return self._utilities(each if each.ndim == 3 else each[None]) - self._empty

    def _utilities(self, coalitions: Tensor) -> Tensor:
        """u(x + δ_S), float64 (batch, k), for coalitions (1 or batch, k, n); image and coalition run as one flat index through the chunks."""
        batch, k = len(self.x), coalitions.shape[1]
        values = torch.empty(batch * k, dtype=torch.float64, device=self.x.device)
        for flat in tqdm(torch.arange(batch * k, device=self.x.device).split(self.chunk), desc="v(S)", delay=2, leave=False):
            image = flat // k
            present = coalitions[image % len(coalitions), flat % k][:, None, self.units]
            z = self.model(self.x[image] + torch.where(present, self.delta[image], 0))
            values[flat] = UTILITIES[self.utility](z.double(), self.y[image], self._rival[image])
        return values.view(batch, k)

    def _rivals(self) -> Tensor:
        """y': for each image the largest class but y at the full perturbation."""
        parts = zip(self.x.split(self.chunk), self.delta.split(self.chunk), self.y.split(self.chunk), strict=True)
        return torch.cat([rivals(self.model(x + d), y) for x, d, y in parts])


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


def budget(device: torch.device) -> int:
    """Bytes that the passes of one chunk may occupy."""
    return torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else CPU_BYTES


class PassSize:
    """The bytes that a pass made meanwhile occupies, ``bytes``: a bound without a graph, and with one what the graph keeps for going back.

    A pass without gradients frees each activation once it is used. What lives at one time is the input with its copies, and at most about four
    tensors of the size of the largest layer output (a layer's input, its output, a residual shortcut, a work buffer).
    """

    def __init__(self, model: nn.Module):
        self._model = model
        self._parameters = {p.data_ptr() for p in model.parameters()}
        self._largest = self._input = self._kept = 0

    @property
    def bytes(self) -> int:
        return max(4 * (self._largest + self._input), self._kept)

    def __enter__(self) -> "PassSize":
        self._handles = [m.register_forward_hook(self._note) for m in self._model.modules()]
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._keep, lambda kept: kept)
        self._hooks.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._hooks.__exit__(*exception)
        for handle in self._handles:
            handle.remove()

    def _note(self, module: nn.Module, inputs: tuple, output: object) -> None:
        if isinstance(output, Tensor):
            self._largest = max(self._largest, output.nbytes)
        if module is self._model:
            self._input = max(self._input, inputs[0].nbytes)

    def _keep(self, tensor: Tensor) -> Tensor:
        self._kept += tensor.nbytes * (tensor.data_ptr() not in self._parameters)
        return tensor
