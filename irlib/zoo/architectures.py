"""The small Fashion-MNIST networks: ReLU, BatchNorm, 1×28×28 in, ten logits out.

All are piecewise linear in their input (convolution, affine, ReLU, max- and average pooling), so that inside one linear region the Hessian
of the cross-entropy is exactly W̃(diag p − ppᵀ)W̃ᵀ (`irlib.quadratic`). Residual blocks are torchvision's own `BasicBlock`, so that whatever
finds residual branches in a torchvision ResNet finds them here.
"""

from collections.abc import Callable

from torch import nn
from torchvision.models.resnet import BasicBlock

CLASSES = 10


def _conv_bn_relu(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def mlp() -> nn.Module:
    """784–256–128–10, the one network without convolutions."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, CLASSES))


def vgg() -> nn.Module:
    """Three pairs of 3×3 convolutions (20, 40, 80 channels), each pair max-pooled, and a hidden layer of 128."""
    layers: list[nn.Module] = []
    inputs = 1
    for width in (20, 40, 80):
        layers += [*_conv_bn_relu(inputs, width), *_conv_bn_relu(width, width), nn.MaxPool2d(2)]
        inputs = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(80 * 3 * 3, 128), nn.ReLU(), nn.Linear(128, CLASSES))


def resnet(blocks: int, widths: tuple[int, int, int] = (12, 24, 48)) -> nn.Module:
    """A ResNet of three stages of ``blocks`` basic blocks: 6·blocks + 2 weight layers."""
    layers = _conv_bn_relu(1, widths[0])
    inputs = widths[0]
    for stage, width in enumerate(widths):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            shortcut = None if inputs == width else nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))
            layers.append(BasicBlock(inputs, width, stride, shortcut))
            inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, CLASSES))


ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "fmnist-mlp": mlp,
    "fmnist-resnet14": lambda: resnet(2),
    "fmnist-vgg": vgg,
}
