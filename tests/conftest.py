"""Small random networks and games in float64, seeded."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from irlib.zoo.layers import Layers


def make_network(seed: int = 0, activation: type[nn.Module] = nn.ReLU, classes: int = 5, channels: int = 1, size: int = 6) -> nn.Module:
    """conv–BatchNorm–activation–pool–affine with shifted BatchNorm statistics, float64, eval mode."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(channels, 6, 3, padding=1), nn.BatchNorm2d(6), activation(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6 * (size // 2) ** 2, classes)
    ).double()
    net[1].running_mean.normal_()
    net[1].running_var.uniform_(0.5, 2)
    return net.eval()


class TinyResNet(nn.Module):
    """A stem, a block whose shortcut is the identity, a block whose shortcut is a convolution, and an affine layer: 1×6×6 to five logits."""

    layers = Layers(il="one", fi="one", aa="one", linbp="two", blocks="one|two")

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.relu = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()
        self.one = BasicBlock(4, 4)
        self.two = BasicBlock(4, 6, stride=2, downsample=nn.Sequential(nn.Conv2d(4, 6, 1, stride=2), nn.BatchNorm2d(6)))
        self.fc = nn.Linear(54, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.two(self.one(self.relu(self.bn(self.conv(x))))).flatten(1))


def make_resnet(seed: int = 0) -> nn.Module:
    """A random `TinyResNet`, float64, eval mode, with shifted BatchNorm statistics."""
    torch.manual_seed(seed)
    net = TinyResNet().double()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3), module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5), nn.init.normal_(module.bias, 0, 0.3)
    return net.eval()


def needed(name: str, dtype: torch.dtype = torch.float64) -> dict:
    """Arguments without which the attack ``name`` is not defined on a `TinyResNet`, and few draws where it makes many."""
    few = {"vr": {"samples": 2}, "rap": {"inner_steps": 2}, "fi": {"masks": 3}, "il": {"base_steps": 2}, "ir": {"grid": 3, "draws": 2}}
    few |= {
        "aa": {"guide": make_images(9, batch=1).to(dtype)},
        "fd": {"heads": make_network(7).to(dtype)},
        "hybrid-ir": {"samples": 2, "grid": 3, "draws": 2},
    }
    return few.get(name, {})


def make_images(seed: int = 0, batch: int = 3, channels: int = 1, size: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, channels, size, size, generator=generator, dtype=torch.float64) * 0.8 + 0.1


def snapshot(model: nn.Module) -> tuple:
    """All of a model that an attack could disturb."""
    hooks = [len(h) for m in model.modules() for h in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks, m._backward_pre_hooks)]
    return (
        {k: v.clone() for k, v in model.state_dict().items()},
        [(p.requires_grad, p.grad) for p in model.parameters()],
        [m.training for m in model.modules()],
        hooks,
    )


def assert_untouched(model: nn.Module, before: tuple) -> None:
    after = snapshot(model)
    assert after[0].keys() == before[0].keys() and all(torch.equal(after[0][k], v) for k, v in before[0].items())
    assert after[1:] == before[1:]


class QuadraticLogit(nn.Module):
    """z = (0, q(x)) with q an exact quadratic: its margin is q."""

    def __init__(self, pixels, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        half = torch.randn(pixels, pixels, generator=generator, dtype=torch.float64)
        self.register_buffer("g", torch.randn(pixels, generator=generator, dtype=torch.float64))
        self.register_buffer("H", half + half.T)

    def forward(self, x):
        flat = x.flatten(1)
        q = flat @ self.g + 0.5 * ((flat @ self.H) * flat).sum(1)
        return torch.stack([torch.zeros_like(q), q], 1)


@pytest.fixture(scope="module")
def one_thread():
    """Where other jobs run, several threads on small tensors wait for each other most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def network() -> nn.Module:
    return make_network()


@pytest.fixture
def x() -> Tensor:
    return make_images()


@pytest.fixture
def y(network: nn.Module, x: Tensor) -> Tensor:
    return network(x).argmax(1)


@pytest.fixture
def resnet() -> nn.Module:
    return make_resnet()
