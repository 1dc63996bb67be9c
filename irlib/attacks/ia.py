"""IA (M5): a smooth network with weaker residual branches. Network slot."""

import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

from torch import nn

from irlib.attacks.loop import Attack, stacked
from irlib.surgery import Smoothed, branches, is_dense

RESIDUAL, DENSENET = (0.98, 0.87, 0.73, 0.19), (0.8, 0.8, 0.8, 0.44)  # the four stages' scales


def published_scales(model: nn.Module) -> list[float]:
    """The published scale of each branch: by its stage, where the block's name has one, else by the quarter of the depth it lies in."""
    blocks = branches(model)
    by_stage = DENSENET if is_dense(model) else RESIDUAL
    stages = [re.search(r"(?:layer|denseblock)([1-4])\b", name) for name in blocks]
    return [by_stage[int(stage[1]) - 1 if stage else 4 * i // len(blocks)] for i, stage in enumerate(stages)]


def ia(attack: Attack, beta: float = 20.0, residual_scale: float | Sequence[float] | None = None) -> Attack:
    """IA (Zhu et al. 2022), as its public code has it: every ReLU becomes Softplus of ``beta``, every residual branch is scaled; then attack that.

    ``residual_scale``: one number for all branches or one for each; by default the published ones of the four stages, 0.98, 0.87, 0.73,
    0.19 (DenseNets 0.8, 0.8, 0.8, 0.44), spread over the depth where a network has no such stages; networks without branches are smoothed only.
    Published ``beta``: 20 for ResNets up to 50, 32 for ResNet-152, 35 for DenseNets; the authors search both on held-out images. The paper
    (Eq. 207) trains the network for its aim instead: that one is "fmnist-resnet14-ia", any attack's source.
    """
    scales = residual_scale if residual_scale is not None else published_scales(attack.model) or 1.0
    smooth = Smoothed(attack.model, beta, scales)
    return replace(attack, network=stacked(attack.network, lambda model, draws: nullcontext(smooth)))
