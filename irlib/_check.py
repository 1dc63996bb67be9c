"""Checks of what a caller hands in. Each error says what was wrong, what was expected, and what to do."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import NoReturn

import torch
from torch import Tensor, nn

PIXEL_TOLERANCE = 1e-4


def unknown_name(kind: str, name: str, known: Collection[str]) -> NoReturn:
    """Raise the error for a name that nobody knows, with the nearest known ones."""
    near = get_close_matches(str(name), sorted(known), n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(sorted(known))}"
    raise ValueError(f"unknown {kind} {name!r}; {hint}")


def eval_mode(model: nn.Module) -> None:
    """The model is an nn.Module with no part in train mode."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module that maps images to logits, got {type(model).__name__}")
    for name, module in model.named_modules():
        if module.training:
            where = f"its module {name!r} is" if name else "it is"
            raise ValueError(f"model must be in eval mode, but {where} in train mode: call model.eval() first")


def images(x: Tensor, model: nn.Module | None = None, name: str = "x") -> None:
    """A finite floating (batch, channels, height, width) tensor in [0, 1], of the model's dtype and on its device."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor of images, got {type(x).__name__}")
    if x.ndim != 4 or x.numel() == 0:
        raise ValueError(f"{name} must have shape (batch, channels, height, width), got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"{name} must be floating point in [0, 1], got {x.dtype}: convert with x.float() / 255")
    if not torch.isfinite(x).all():
        raise ValueError(f"{name} holds NaN or infinite values")
    low, high = x.min().item(), x.max().item()
    if low < -PIXEL_TOLERANCE or high > 1 + PIXEL_TOLERANCE:
        raise ValueError(f"{name} must lie in [0, 1], got [{low:.4g}, {high:.4g}]: normalisation belongs inside the model, not into its input")
    if model is not None:
        like_model(x, model, name)


def like_model(x: Tensor, model: nn.Module, name: str = "x") -> None:
    """x has the dtype and the device of the model's first parameter."""
    weight = next(model.parameters(), None)
    if weight is None:
        return
    if x.dtype != weight.dtype:
        raise TypeError(f"{name} is {x.dtype} but the model's parameters are {weight.dtype}: convert one of them")
    if x.device != weight.device:
        raise ValueError(f"{name} is on {x.device} but the model is on {weight.device}: move one of them")


def computable(x: Tensor) -> None:
    """Half-precision images are on a GPU: a CPU computes them slowly, and their 8 to 11 bits are too few for differences of losses."""
    if x.device.type == "cpu" and x.dtype in (torch.float16, torch.bfloat16):
        raise TypeError(
            f"x is {x.dtype} on the CPU: use float32, as x.float() and model.float(); on a GPU keep float32 and ask for precision=torch.bfloat16"
        )


def described(value: object) -> str:
    """Shape, dtype and device of a tensor, for an error."""
    return f"{tuple(value.shape)}, {value.dtype}, {value.device}" if isinstance(value, Tensor) else type(value).__name__


def like(value: Tensor, other: Tensor, name: str, others: str) -> None:
    """A tensor of the other's shape, dtype and device."""
    if not isinstance(value, Tensor) or value.shape != other.shape or value.dtype != other.dtype or value.device != other.device:
        raise ValueError(
            f"{name} must have {others}'s shape {tuple(other.shape)}, dtype {other.dtype} and device {other.device}, got {described(value)}"
        )


def perturbation(delta: Tensor, x: Tensor) -> None:
    """A finite tensor of x's shape, dtype and device."""
    like(delta, x, "delta", "x")
    if not torch.isfinite(delta).all():
        raise ValueError("delta holds NaN or infinite values")


def labels(y: Tensor, x: Tensor, classes: float = float("inf")) -> None:
    """int64 labels of shape (len(x),) on x's device, each a class of the model where their number is known."""
    if not isinstance(y, Tensor) or y.dtype != torch.int64:
        raise TypeError(f"y must be an int64 tensor of labels, got {getattr(y, 'dtype', type(y).__name__)}")
    if y.shape != (len(x),):
        raise ValueError(f"y must have shape ({len(x)},), one label an image, got {tuple(y.shape)}")
    if y.device != x.device:
        raise ValueError(f"y is on {y.device} but the images are on {x.device}: move one of them")
    if int(y.min()) < 0 or int(y.max()) >= classes:
        raise ValueError(f"labels must lie in 0 … {classes - 1} for a model of {classes} logits, got {int(y.min())} … {int(y.max())}")


def logits(z: Tensor, batch: int) -> None:
    """What the model returned are finite logits of shape (batch, classes ≥ 2)."""
    if not isinstance(z, Tensor) or z.ndim != 2 or z.shape[0] != batch or z.shape[1] < 2:
        raise ValueError(f"model must return logits of shape ({batch}, classes), got {tuple(getattr(z, 'shape', ())) or type(z).__name__}")
    if not torch.isfinite(z).all():
        raise ValueError("model returned NaN or infinite logits for a finite input")


class FirstLogits:
    """Checks what a source returns in its first pass, and that ``y`` are classes of it, without a pass of its own."""

    def __init__(self, y: Tensor):
        self.y: Tensor | None = y

    @contextmanager
    def on(self, source: nn.Module) -> Iterator[None]:
        """Watch ``source`` while it lasts, and until it has returned once."""

        def check(_module: nn.Module, inputs: tuple, z: Tensor) -> None:
            if self.y is not None:
                logits(z, len(inputs[0]))
                labels(self.y, self.y, z.shape[1])
                self.y = None

        with source.register_forward_hook(check):
            yield


def positive(value: float, name: str) -> None:
    """A finite number above 0."""
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be a finite number > 0, got {value}")


def at_least(value: int, low: int, name: str) -> None:
    """A whole number ≥ low."""
    if isinstance(value, bool) or not float(value).is_integer() or value < low:
        raise ValueError(f"{name} must be a whole number ≥ {low}, got {value}")


def one_utility(game: object) -> None:
    """A game of one utility, not of a tuple of them."""
    names = getattr(game, "utility", "")
    if not isinstance(names, str):
        raise ValueError(f"this takes a game of one utility, got one of {', '.join(map(repr, names))}: make a game of each")
