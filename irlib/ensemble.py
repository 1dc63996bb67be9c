"""Several networks as one source."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from irlib import _check


class Ensemble(nn.Module):
    """The mean of its members' logits (Liu et al. 2017), each behind its own normalisation. The members are used, not copied.

    Raises ValueError for no members, a member in train mode, or members of different dtype or device; in its first pass for logits of
    different shapes.
    """

    def __init__(self, members: Sequence[nn.Module]):
        super().__init__()
        if not members:
            raise ValueError("an ensemble needs at least one model")
        for member in members:
            _check.eval_mode(member)
        kinds = {(p.dtype, p.device) for member in members for p in list(member.parameters())[:1]}
        if len(kinds) > 1:
            raise ValueError(f"the models of an ensemble must share dtype and device, got {', '.join(f'{d} on {v}' for d, v in kinds)}")
        self.members = nn.ModuleList(members)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        logits = [member(x) for member in self.members]
        if len({z.shape for z in logits}) > 1:
            raise ValueError(f"the models of an ensemble must have the same classes, got logits {[tuple(z.shape) for z in logits]}")
        return torch.stack(logits).mean(0)


def members(model: nn.Module) -> list[nn.Module]:
    """The networks that ``model`` is made of: itself, or an ensemble's."""
    return list(model.members) if isinstance(model, Ensemble) else [model]
