"""The paper's ImageNet networks, built without weights and without memory: the layer names are theirs, one image serves them all."""

import re

import pytest
import timm
import torch
import torchvision

from irlib import load_model
from irlib.models import Normalized
from irlib.surgery import residual_branches
from irlib.zoo import imagenet
from irlib.zoo.layers import LAYERS

# name: input size, parameters in millions, blocks, residual branches
EXPECTED = {
    "imagenet-alexnet": (224, 61.1, 5, 0),
    "imagenet-densenet121": (224, 7.98, 58, 58),
    "imagenet-densenet201": (224, 20.0, 98, 98),
    "imagenet-dpn68": (224, 12.6, 22, 22),
    "imagenet-inception-resnet2": (299, 55.8, 40, 40),
    "imagenet-inception-resnet2-ens3": (299, 55.8, 40, 40),
    "imagenet-inception3": (299, 23.8, 11, 0),
    "imagenet-inception3-adv": (299, 23.8, 11, 0),
    "imagenet-inception4": (299, 42.7, 16, 0),
    "imagenet-nasnet": (331, 88.8, 18, 0),
    "imagenet-pnasnet5": (331, 86.1, 12, 0),
    "imagenet-resnet34": (224, 21.8, 16, 16),
    "imagenet-resnet152": (224, 60.2, 50, 50),
    "imagenet-senet154": (224, 115.1, 50, 50),
    "imagenet-vgg16": (224, 138.4, 13, 0),
}


def test_the_whole_cast_is_expected():
    assert EXPECTED.keys() == imagenet.IMAGENET.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_it_builds_and_its_layers_are_there(name):
    size, millions, blocks, branches = EXPECTED[name]
    with torch.device("meta"):
        network, preprocessing = imagenet.build(name, pretrained=False)
        model = Normalized(network, **preprocessing, layers=LAYERS[name]).eval()
    assert preprocessing["size"] == size
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=5e-3)
    order, sizes = [], {}
    for place in ("il", "fi", "aa", "linbp"):

        def see(_module, _inputs, out, place=place):
            order.append(place)
            sizes[place] = out[-1].shape if isinstance(out, tuple) else out.shape

        model.get_submodule(getattr(model.layers, place)).register_forward_hook(see)
    assert model(torch.empty(1, 3, 224, 224, device="meta")).shape == (1, 1000)
    assert order.index("linbp") >= order.index("fi")
    assert all(len(s) == 4 and s[-1] > 7 for s in sizes.values())  # feature maps from the middle, not the head
    assert sum(re.fullmatch(model.layers.blocks, key) is not None for key, _ in model.named_modules()) == blocks
    if branches:
        assert [key for key in residual_branches(model) if re.fullmatch(model.layers.blocks, key)] == list(residual_branches(model))
        assert len(residual_branches(model)) == branches
    else:
        with pytest.raises(ValueError, match="no residual branch"):
            residual_branches(model)


@pytest.mark.parametrize("name", EXPECTED)
def test_its_weights_exist_in_the_library_that_is_named(name):
    source = imagenet.IMAGENET[name]
    if source.library == "timm":
        assert source.weights in timm.list_pretrained()
    else:
        architecture, weights = source.weights.split(".")
        assert torchvision.models.get_model_weights(architecture)[weights].url.startswith("https://")


@pytest.mark.parametrize("name", ["imagenet-resnet34", "imagenet-inception3-adv"])
def test_without_a_network_the_error_names_the_offline_ones(name, monkeypatch):
    def unreachable(*args, **kwargs):
        raise OSError("name or service not known") if kwargs.get("weights") or kwargs.get("pretrained") else AssertionError("asked for no weights")

    monkeypatch.setattr(torchvision.models, "get_model", unreachable)
    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(ConnectionError, match=r"could not be downloaded .*name or service not known.*'imagenet-lite0'.*'fmnist-…'"):
        load_model(name)


def test_what_the_libraries_raise_offline_is_an_oserror(monkeypatch, tmp_path):
    """The real path of torchvision's download, with every connection refused."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("socket.getaddrinfo", lambda *args, **kwargs: (_ for _ in ()).throw(OSError("no network in this test")))
    with pytest.raises(ConnectionError, match=r"alexnet.IMAGENET1K_V1.*no network in this test"):
        load_model("imagenet-alexnet")


def test_timm_missing_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"imagenet-dpn68 needs timm: pip install 'irlib\[imagenet\]'"):
        load_model("imagenet-dpn68")
