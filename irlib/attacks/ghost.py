"""GhostNet (M10): another network at every step, by dropout or by random shortcuts. Network slot."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from irlib.attacks.loop import Attack, stacked
from irlib.draws import Draws
from irlib.ensemble import members
from irlib.surgery import adding_blocks, outputs, tensors

SKIP_RANGE, DROPOUT = 0.22, 0.006  # published for ResNet-50 and Inception-v3
ADDITIONS = {torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__iadd__, Tensor.__radd__}
PROJECTIONS = ("downsample", "c1x1_w_s1", "c1x1_w_s2")  # what ResNets and DPNs call a shortcut that is a convolution


class _Factors:
    """What one ghost network multiplies a tensor of each name with: drawn when first met, the same in every pass of that network."""

    def __init__(self, draw: Callable[..., Tensor]):
        self.draw = draw
        self.drawn: dict[nn.Module, Tensor] = {}

    def times(self, module: nn.Module, value: Tensor, *shape: int) -> Tensor:
        if module not in self.drawn:
            self.drawn[module] = self.draw(*shape)
        factor = self.drawn[module]  # (batch, …); a pass may hold several copies of the batch, one after another
        return value * factor.repeat(len(value) // len(factor), *[1] * (factor.ndim - 1))


class _eroded_shortcuts(TorchFunctionMode):
    """While it lasts, the shortcut that a residual block adds its branch to is multiplied by a random factor a channel."""

    def __init__(self, blocks: dict[nn.Module, nn.Module], factors: _Factors):
        super().__init__()
        self.blocks, self.factors = blocks, factors
        self.current: nn.Module | None = None
        self.shortcuts: list[Tensor] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if self.current is not None and (function in ADDITIONS or function is Tensor.__getitem__):
            at = next((i for i, a in enumerate(args) if any(a is s for s in self.shortcuts)), None)
            if at is not None and function is Tensor.__getitem__:
                self.shortcuts.append(function(*args))
                return self.shortcuts[-1]
            if at is not None:
                block, shortcut, self.current = self.current, args[at], None
                args = [*args[:at], self.factors.times(block, shortcut, shortcut.shape[1], 1, 1), *args[at + 1 :]]
        return function(*args, **(kwargs or {}))

    def _enter(self, block: nn.Module, inputs: tuple) -> None:
        self.current, self.shortcuts = block, tensors(inputs)

    def _projected(self, _module: nn.Module, _inputs: tuple, out: Tensor) -> None:
        self.shortcuts = [out]

    def _leave(self, block: nn.Module, _inputs: tuple, _out: Tensor) -> None:
        if self.current is not None:
            raise ValueError(f"skip erosion looked for the addition of the shortcut in {type(block).__name__} and found none: use dropout= instead")

    @contextmanager
    def on(self) -> Iterator[None]:
        with ExitStack() as stack:
            for block in self.blocks:
                handles = [block.register_forward_pre_hook(self._enter), block.register_forward_hook(self._leave)]
                projections = [child for name, child in block.named_children() if name in PROJECTIONS]
                handles += [projection.register_forward_hook(self._projected) for projection in projections]
                for handle in handles:
                    stack.enter_context(handle)
            stack.enter_context(self)
            yield


def ghost(attack: Attack, skip_range: float | None = None, dropout: float | None = None) -> Attack:
    """Ghost networks (Li et al. 2020): at every step the source is eroded at random, and attacked as it then is.

    ``skip_range`` Λ ≥ 0: every shortcut is multiplied, channel by channel, with r ~ U[1−Λ, 1+Λ] before its branch is added; the paper's
    Eq. 323 has one number a block. ``dropout`` p in [0, 1): after every block, features are dropped with probability p and the rest divided by
    1 − p. The blocks are those of the network's ``layers.blocks``. By default Λ = 0.22 for networks that add shortcuts, p = 0.006 for the others.
    Published: Λ 0.22 for ResNet-50, 0.16 for ResNet-101, 0.12 for ResNet-152, 0.08 for Inception-ResNet-v2; p 0.006 for Inception-v3, 0.012 for
    Inception-v4; with momentum ("mi+ghost") and ε = 8/255. Other codes have skip erosion alone, of two networks.
    """
    adding = adding_blocks(attack.model)
    if skip_range is None and dropout is None:
        skip_range, dropout = (SKIP_RANGE, None) if adding else (None, DROPOUT)
    if skip_range is not None and not 0 <= skip_range < float("inf"):
        raise ValueError(f"skip_range must be a finite number ≥ 0, got {skip_range}")
    if dropout is not None and not 0 <= dropout < 1:
        raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
    if skip_range is not None and not adding:
        raise ValueError("skip erosion needs residual blocks that add a shortcut, and the network has none: use dropout= instead")
    eroded = {} if skip_range is None else adding
    dropped = [] if dropout is None else _registered_blocks(attack.model)

    @contextmanager
    def network(model: nn.Module, draws: Draws) -> Iterator[nn.Module]:
        kept = _Factors(lambda *shape: (u := draws.uniform(*shape)).ge(dropout).to(u) / (1 - dropout))
        ranged = _Factors(lambda *shape: 1 + skip_range * (2 * draws.uniform(*shape) - 1))
        with outputs({b: lambda out, b=b: kept.times(b, out, *out.shape[1:]) for b in dropped}), _eroded_shortcuts(eroded, ranged).on():
            yield model

    return replace(attack, network=stacked(attack.network, network))


def _registered_blocks(model: nn.Module) -> list[nn.Module]:
    found = []
    for network in members(model):
        layers = getattr(network, "layers", None)
        if layers is None:
            raise ValueError(
                f"dropout erosion looked for `layers.blocks` on {type(network).__name__}, which networks of irlib.load_model have, and found none"
            )
        found += [module for name, module in network.named_modules() if re.fullmatch(layers.blocks, name)]
    return found
