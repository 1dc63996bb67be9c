"""LinBP (M2): the gradient as if there were no ReLU. Network slot."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from irlib.attacks.loop import Attack, stacked
from irlib.attacks.projection import norms
from irlib.draws import Draws
from irlib.ensemble import members
from irlib.surgery import RELUS, adding_blocks, places, tensors

OUTSIDE, BRANCH, ADDED = "outside residual blocks", "in the branch", "after the branch"


class _linear_backward(TorchFunctionMode):
    """While it lasts, ReLUs from certain modules on let the gradient through; but not those of a residual block behind its branch."""

    def __init__(self):
        super().__init__()
        self.active = False
        self.where = OUTSIDE
        self.masked = False  # whether the backward pass that is under way is the ordinary one
        self.passes = self.relus = 0
        self.entry: list[Tensor] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if (top := _top(function, kwargs or {})) is not None:
            self.relus += 1
            if self.active and self.where != ADDED:
                return _LinearReLU.apply(args[0] if args else kwargs["input"], top, self)
        return function(*args, **(kwargs or {}))

    def begin(self, _module: nn.Module, _inputs: tuple) -> None:
        self.active, self.where = False, OUTSIDE

    def end(self, _module: nn.Module, _inputs: tuple, _out: Tensor) -> None:
        self.passes += 1

    def activate(self, _module: nn.Module, _inputs: tuple) -> None:
        self.active = True

    def enter(self, _block: nn.Module, inputs: tuple) -> None:
        self.where = BRANCH
        self.entry = tensors(inputs)

    def leave_branch(self, _end: nn.Module, _inputs: tuple, out: Tensor) -> Tensor | None:
        self.where = ADDED
        return _Rescaled.apply(self, [out], *self.entry) if self.active and out.requires_grad else None

    def leave(self, _block: nn.Module, _inputs: tuple, _out: Tensor) -> None:
        self.where = OUTSIDE


def _top(function: Callable, kwargs: dict) -> float | None:
    """Where the function cuts from above, if it is a ReLU: infinity, or 6 for ReLU6, which calls hardtanh from 0 to 6."""
    if function in RELUS:
        return torch.inf
    if function is F.relu6 or (function is F.hardtanh and (kwargs.get("min_val"), kwargs.get("max_val")) == (0, 6)):
        return 6.0
    return None


class _LinearReLU(torch.autograd.Function):
    """z cut to [0, top]; going back, the identity, or the cut's own gradient where the ordinary one is asked for."""

    @staticmethod
    def forward(ctx, z: Tensor, top: float, mode: _linear_backward) -> Tensor:
        ctx.save_for_backward((z > 0) & (z < top))
        ctx.mode = mode
        return z.clamp(0, top)

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, None, None]:
        (passed,) = ctx.saved_tensors
        return (g * passed if ctx.mode.masked else g), None, None


class _Rescaled(torch.autograd.Function):
    """A branch's output; going back, its linear gradient at each image with the length of the ordinary one."""

    @staticmethod
    def forward(ctx, mode: _linear_backward, branch: list[Tensor], *entry: Tensor) -> Tensor:
        ctx.mode, ctx.branch, ctx.entry = mode, branch, entry
        return branch[0].detach()

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor | None, ...]:
        ctx.mode.masked = True
        try:
            ordinary = torch.autograd.grad(ctx.branch, ctx.entry, g, retain_graph=True)
        finally:
            ctx.mode.masked = False
        linear = torch.autograd.grad(ctx.branch, ctx.entry, g)
        return None, None, *(b * (norms(a) / norms(b).clamp_min(torch.finfo(b.dtype).tiny)) for a, b in zip(ordinary, linear, strict=True))


def linbp(attack: Attack, from_layer: str | Sequence[str] | None = None) -> Attack:
    """LinBP (Guo et al. 2020): forward as usual; going back, ReLUs from ``from_layer`` on are the identity.

    In a residual block that means the ReLUs of the branch, whose gradient is then given, image by image, the ℓ2 length of the ordinary one; the
    ReLU after the addition stays. ``from_layer``: dotted name of the first module concerned (one for each model of an ensemble); by default
    the one registered for the network, published for ResNets (layer3, block 1). The authors' plain attack adds uniform noise at every step
    and takes 300 steps at ε = 0.03; one other code rescales at each activation. Costs one more backward pass through each of those branches.
    ReLU6 is treated alike. Raises ValueError for a network that calls neither.
    """
    starts = places(attack.model, "linbp", from_layer, "from_layer")
    blocks = adding_blocks(attack.model)

    @contextmanager
    def network(model: nn.Module, draws: Draws) -> Iterator[nn.Module]:
        mode = _linear_backward()
        with ExitStack() as stack:
            handles = [h for m in members(attack.model) for h in (m.register_forward_pre_hook(mode.begin), m.register_forward_hook(mode.end))]
            handles += [start.register_forward_pre_hook(mode.activate) for start in starts]
            for block, end in blocks.items():
                handles += [
                    block.register_forward_pre_hook(mode.enter),
                    end.register_forward_hook(mode.leave_branch),
                    block.register_forward_hook(mode.leave),
                ]
            for handle in handles:
                stack.enter_context(handle)
            stack.enter_context(mode)
            yield model
        if mode.passes and not mode.relus:
            raise ValueError(f"LinBP looked for ReLUs, and {type(model).__name__} called none")

    return replace(attack, network=stacked(attack.network, network))
