"""Networks altered from outside: the weights stay the user's, what flows between them changes.

Residual branches are found by the class of their block, as torchvision, timm and the zoo name it. ReLUs are found where they are called, so
that a functional one is no less a ReLU than a module. Other places are modules named by the caller, or registered in the network's ``layers``.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from irlib import _check
from irlib.ensemble import members

# The module whose output a block adds to its shortcut, or appends to it (dense layers).
BRANCH_END = {
    "BasicBlock": "bn2",  # ResNets of torchvision and timm
    "Bottleneck": "bn3",
    "SEBasicBlock": "gate",  # the zoo's
    "InceptionResidual": "join",
    "DualPath": "join",
    "SEBottleneck": "se_module",  # timm's SENet
    "InvertedResidual": "bn3",  # timm's EfficientNets
    "DepthwiseSeparableConv": "bn2",
    "Block35": "conv2d",  # timm's Inception-ResNet
    "Block17": "conv2d",
    "Block8": "conv2d",
    "_DenseLayer": "conv2",  # DenseNets of torchvision and timm
    "DenseLayer": "conv2",
    "DualPathBlock": "c1x1_c",  # timm's DPN
}
DENSE = ("_DenseLayer", "DenseLayer")
RELUS = {F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}


def branches(model: nn.Module) -> dict[str, nn.Module]:
    """The last module of every residual or dense branch, by the name of its block, in the order of the network; empty where there is none."""
    return {
        name: block.get_submodule(BRANCH_END[type(block).__name__])
        for name, block in model.named_modules()
        if type(block).__name__ in BRANCH_END and getattr(block, "has_skip", True)  # of timm's EfficientNet blocks, some have no shortcut
    }


def residual_branches(model: nn.Module) -> dict[str, nn.Module]:
    """`branches`, of a network that must have some: raises ValueError for one without, naming what was looked for."""
    found = branches(model)
    if not found:
        kinds = sorted({type(m).__name__ for m in model.modules() if next(m.children(), None) is not None})
        raise ValueError(f"no residual branch: looked for blocks of the classes {', '.join(BRANCH_END)}; the network has {', '.join(kinds)}")
    return found


def adding_blocks(model: nn.Module) -> dict[nn.Module, nn.Module]:
    """The blocks that add a branch to a shortcut, each with the last module of its branch. Dense layers, which append theirs, are not among them."""
    blocks = {model.get_submodule(name): end for name, end in branches(model).items()}
    return {block: end for block, end in blocks.items() if type(block).__name__ not in DENSE}


def is_dense(model: nn.Module) -> bool:
    """Whether any of its blocks is a DenseNet's."""
    return any(type(module).__name__ in DENSE for module in model.modules())


def places(model: nn.Module, method: str, given: str | Sequence[str] | None, argument: str = "layer") -> list[nn.Module]:
    """Where ``method`` acts in ``model``: the module called ``given``, or the one registered for it in the network's ``layers``.

    An ensemble has one place in each member: ``given`` is then one dotted name for all or one for each. Raises ValueError for a name that no
    module has, and for a network without a registered place.
    """
    networks = members(model)
    names = [given] * len(networks) if given is None or isinstance(given, str) else list(given)
    if len(names) != len(networks):
        raise ValueError(f"{argument} must be one name or one for each of the {len(networks)} models, got {len(names)}")
    return [_place(network, method, name, argument) for network, name in zip(networks, names, strict=True)]


def _place(network: nn.Module, method: str, name: str | None, argument: str) -> nn.Module:
    modules = {n: m for n, m in network.named_modules() if n}
    if name is None:
        name = getattr(getattr(network, "layers", None), method, None)
    if name is None:
        raise ValueError(
            f"{method} needs a place in the network: looked for `layers.{method}` on {type(network).__name__}, which networks of "
            f"irlib.load_model have, and found none. Give {argument}= with the name of a module, one of: {', '.join(list(modules)[:40])}"
        )
    if name not in modules:
        _check.unknown_name(argument, name, modules)
    return modules[name]


def tensors(inputs: tuple) -> list[Tensor]:
    """The tensors among a module's inputs, which may hold lists of them."""
    return [t for a in inputs for t in (a if isinstance(a, (tuple, list)) else [a])]


@contextmanager
def outputs(changes: dict[nn.Module, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """While it lasts, each module's output passes through its change."""
    with ExitStack() as stack:
        for module, change in changes.items():
            stack.enter_context(module.register_forward_hook(lambda _module, _inputs, out, change=change: change(out)))
        yield


class _Reached(Exception):
    """The last feature that was asked for is there."""


def features(source: nn.Module, modules: Sequence[nn.Module], x: Tensor) -> list[Tensor]:
    """The outputs of ``modules`` for the images ``x``, differentiable; ``source`` runs no further than the last of them."""
    found: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, out: Tensor) -> Tensor:
        found[module] = out
        if len(found) == len(set(modules)):
            raise _Reached
        return out

    with outputs({m: partial(keep, m) for m in modules}):
        try:
            source(x)
        except _Reached:
            return [found[m] for m in modules]
    raise ValueError(f"the network never called {' and '.join(type(m).__name__ for m in modules if m not in found)}, whose output the method reads")


class softplus_for_relu(TorchFunctionMode):
    """While it lasts, every ReLU, module or function, is log(1 + exp(``beta``·z))/``beta``: smooth, and ReLU as ``beta`` grows."""

    def __init__(self, beta: float):
        super().__init__()
        self.beta = beta
        self.replaced = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in RELUS:
            self.replaced += 1
            return F.softplus(args[0] if args else kwargs["input"], beta=self.beta)
        return function(*args, **(kwargs or {}))


class Smoothed(nn.Module):
    """``body`` with Softplus for ReLU and its residual branches scaled: the network of the IA attack's public code (M5), not fine-tuned.

    Args:
        body: the network; it is used, not copied, and left as it was.
        beta: of the Softplus; > 0. Its authors search it together with the scales; published are 20 for ResNets up to 50, 32 for ResNet-152.
        residual_scale: factor on every residual branch, or one for each in the order of `residual_branches`; ≥ 0. Published for the four
            stages of a ResNet-50: 0.98, 0.87, 0.73, 0.19. With 1 the branches are left alone, and the network need not have any.

    Raises ValueError for a beta or scale out of range, a network without residual branches, or scales of another number than its branches;
    and in its first pass for a network without ReLUs.
    """

    def __init__(self, body: nn.Module, beta: float, residual_scale: float | Sequence[float] = 1.0):
        super().__init__()
        _check.positive(beta, "beta")
        self.body = body
        self.beta = beta
        self.scales = () if residual_scale == 1 else _one_each(residual_scale, len(residual_branches(body)))
        self.training = body.training

    def forward(self, x: Tensor) -> Tensor:
        branches = residual_branches(self.body).values() if self.scales else ()
        changes = {branch: partial(torch.mul, other=scale) for branch, scale in zip(branches, self.scales, strict=True)}
        with softplus_for_relu(self.beta) as relus, outputs(changes):
            z = self.body(x)
        if not relus.replaced:
            raise ValueError(f"the IA attack smooths ReLUs, and {type(self.body).__name__} called none")
        return z


def _one_each(scale: float | Sequence[float], count: int) -> tuple[float, ...]:
    scales = tuple(scale) if isinstance(scale, Sequence) else (scale,) * count
    if len(scales) != count:
        raise ValueError(f"residual_scale must be one number or one for each of the network's {count} residual branches, got {len(scales)}")
    if not all(0 <= s < float("inf") for s in scales):
        raise ValueError(f"residual_scale must be ≥ 0, got {min(scales)} … {max(scales)}")
    return scales
