"""PGD: every slot at its default. FGSM: its first step alone."""

from dataclasses import replace

from irlib.attacks.loop import Attack
from irlib.attacks.projection import Unconstrained


def pgd(attack: Attack) -> Attack:
    """PGD, without random start I-FGSM (Kurakin et al. 2017, Madry et al. 2018): δ ← Π(δ + α sign ∇L(x+δ)); normalised gradients under l2."""
    return attack


def fgsm(attack: Attack) -> Attack:
    """FGSM (Goodfellow et al. 2015): one step as long as the ball's radius. Under norm="none" it is the single step δ = αg of Eq. 11."""
    alpha = attack.alpha if isinstance(attack.projection, Unconstrained) else None
    return replace(attack, steps=1, alpha=alpha, fraction=1)
