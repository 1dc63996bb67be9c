"""What `irlib.replicate.methods` compares: the methods, and the presets of networks, images and sizes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Method:
    """An attack by name and the arguments it is given, in every column."""

    attack: str
    given: Mapping[str, Any] = field(default_factory=dict)
    raw: bool = True  # whether its gradient is of the cross-entropy, so that the same β means something
    network: str = ""  # what the attacked network's name has after the source's
    altered: bool = False  # whether the source propagates otherwise while it is attacked


METHODS = {
    "pgd": Method("pgd"),
    "mi": Method("mi"),
    "linbp": Method("linbp"),
    "adv2": Method("pgd", network="-adv2", altered=True),
    "adv4": Method("pgd", network="-adv4", altered=True),
    "adv8": Method("pgd", network="-adv8", altered=True),
    "pi": Method("pi"),
    "ia": Method("ia", altered=True),
    "ia-trained": Method("pgd", network="-ia", altered=True),
    "rap": Method("rap"),
    "il": Method("il"),
    "vr": Method("vr", {"samples": 5}),
    "sgm": Method("sgm"),
    "ghost": Method("ghost", altered=True),
    "fd": Method("fd", raw=False, altered=True),
    "fi": Method("fi", raw=False),
    "ti": Method("ti"),
    "di": Method("di"),
    "aa": Method("aa", raw=False),
}


@dataclass(frozen=True, eq=False)
class Preset:
    """What is measured: networks, images, sizes. ``where`` names the sources of the methods that not every source can be attacked by."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    images: int
    grid: int
    eps: float
    tau: float
    steps: int
    where: Mapping[str, tuple[str, ...]]
    set: str = "fashion-mnist"
    by_order: int = 30  # so many images, on the first source, by orders of a 3×3 grid
    right: tuple[str, ...] = ()  # the images are those that these, the sources and the targets have right


FASHION = tuple(
    f"fmnist-{name}"
    for name in (
        "resnet14", "resnet26", "densenet22", "densenet40", "vgg", "alexnet", "dpn", "inception-resnet", "inception3", "inception4", "mlp", "seresnet"
    )
)  # fmt: skip
RESNET, TRAINED = ("fmnist-resnet14",), tuple(f"fmnist-resnet14-{how}" for how in ("adv2", "adv4", "adv8", "ia"))
ONLY = dict.fromkeys(("adv2", "adv4", "adv8", "ia-trained"), RESNET) | {"fd": ("fmnist-resnet14", "fmnist-vgg")}
PAPER = tuple(f"imagenet-{name}" for name in ("resnet34", "resnet152", "densenet121", "densenet201"))
VICTIMS = tuple(f"imagenet-{name}" for name in ("vgg16", "resnet152", "densenet201", "senet154", "inception3", "inception4", "inception-resnet2"))
PRESETS = {
    "quick": Preset(
        ("fmnist-resnet14", "fmnist-densenet22", "fmnist-vgg"), FASHION, 300, 7, 16 / 255, 1.2, 10,
        ONLY | {"sgm": ("fmnist-resnet14", "fmnist-densenet22", "fmnist-resnet26")}, right=TRAINED,
    ),
    "full": Preset(
        tuple(f"fmnist-{name}" for name in ("resnet14", "densenet22", "vgg", "resnet26", "densenet40", "seresnet")), FASHION, 780, 14, 16 / 255, 1.2,
        100, ONLY | {"sgm": tuple(f"fmnist-{name}" for name in ("resnet14", "densenet22", "resnet26", "densenet40", "seresnet"))}, by_order=300,
        right=TRAINED,
    ),
    "paper": Preset(PAPER, VICTIMS, 1000, 16, 16 / 255, 12.0, 100, dict.fromkeys(ONLY, ()), set="", by_order=100),
}  # fmt: skip


def shards(preset: Preset) -> Iterator[tuple[str, str]]:
    """(source, method), PGD on every source first used."""
    seen = set()
    for source in dict.fromkeys([*preset.sources, *(s for several in preset.where.values() for s in several)]):
        for method in METHODS:
            if (source in preset.where.get(method, preset.sources) or method == "pgd") and (source, method) not in seen:
                seen.add((source, method))
                yield source, method
