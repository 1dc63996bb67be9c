"""What a network of the zoo is trained to do well: classify, resist attacks, or what two of the methods train it for.

An objective gives the loss of a batch, and of a finished network the figures that belong to it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from irlib.attacks import create_attack
from irlib.transfer import logits

ROBUST_AT = (2, 4, 8)  # grey levels of 255


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The fraction of images whose largest logit is their label's."""
    return logits(model, x).argmax(1).eq(y).float().mean().item()


def robust_accuracy(model: nn.Module, x: Tensor, y: Tensor, eps: float, batch: int = 500) -> float:
    """The fraction of images still classified right after PGD under ℓ∞: 20 steps of eps/8 from one random start, its last step judged."""
    right = 0.0
    for i, (part, labels) in enumerate(zip(tqdm(x.split(batch), desc="PGD-20", leave=False), y.split(batch), strict=True)):
        attack = create_attack("pgd", model, eps=eps, steps=20, random_start=True, seed=i)
        right += accuracy(model, attack(part, labels), labels) * len(part)
    return right / len(x)


@dataclass(frozen=True)
class Classify:
    """Cross-entropy. The other objectives are of its form."""

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        """Of a batch, to be minimised; ``model`` is in train mode before and after."""
        return F.cross_entropy(model(x), y)

    def figures(self, model: nn.Module, x: Tensor, y: Tensor) -> dict:
        """What the finished ``model``, in eval mode, achieves on these images."""
        return {"accuracy": round(accuracy(model, x, y), 4)}


class _Resist(Classify):
    def figures(self, model: nn.Module, x: Tensor, y: Tensor) -> dict:
        robust = {f"{level}/255": round(robust_accuracy(model, x, y, level / 255), 4) for level in ROBUST_AT}
        return super().figures(model, x, y) | {"robust_accuracy": robust}


@dataclass(frozen=True)
class Resist(_Resist):
    """Adversarial training (Madry et al. 2018): cross-entropy after ``steps`` steps of PGD under ℓ∞, each 2.5·eps/steps long, on the network itself.

    One random start for every image and epoch; the attack sees the network in eval mode.
    """

    eps: float
    steps: int = 3

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        seed = int(torch.randint(2**31, (), generator=generator))
        model.eval()
        x = create_attack("pgd", model, eps=self.eps, alpha=2.5 * self.eps / self.steps, steps=self.steps, random_start=True, seed=seed)(x, y)
        model.train()
        return F.cross_entropy(model(x), y)


@dataclass(frozen=True)
class ResistEnsemble(_Resist):
    """Ensemble adversarial training (Tramèr et al. 2018): half of each batch is attacked by FGSM, on one of the networks ``static`` or itself.

    The static ones are held out: no experiment uses them. Each batch draws its source, and its ε as |N(0, (max_eps/2)²)| cut at max_eps
    (Kurakin et al. 2017).
    """

    static: Sequence[nn.Module] = ()
    max_eps: float = 16 / 255

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        source = [*self.static, model][torch.randint(len(self.static) + 1, (), generator=generator)]
        eps = (torch.randn((), generator=generator).abs() * self.max_eps / 2).clamp(1e-6, self.max_eps)
        half = len(x) // 2
        model.eval()
        attacked = create_attack("fgsm", source, eps=float(eps))(x[:half], y[:half])
        model.train()
        return F.cross_entropy(model(torch.cat([attacked, x[half:]])), y)


@dataclass(frozen=True)
class Intrinsic(Classify):
    """The IA attack's fine-tuning (M5, Eq. 207): maximise −∇·(∇log p_y/‖∇log p_y‖₂), here by descending cross-entropy + ``weight`` × divergence.

    The cross-entropy keeps the accuracy; the divergence is taken on a ``share`` of each batch. It is Hutchinson's estimate: for random signs r,
    rᵀJr has the mean tr J and, S being J's symmetric part, the variance 2·Σ_{i≠j} S_ij². BatchNorm stays in eval mode, or an image's gradient
    would be its batch's.
    """

    weight: float
    share: float = 0.25

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        model.eval()
        few = math.ceil(self.share * len(x))
        return F.cross_entropy(model(x), y) + self.weight * divergence(model, x[:few], y[:few], 1, generator).mean()

    def figures(self, model: nn.Module, x: Tensor, y: Tensor, probes: int = 8) -> dict:
        generator = torch.Generator().manual_seed(0)
        estimates = torch.cat(
            [divergence(model, a, b, probes, generator).detach() for a, b in zip(x[:1000].split(100), y[:1000].split(100), strict=True)]
        )
        mean = estimates.mean(1)
        return super().figures(model, x, y) | {
            "divergence": {
                "images": len(mean),
                "probes": probes,
                "mean": round(mean.mean().item(), 4),
                "variance over images": round(mean.var().item(), 4),
                "variance of one probe": round(estimates.var(1).mean().item(), 4),
            }
        }


def divergence(model: nn.Module, x: Tensor, y: Tensor, probes: int, generator: torch.Generator) -> Tensor:
    """(batch, probes): estimates of ∇·s at each image, s = ∇log p_y/‖∇log p_y‖₂; differentiable in the model's parameters.

    Only their mean over probes means something. With a piecewise linear network it is that of its linear region.
    """
    x = x.detach().requires_grad_()
    log_p = F.log_softmax(model(x).double(), 1).gather(1, y[:, None])  # float64: where p_y is near 1 its gradient is a small difference
    (g,) = torch.autograd.grad(log_p.sum(), x, create_graph=True)
    s = g / torch.linalg.vector_norm(g, dim=(1, 2, 3), keepdim=True).clamp_min(torch.finfo(g.dtype).tiny)
    estimates = []
    for _ in range(probes):
        r = (2 * torch.randint(2, x.shape, generator=generator) - 1).to(x)
        (jr,) = torch.autograd.grad((s * r).sum(), x, create_graph=True)  # Jᵀr
        estimates.append((jr * r).sum((1, 2, 3)))
    return torch.stack(estimates, 1)


@dataclass(frozen=True)
class OneVsRest(Classify):
    """The FD attack's heads (M11): each answers "this class or another?", by binary cross-entropy."""

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        z = model(x)
        return F.binary_cross_entropy_with_logits(z, F.one_hot(y, z.shape[1]).to(z), reduction="sum") / len(x)

    def figures(self, model: nn.Module, x: Tensor, y: Tensor) -> dict:
        says = logits(model, x) > 0
        own = says.gather(1, y[:, None])[:, 0].float()
        others = (~says).scatter(1, y[:, None], False).sum(1) / (says.shape[1] - 1)
        heads = [round(((own[y == k].mean() + (~says[y != k, k]).float().mean()) / 2).item(), 4) for k in range(says.shape[1])]
        return super().figures(model, x, y) | {
            "heads": heads,
            "own class found": round(own.mean().item(), 4),
            "other classes rejected": round(others.mean().item(), 4),
        }
