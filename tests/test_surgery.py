"""Softplus for ReLU wherever it is called, residual branches by structure, and the user's network as it was."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.resnet import BasicBlock

from irlib.surgery import Smoothed, residual_branches
from irlib.zoo.architectures import ARCHITECTURES


class EveryRelu(nn.Module):
    def __init__(self):
        super().__init__()
        self.module, self.inplace = nn.ReLU(), nn.ReLU(inplace=True)

    def forward(self, x):
        return self.module(x) + self.inplace(x.clone()) + F.relu(x) + F.relu(input=x) + torch.relu(x) + x.relu() + x.clone().relu_()


def test_every_relu_becomes_softplus_and_only_inside():
    x, network = torch.linspace(-2, 2, 9, dtype=torch.float64), EveryRelu()
    torch.testing.assert_close(Smoothed(network, 3.0)(x), 7 * torch.log(1 + torch.exp(3 * x)) / 3)
    assert network(x).equal(7 * x.clamp_min(0))


def block():
    torch.manual_seed(0)
    network = BasicBlock(2, 2).double().eval()
    for norm in (network.bn1, network.bn2):
        norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2), norm.weight.data.normal_(), norm.bias.data.normal_()
    return network, torch.randn(3, 2, 5, 5, dtype=torch.float64)


def test_branches_are_scaled_as_written_down_by_hand():
    network, x = block()
    softplus = lambda z: torch.log1p(torch.exp(4 * z)) / 4
    branch = network.bn2(network.conv2(softplus(network.bn1(network.conv1(x)))))
    torch.testing.assert_close(Smoothed(network, 4.0, 0.7)(x), softplus(x + 0.7 * branch))
    two = nn.Sequential(network, copy.deepcopy(network)).eval()
    inner = Smoothed(network, 4.0, 0.25)(x)
    torch.testing.assert_close(Smoothed(two, 4.0, (0.25, 0.0))(x), softplus(inner))


def test_the_network_is_left_as_it_was_also_after_an_error():
    network, x = block()
    before, hooks = network(x), [len(m._forward_hooks) for m in network.modules()]
    smoothed = Smoothed(network, 4.0, 0.7)
    smoothed(x)
    with pytest.raises(RuntimeError):
        smoothed(x[:, :1])
    assert network(x).equal(before)
    assert [len(m._forward_hooks) for m in network.modules()] == hooks
    assert F.relu(torch.tensor(-1.0)) == 0


def test_large_beta_is_relu():
    network, x = block()
    torch.testing.assert_close(Smoothed(network, 1e7)(x), network(x), atol=1e-6, rtol=0)


def test_branches_by_structure():
    counts = {"resnet14": 6, "resnet26": 12, "seresnet": 6, "densenet22": 9, "densenet40": 18, "inception-resnet": 6, "dpn": 6}
    for name, count in counts.items():
        assert len(residual_branches(ARCHITECTURES[f"fmnist-{name}"]())) == count
    for name in ("vgg", "mlp", "inception3"):
        with pytest.raises(ValueError, match=r"no residual branch: looked for blocks of the classes BasicBlock, .*; the network has"):
            residual_branches(ARCHITECTURES[f"fmnist-{name}"]())


@pytest.mark.parametrize("name", ["resnet14", "seresnet", "inception-resnet", "densenet22", "dpn"])
def test_without_their_branches_blocks_pass_their_shortcut_on(name):
    """The module found is the branch's last: at scale 0 nothing of the branch reaches the sum, or the appended channels are empty."""
    network = ARCHITECTURES[f"fmnist-{name}"]().eval()
    kept, x = {}, torch.rand(2, 1, 28, 28)
    blocks = [network.get_submodule(key) for key in residual_branches(network)]
    for i, part in enumerate(blocks):
        part.register_forward_hook(lambda _m, inputs, out, i=i: kept.__setitem__(i, (inputs[0], out)))
    Smoothed(network, 1e7, 0.0)(x)
    last_input, last_output = kept[len(blocks) - 1]
    if name == "densenet22":
        assert last_output.abs().max() == 0
    else:
        shared = last_input.shape[1]
        first = network.get_submodule(list(residual_branches(network))[-1])
        channels = getattr(first, "channels", shared)
        torch.testing.assert_close(last_output[:, :channels], last_input[:, :channels].clamp_min(0), atol=1e-6, rtol=0)


def test_bad_arguments_are_named():
    network = block()[0]
    for arguments, said in [
        ((0.0,), "beta must be a finite number > 0"),
        ((4.0, -1.0), "residual_scale must be ≥ 0"),
        ((4.0, (0.5, 0.5)), "one for each of the network's 1 residual branches, got 2"),
    ]:
        with pytest.raises(ValueError, match=said):
            Smoothed(network, *arguments)
    with pytest.raises(ValueError, match="called none"):
        Smoothed(nn.Flatten(), 4.0)(torch.zeros(1, 1, 2, 2))
