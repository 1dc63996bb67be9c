"""IR: the loss minus the interaction. Objective slot."""

from dataclasses import dataclass, replace

from torch import Tensor, nn

from irlib.attacks.loop import Ascended, Attack, CrossEntropy, Opened
from irlib.draws import Draws
from irlib.loss import Coalitions, contrasts, pass_key, sum_over
from irlib.memory import PassSize


@dataclass(frozen=True)
class MinusInteraction:
    """loss − ``lam`` × the interaction loss (Eq. 16), over coalitions drawn anew at each call; the interaction alone for lam = ∞."""

    loss: CrossEntropy
    lam: float
    coalitions: Coalitions

    def __call__(self, opened: Opened, x: Tensor, y: Tensor, draws: Draws) -> Ascended:
        settings = self.coalitions
        units, n = settings.cells(x)
        own, penalty = (0.0, 1.0) if self.lam == float("inf") else (1.0, self.lam / settings.divisor(n))
        sign = -1 if self.loss.targeted else 1  # the reward is what is ascended: a target's loss with its sign turned

        def ascended(source: nn.Module, base: Tensor, delta: Tensor) -> Tensor:
            present = settings.drawn(draws, n)
            z, _, mean = contrasts(source, base, delta, y, present, units, settings.utility)
            return own * self.loss.of(z, y) - sign * penalty * mean

        return ascended


@dataclass(frozen=True)
class PatchesDropped:
    """The control of equal cost: the mean loss over 1 + 2·draws perturbations, each without ``coalition`` random cells; no interaction."""

    loss: CrossEntropy
    coalitions: Coalitions

    def __call__(self, opened: Opened, x: Tensor, y: Tensor, draws: Draws) -> Ascended:
        units, n = self.coalitions.cells(x)
        dropped = self.coalitions.coalition or n // 2
        samples = 1 + 2 * self.coalitions.draws

        def ascended(source: nn.Module, base: Tensor, delta: Tensor) -> Tensor:
            kept = draws.uniform(samples, n).argsort(2).argsort(2) >= dropped
            with PassSize(source, pass_key(base, delta)) as one:
                first = self.loss.of(source(base + delta * kept[:, 0, units][:, None]), y)
            rest = sum_over(kept[:, 1:], units, source, base, delta, lambda z, k: self.loss.of(z, y.repeat(k)), one)
            return (first + rest) / samples

        return ascended


def ir(
    attack: Attack,
    lam: float = 1.0,
    grid: int | None = None,
    draws: int = 32,
    coalition: int | None = None,
    utility: str = "ce",
    scaling: str = "authors",
    sampler: str = "stratified",
    control: bool = False,
) -> Attack:
    """IR (Eq. 16): ascend Loss(x+δ) − λ·interaction, the interaction estimated anew at every step from random coalitions of grid cells.

    ``lam`` λ ≥ 0; the other arguments are those of `irlib.interaction_loss`. With scaling="authors" λ = 1 is the authors' λ = 1 (the paper: 1
    for ResNets, 2 for others): their estimator is ≈ 6805 times Eq. 16's mean pairwise interaction on 16×16 cells, so scaling="paper" needs a λ
    that much larger for the same attack. ``lam=inf`` ascends −interaction alone and needs random_start=True: at δ = 0 the interaction has no
    gradient. Under VR ("vr+ir") the interaction is that around x + ξ_k (Eq. 333); the authors' code takes it around x, and sums the loss over
    the copies, which divides λ by their number. The authors' reward is the margin, "ce" is the text's; and their coalitions are those of
    sampler="authors", whose estimate is the noisier one of the same loss. Costs 1 + 2·draws passes a step (the
    authors' code 67 for 32 draws: the full perturbation goes through twice, the clean image every time).
    ``control=True``: an attack of the same cost and no interaction, the loss averaged over 1 + 2·draws perturbations with ``coalition`` cells
    dropped (half of them by default), to tell what dropping patches does by itself. lam, utility and scaling are then without effect.
    TransferAttack's version adds the interaction instead of subtracting it, and masks one row of the batch.
    """
    if not lam >= 0:
        raise ValueError(f"lam must be ≥ 0 (inf for the interaction alone), got {lam}")
    settings = Coalitions(grid, draws, coalition, utility, scaling, sampler)
    if control:
        return replace(attack, objective=PatchesDropped(attack.objective, settings))
    if lam == float("inf") and not attack.random_start:
        raise ValueError("lam=inf needs random_start=True: at δ = 0 the interaction's gradient is exactly zero, and the attack would stay there")
    return replace(attack, objective=MinusInteraction(attack.objective, lam, settings))
