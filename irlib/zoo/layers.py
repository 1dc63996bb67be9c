"""Where the methods that need a place in a network find it: dotted module names, for every network that `irlib.load_model` knows.

Residual and dense branches (SGM, GhostNet's skip erosion, IA) are found by structure instead, see `irlib.surgery.residual_branches`.
"""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Layers:
    """Dotted names of modules of one network.

    il, fi, aa    the module whose output the method reads
    linbp         the first module whose ReLUs, and all later ones, let the gradient through unmasked
    blocks        a regular expression that the names of all blocks match, in order; GhostNet's dropout erosion follows each
    published     which of the places are those of the method's own publication or code; the others are ours, at the same relative depth
    """

    il: str
    fi: str
    aa: str
    linbp: str
    blocks: str
    published: tuple[str, ...] = ()

    def inside(self, prefix: str) -> "Layers":
        """The same places as seen from a network that holds this one as its child ``prefix``."""
        names = {f.name: f"{prefix}.{getattr(self, f.name)}" for f in fields(self) if f.name not in ("blocks", "published")}
        return Layers(**names, blocks=rf"{prefix}\.({self.blocks})", published=self.published)


RESNET14 = Layers("6", "6", "6", "6", "[3-8]")
DENSENET = Layers("5", "5", "5", "5", r"[357]\.denselayer\d+")
FASHION = {
    "fmnist-alexnet": Layers("10", "6", "10", "10", "2|6|10|13|17"),
    "fmnist-densenet22": DENSENET,
    "fmnist-densenet40": DENSENET,
    "fmnist-dpn": Layers("5", "5", "5", "9", "[345]|9|10|11"),
    "fmnist-inception-resnet": Layers("5", "2", "5", "9", "[345]|9|10|11"),
    "fmnist-inception3": Layers("4", "4", "4", "6", "[46]"),
    "fmnist-inception3-ens3": Layers("4", "4", "4", "6", "[46]"),
    "fmnist-inception4": Layers("5", "4", "5", "7", "[4578]"),
    "fmnist-mlp": Layers("2", "2", "2", "4", "[24]"),
    "fmnist-resnet14": RESNET14,
    "fmnist-resnet14-adv2": RESNET14,
    "fmnist-resnet14-adv4": RESNET14,
    "fmnist-resnet14-adv8": RESNET14,
    "fmnist-resnet14-ia": RESNET14.inside("body"),
    "fmnist-resnet26": Layers("10", "10", "10", "8", "[3-9]|1[0-4]"),
    "fmnist-seresnet": RESNET14,
    "fmnist-vgg": Layers("12", "12", "12", "16", "2|5|9|12|16|19|23"),
}

IMAGENET_RESNET = r"layer\d\.\d+"
IMAGENET_DENSENET = Layers(
    "features.denseblock2", "features.denseblock2", "features.denseblock2", "features.denseblock3", r"features\.denseblock\d\.denselayer\d+"
)
INCEPTION3 = Layers("Mixed_5d", "Mixed_5b", "Mixed_5d", "Mixed_6b", r"Mixed_\d\w", published=("fi",))
INCEPTION_RESNET2 = Layers("repeat", "conv2d_4a", "repeat", "repeat_1", r"repeat(_\d)?\.\d+|block8", published=("fi",))
EFFICIENTNET_LITE = Layers("blocks.3", "blocks.2", "blocks.3", "blocks.4", r"blocks\.\d\.\d+")
IMAGENET = {
    "imagenet-alexnet": Layers("features.7", "features.7", "features.7", "features.9", r"features\.(1|4|7|9|11)"),
    "imagenet-densenet121": IMAGENET_DENSENET,
    "imagenet-densenet201": IMAGENET_DENSENET,
    "imagenet-dpn68": Layers(*["features.conv3_4"] * 3, "features.conv4_2", r"features\.conv[2-5]_\d+"),
    "imagenet-inception-resnet2": INCEPTION_RESNET2,
    "imagenet-inception-resnet2-ens3": INCEPTION_RESNET2,
    "imagenet-inception3": INCEPTION3,
    "imagenet-inception3-adv": INCEPTION3,
    "imagenet-inception4": Layers("features.9", "features.6", "features.9", "features.11", r"features\.([6-9]|1[0-9]|2[01])"),
    "imagenet-lite0": EFFICIENTNET_LITE,
    "imagenet-lite1": EFFICIENTNET_LITE,
    "imagenet-lite2": EFFICIENTNET_LITE,
    "imagenet-nasnet": Layers("cell_5", "cell_5", "cell_5", "cell_6", r"cell_\d+"),
    "imagenet-pnasnet5": Layers("cell_3", "cell_3", "cell_3", "cell_4", r"cell_\d+"),
    "imagenet-resnet34": Layers("layer3", "layer2.3", "layer2", "layer3.1", IMAGENET_RESNET, published=("il", "fi", "aa", "linbp")),
    "imagenet-resnet152": Layers("layer3", "layer2.7", "layer2", "layer3.1", IMAGENET_RESNET, published=("il", "fi", "aa", "linbp")),
    "imagenet-senet154": Layers("layer3", "layer2.7", "layer2", "layer3.1", IMAGENET_RESNET),
    "imagenet-vgg16": Layers(
        "features.15", "features.15", "features.15", "features.18", r"features\.(1|3|6|8|11|13|15|18|20|22|25|27|29)", published=("fi",)
    ),
}
LAYERS = FASHION | IMAGENET
