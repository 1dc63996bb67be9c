"""FD (M11): shallow one-vs-all heads instead of the deep layers. Network slot, and their probability as objective."""

from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor, nn

from irlib import _check
from irlib.attacks.loop import Ascended, Attack, Opened
from irlib.draws import Draws


@dataclass(frozen=True)
class HeadProbability:
    """log σ(z_y) of class y's own head if ``targeted``, else its negative; of the same direction as σ(z_y), which saturates."""

    targeted: bool

    def __call__(self, opened: Opened, x: Tensor, y: Tensor, draws: Draws) -> Ascended:
        sign = 1 if self.targeted else -1
        return lambda source, base, delta: sign * F.logsigmoid(source(base + delta).double()).gather(1, y[:, None])[:, 0]


def fd(attack: Attack, heads: nn.Module | None = None) -> Attack:
    """FD (Inkawhich et al. 2020): a two-layer network on f_l for each class; ascend the target's probability σ(h⁽ᵗ⁾(f_l(x+δ))).

    ``heads``: images in [0, 1] to one logit a class, each the answer to its own question; by default the heads trained on the source where the
    zoo has them ("fmnist-resnet14", "fmnist-vgg", or their "-fd" themselves). The target class is y, with targeted=True, which is the
    published attack; without, the own class's probability is descended, an extension that makes it comparable with the others.
    Published, as far as known, with momentum (`decay`, as MI's), ε = 16/255 and 10 steps; there is no public code. What benchmarks call
    FDA is another attack (feature disruption).
    """
    if heads is None:
        heads = getattr(attack.model, "heads", None)
        if heads is None:
            raise ValueError(
                f"fd needs heads: looked for `heads` on {type(attack.model).__name__}, which 'fmnist-resnet14' and 'fmnist-vgg' of irlib.load_model "
                "have, and found none. Give heads= with a network from images to one logit a class, each head answering for its own class"
            )
        heads = heads().to(next(attack.model.parameters()))
    _check.eval_mode(heads)
    return replace(attack, network=lambda model, draws: nullcontext(heads), objective=HeadProbability(attack.objective.targeted))
