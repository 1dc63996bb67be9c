"""SGM (M9): less of the gradient through residual branches. Network slot."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from torch import Tensor, nn

from irlib.attacks.loop import Attack, stacked
from irlib.draws import Draws
from irlib.surgery import is_dense, outputs, residual_branches


def sgm(attack: Attack, gamma: float | None = None) -> Attack:
    """SGM (Wu et al. 2020): the forward pass as it is; going back, ∂x_{l+1}/∂x_l = I + γ ∂F/∂x_l for every residual branch F (Eq. 320).

    ``gamma`` in [0, 1]; by default the published 0.2 for residual networks, 0.5 for DenseNets. The authors' code reaches the branches through
    their ReLUs, by √γ each where a branch has two, and leaves each stage's first block alone; other codes leave no block out, as we do by
    Eq. 320. It also divides the gradient by its standard deviation at every block: one number a pass, which no sign step sees.
    """
    branches = residual_branches(attack.model)
    if gamma is None:
        gamma = 0.5 if is_dense(attack.model) else 0.2
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma must lie in [0, 1], got {gamma}")

    def damped(out: Tensor) -> Tensor:
        if out.requires_grad:
            out.register_hook(lambda g: gamma * g)
        return out

    @contextmanager
    def network(model: nn.Module, draws: Draws) -> Iterator[nn.Module]:
        with outputs(dict.fromkeys(branches.values(), damped)):
            yield model

    return replace(attack, network=stacked(attack.network, network))
