"""The small Fashion-MNIST networks, in the roles of the paper's: ReLU, BatchNorm, 1×28×28 in, ten logits out.

All but the squeeze-and-excitation one, whose gates are sigmoids, and the IA one, whose activations are Softplus, are piecewise linear in
their input (convolution, affine, ReLU, max- and average pooling), so that inside one linear region the Hessian of the cross-entropy is exactly
W̃(diag p − ppᵀ)W̃ᵀ (`irlib.quadratic`).
Where torchvision has the block, it is torchvision's own: whatever finds residual branches, dense layers or Inception branches in its networks
finds them here.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.models.densenet import _DenseBlock, _Transition
from torchvision.models.googlenet import BasicConv2d, Inception
from torchvision.models.resnet import BasicBlock
from torchvision.ops import SqueezeExcitation

from irlib.surgery import Smoothed

CLASSES = 10


def _conv_bn_relu(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def _averaged(layers: list[nn.Module], channels: int) -> nn.Module:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES))


def mlp() -> nn.Module:
    """784–256–128–10, the one network without convolutions."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, CLASSES))


def alexnet() -> nn.Module:
    """Large filters first, few layers, max-pooling, and a hidden layer of 128 at the end."""
    layers = [*_conv_bn_relu(1, 24, 5), nn.MaxPool2d(2), *_conv_bn_relu(24, 48, 5), nn.MaxPool2d(2), *_conv_bn_relu(48, 64), *_conv_bn_relu(64, 64)]
    return nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64 * 3 * 3, 128), nn.ReLU(), nn.Linear(128, CLASSES))


def vgg() -> nn.Module:
    """Three pairs of 3×3 convolutions (20, 40, 80 channels), each pair max-pooled, and a hidden layer of 128."""
    layers: list[nn.Module] = []
    inputs = 1
    for width in (20, 40, 80):
        layers += [*_conv_bn_relu(inputs, width), *_conv_bn_relu(width, width), nn.MaxPool2d(2)]
        inputs = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(80 * 3 * 3, 128), nn.ReLU(), nn.Linear(128, CLASSES))


class SEBasicBlock(BasicBlock):
    """torchvision's basic block with a squeeze-and-excitation gate at the end of its branch."""

    def __init__(self, inplanes: int, planes: int, stride: int = 1, downsample: nn.Module | None = None):
        super().__init__(inplanes, planes, stride, downsample)
        self.gate = SqueezeExcitation(planes, planes // 4)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.gate(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))
        return self.relu(branch + (x if self.downsample is None else self.downsample(x)))


def resnet(blocks: int, widths: tuple[int, int, int] = (12, 24, 48), block: type[BasicBlock] = BasicBlock) -> nn.Module:
    """A ResNet of three stages of ``blocks`` basic blocks: 6·blocks + 2 weight layers."""
    layers = _conv_bn_relu(1, widths[0])
    inputs = widths[0]
    for stage, width in enumerate(widths):
        for i in range(blocks):
            stride = 2 if stage > 0 and i == 0 else 1
            shortcut = None if inputs == width else nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))
            layers.append(block(inputs, width, stride, shortcut))
            inputs = width
    return _averaged(layers, inputs)


def densenet(blocks: int, growth: int) -> nn.Module:
    """Three dense blocks of ``blocks`` bottleneck layers at 14×14, 7×7 and 3×3, halved between: 6·blocks + 4 weight layers."""
    layers = _conv_bn_relu(1, 24, stride=2)
    channels = 24
    for stage in range(3):
        layers.append(_DenseBlock(blocks, channels, bn_size=4, growth_rate=growth, drop_rate=0))
        channels += blocks * growth
        if stage < 2:
            layers.append(_Transition(channels, channels // 2))
            channels //= 2
    return _averaged([*layers, nn.BatchNorm2d(channels), nn.ReLU()], channels)


def inception(modules: int, width: int) -> nn.Module:
    """``modules`` GoogLeNet modules (with BatchNorm) at 14×14 and as many at 7×7; ``width`` channels in their 1×1 branch, 4·width in all."""
    layers, channels = [*_conv_bn_relu(1, 24), nn.MaxPool2d(2)], 24
    for stage in range(2):
        for _ in range(modules):
            layers.append(Inception(channels, width, width, 2 * width, width // 4, width // 2, width // 2))
            channels = 4 * width
        layers += [nn.MaxPool2d(2)] if stage == 0 else []
    return _averaged(layers, channels)


class InceptionResidual(nn.Module):
    """Three branches of 1×1 and 3×3 convolutions, joined by a linear 1×1 convolution and added to the shortcut with a small weight."""

    def __init__(self, channels: int, width: int, scale: float = 0.3):
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(BasicConv2d(channels, width, kernel_size=1), *(BasicConv2d(width, width, kernel_size=3, padding=1) for _ in range(depth)))
            for depth in range(3)
        )
        self.join = nn.Conv2d(3 * width, channels, 1)
        self.scale = scale
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(x + self.scale * self.join(torch.cat([branch(x) for branch in self.branches], 1)))


def inception_resnet(blocks: int = 3) -> nn.Module:
    """``blocks`` Inception-ResNet blocks at 14×14 and as many at 7×7, with a strided convolution before each."""
    layers: list[nn.Module] = []
    inputs = 1
    for width in (32, 64):
        layers += [*_conv_bn_relu(inputs, width, stride=2), *(InceptionResidual(width, 3 * width // 8) for _ in range(blocks))]
        inputs = width
    return _averaged(layers, inputs)


class DualPath(nn.Module):
    """A bottleneck of grouped convolutions whose first ``channels`` outputs are added to the shortcut and whose last ``growth`` are appended."""

    def __init__(self, inputs: int, channels: int, width: int, growth: int, groups: int = 4):
        super().__init__()
        self.channels = channels
        self.branch = nn.Sequential(
            *_conv_bn_relu(inputs, width, 1), nn.Conv2d(width, width, 3, padding=1, groups=groups, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.join = nn.Sequential(nn.Conv2d(width, channels + growth, 1, bias=False), nn.BatchNorm2d(channels + growth))

    def forward(self, x: Tensor) -> Tensor:
        added, appended = self.join(self.branch(x)).tensor_split([self.channels], 1)
        return torch.cat([(x[:, : self.channels] + added).relu(), x[:, self.channels :], appended.relu()], 1)


def dpn(blocks: int = 3, growth: int = 8) -> nn.Module:
    """``blocks`` dual-path blocks at 14×14 (32 residual channels) and as many at 7×7 (64), with a strided convolution before each."""
    layers: list[nn.Module] = []
    inputs = 1
    for channels in (32, 64):
        layers += _conv_bn_relu(inputs, channels, stride=2)
        for block in range(blocks):
            layers.append(DualPath(channels + block * growth, channels, channels + channels // 4, growth))
        inputs = channels + blocks * growth
    return _averaged(layers, inputs)


class OneVsAll(nn.Module):
    """The FD attack's network (M11): for each class a two-layer network of its own that tells it from the rest, on ``body``'s features.

    ``body`` is the front of a trained network and stays as it is. The heads read its features averaged over 2×2 pixels. Their outputs z_i are
    the logits of ten separate questions: σ(z_i) is the probability that the image is of class i.
    """

    def __init__(self, body: nn.Module, features: int, hidden: int = 16):
        super().__init__()
        self.body = body.requires_grad_(False)
        self.pool = nn.Sequential(nn.AvgPool2d(2), nn.Flatten())
        self.first = nn.Linear(features, CLASSES * hidden)
        self.second = nn.Conv1d(CLASSES * hidden, CLASSES, 1, groups=CLASSES)  # a group is a class: no head sees another's hidden units
        self.relu = nn.ReLU()

    def train(self, mode: bool = True) -> "OneVsAll":
        super().train(mode)
        self.body.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.relu(self.first(self.pool(self.body(x))))[..., None])[..., 0]


ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "fmnist-alexnet": alexnet,
    "fmnist-densenet22": lambda: densenet(3, growth=12),
    "fmnist-densenet40": lambda: densenet(6, growth=10),
    "fmnist-dpn": dpn,
    "fmnist-inception3": lambda: inception(1, width=32),
    "fmnist-inception3-ens3": lambda: inception(1, width=32),
    "fmnist-inception4": lambda: inception(2, width=24),
    "fmnist-inception-resnet": inception_resnet,
    "fmnist-mlp": mlp,
    "fmnist-resnet14": lambda: resnet(2),
    "fmnist-resnet14-adv2": lambda: resnet(2),
    "fmnist-resnet14-adv4": lambda: resnet(2),
    "fmnist-resnet14-adv8": lambda: resnet(2),
    "fmnist-resnet14-fd": lambda: OneVsAll(resnet(2)[:7], 24 * 7 * 7),
    "fmnist-resnet14-ia": lambda: Smoothed(resnet(2), beta=20),
    "fmnist-resnet26": lambda: resnet(4, widths=(8, 16, 32)),
    "fmnist-seresnet": lambda: resnet(2, block=SEBasicBlock),
    "fmnist-vgg": vgg,
    "fmnist-vgg-fd": lambda: OneVsAll(vgg()[:13], 40 * 7 * 7),
}
