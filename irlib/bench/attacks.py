"""The attacks' time over that of the passes that their rules need. Each runs on a ResNet of random weights; the images that enter the network are
counted, and its time is divided by that of as many bare passes: one forward and one backward to the input, same network and batch. Where torchattack
or torchattacks is installed, our time is also divided by theirs, for attacks of the same rule."""

import argparse
import copy
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from tqdm import tqdm

from irlib.attacks import create_attack, list_attacks
from irlib.attacks.ti import scaled_size
from irlib.bench.clock import compared
from irlib.models import Normalized
from irlib.zoo.cast import plain
from irlib.zoo.layers import LAYERS

MEAN, STD, CLASSES = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 1000  # ImageNet's
EPS, ALPHA = 16 / 255, 2 / 255
# Where the passes are not one a step: their number, and arguments that keep costly attacks short.
RULES: dict[str, tuple[str, dict[str, int]]] = {
    "aa": ("steps + 1", {}),
    "fgsm": ("1", {}),
    "fi": ("masks + steps", {"masks": 2}),
    "hybrid-ir": ("samples·(1 + 2·draws)·steps", {"samples": 2, "draws": 2}),
    "il": ("base_steps + steps + 2", {"base_steps": 2}),
    "ir": ("(1 + 2·draws)·steps", {"draws": 2}),
    "rap": ("(inner_steps + 1)·steps", {"inner_steps": 2}),
    "vr": ("samples·steps", {"samples": 2}),
}
NOTE = """\
ratio: time of the attack over (its passes × a bare pass), median (lowest–highest) of the repeats. Passes are counted: images that entered the
network, over the batch. One that stops at a layer (il, aa, fi once its masks are done) or has no backward (of il and aa) counts as a whole one:
those ratios can be below 1. linbp goes back through residual branches twice, forward once, and ia has an
exponential and a logarithm where the network had ReLU: above 1 by their rules. fd's are passes of its heads."""
LIBRARIES = ("torchattack", "torchattacks")
NETWORKS = [name for name in torchvision.models.list_models(torchvision.models) if "resne" in name]  # ResNets, ResNeXts, wide ones


@dataclass(frozen=True)
class Scene:
    """What is attacked: a network, FD's heads on its first layers, images in [0, 1] of random labels, and as many others as AA's guides."""

    model: nn.Module
    heads: nn.Module
    x: Tensor
    y: Tensor
    guide: Tensor

    def attack(self, name: str, steps: int, **method: Any) -> Callable[[Tensor, Tensor], Tensor]:
        tensors = {"aa": {"guide": self.guide}, "fd": {"heads": self.heads}}.get(name, {})
        return create_attack(name, self.model, **dict(eps=EPS, alpha=ALPHA, steps=steps) | tensors | method)


def scene(network: str, batch: int, size: int, device: str) -> Scene:
    """The same random weights and images at every call; ``size`` in pixels, of square images."""
    torch.manual_seed(0)
    net = torchvision.models.get_model(network, weights=None)
    layers = replace(LAYERS["imagenet-resnet34"], fi=f"layer2.{len(net.layer2) - 1}")
    shallow = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2)
    heads = nn.Sequential(shallow, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(net.layer3[0].conv1.in_channels, CLASSES))
    pair = [Normalized(net, MEAN, STD, layers=layers), Normalized(heads, MEAN, STD)]
    model, heads = (m.eval().requires_grad_(False).to(device, memory_format=torch.channels_last) for m in pair)
    x, guide = torch.rand(2, batch, 3, size, size).to(device)
    return Scene(model, heads, x, torch.randint(CLASSES, (batch,)).to(device), guide)


def passes(attack: Callable[[Tensor, Tensor], Tensor], network: nn.Module, x: Tensor, y: Tensor) -> float:
    """How many images enter ``network`` during the attack, for each image of the batch."""
    rows = []
    with network.register_forward_pre_hook(lambda _module, inputs: rows.append(len(inputs[0]))):
        attack(x, y)
    return sum(rows) / len(x)


def bare_pass(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The gradient of the cross-entropy by the images, and nothing else."""
    x = x.detach().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(network(x), y, reduction="sum"), x)[0]


def beside_bare(name: str, at: Scene, steps: int, repeats: int) -> dict[str, Any]:
    """The attack's passes, and its time over theirs."""
    formula, arguments = RULES.get(name, ("steps", {}))
    attack, network = at.attack(name, steps, **arguments), at.heads if name == "fd" else at.model
    count = passes(attack, network, at.x, at.y)
    rule = ", ".join([formula, *(f"{key} {value}" for key, value in arguments.items())])
    bare = lambda: bare_pass(network, at.x, at.y)
    return {"passes": count, "rule": rule} | compared(lambda: attack(at.x, at.y), bare, repeats, count, at.x.is_cuda)


def same_rule(library: str, at: Scene, steps: int) -> dict[str, tuple[dict[str, Any], str, dict[str, Any]]]:
    """The library's attacks that are one of ours, by our name: our arguments, their name, their arguments.

    DI draws one resize a batch there, one an image here; with probability 1 every pass has them. torchattack's SGM leaves each stage's first block
    alone. torchattacks' TI is left out: it always resizes as well.
    """
    kw = dict(eps=EPS, alpha=ALPHA, steps=steps)
    common = {"mi": ({}, "MIFGSM", kw), "di": ({"prob": 1}, "DIFGSM", kw | dict(decay=0, diversity_prob=1)), "fgsm": ({}, "FGSM", dict(eps=EPS))}
    if library == "torchattacks":
        pi = ({"alpha": EPS / steps}, "PIFGSM", dict(max_epsilon=EPS, num_iter_set=steps))
        return common | {"pgd": ({}, "PGD", kw | dict(random_start=False)), "pi": pi}
    ti = ({}, "TIFGSM", kw | dict(decay=0, kern_len=scaled_size(at.x.shape[-1])))
    found = common | {"pgd": ({}, "IFGSM", kw), "ti": ti, "sgm": ({}, "SGM", kw | dict(decay=0, hook_cfg="resnet18"))}  # of any depth: √γ or γ
    return {name: (own, called, theirs | {"device": at.x.device}) for name, (own, called, theirs) in found.items()}


def beside_library(library: Any, name: str, at: Scene, steps: int, repeats: int) -> dict[str, float]:
    """Our time over theirs for the attack ``name``. Theirs has a copy of the network: torchattack's SGM leaves hooks in it."""
    own, called, arguments = same_rule(library.__name__, at, steps)[name]
    ours, theirs = at.attack(name, steps, **own), getattr(library, called)(copy.deepcopy(at.model), **arguments)
    ours(at.x, at.y)
    return compared(lambda: ours(at.x, at.y), lambda: theirs(at.x, at.y), repeats, cuda=at.x.is_cuda)


def run(args: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """What the sub-command prints, and what it writes."""
    at, chosen = scene(args.network, args.batch, args.size, args.device), args.only or list_attacks()
    libraries = {name: importlib.import_module(name) for name in LIBRARIES if importlib.util.find_spec(name)}
    found = {name: beside_bare(name, at, args.steps, args.repeats) for name in tqdm(chosen, desc="attacks")}
    beside = {}
    for name, library in libraries.items():
        same = [attack for attack in chosen if attack in same_rule(name, at, args.steps)]
        beside[f"{name} {library.__version__}"] = {a: beside_library(library, a, at, args.steps, args.repeats) for a in tqdm(same, desc=name)}
    show = lambda r: f"{r['ratio']:.3f} ({r['lowest']:.3f}–{r['highest']:.3f})" if r else ""
    rows = [
        (name, f"{r['passes']:g}", r["rule"], show(r), f"{r['seconds'] / r['passes']:.3g}", *(show(ours.get(name)) for ours in beside.values()))
        for name, r in found.items()
    ]
    table = plain(("attack", "passes", "by its rule", "ratio", "s a pass", *(f"over {name}'s" for name in beside)), rows)
    missing = [f"{name}: not installed: pip install --no-deps {name}" for name in LIBRARIES if name not in libraries]
    return "\n".join([table, "", NOTE, *missing]), {"attacks": found, "over": beside, "note": NOTE}


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--network", choices=NETWORKS, default="resnet18", metavar="NAME")
    command.add_argument("--only", nargs="+", choices=list_attacks(), metavar="ATTACK", help="default: all")
    for name, default in (("batch", 8), ("size", 224), ("steps", 2), ("repeats", 5)):
        command.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"default {default}")
