"""Balanced predictions (Definition 1), the single step's interaction under orthogonal classes (Theorem 3), and Proposition 8.

A prediction p is float64 (…, c), probabilities over c classes; y is the true class. What is called *wrong* is every other class, and
r = 1 − p_y = Σ_{i≠y} p_i is always added up from those: for a confident image 1 − p_y itself has lost half of its digits.
"""

import torch
from torch import Tensor, nn

from irlib import _check


def wrong(p: Tensor, y: int) -> Tensor:
    """float64 (…, c−1): the probabilities of the wrong classes, in falling order. Raises ValueError for what is no prediction."""
    p = torch.as_tensor(p).double()
    if p.ndim < 1 or p.shape[-1] < 2 or not torch.isfinite(p).all() or (p < 0).any() or ((p.sum(-1) - 1).abs() > 1e-6).any():
        raise ValueError("a prediction must be probabilities (…, classes ≥ 2) that sum to 1: use logits.double().softmax(-1)")
    if not 0 <= y < p.shape[-1]:
        raise ValueError(f"y must be one of the classes 0 … {p.shape[-1] - 1}, got {y}")
    return torch.cat([p[..., :y], p[..., y + 1 :]], -1).sort(-1, descending=True).values


def more_balanced(q: Tensor, p: Tensor, y: int, tolerance: float = 1e-9) -> bool:
    """Definition 1 but for p_y ≥ ½: q_y = p_y, and each gap between neighbours among the sorted wrong classes is no larger in q than in p.

    ``tolerance`` is relative to 1 − p_y, both for the equality and for the gaps; exact equality never occurs between two networks.
    """
    q, p = _comparable(q, p, y)
    return _same_rest(q, p, tolerance) and bool(((q[:-1] - q[1:]) - (p[:-1] - p[1:]) <= tolerance * p.sum()).all())


def majorised(q: Tensor, p: Tensor, y: int, tolerance: float = 1e-9) -> bool:
    """q_y = p_y, and for every k the k largest wrong classes of q hold no more than those of p. `more_balanced` implies it."""
    q, p = _comparable(q, p, y)
    return _same_rest(q, p, tolerance) and bool((q.cumsum(0) - p.cumsum(0) <= tolerance * p.sum()).all())


def competitors(p: Tensor, y: int) -> Tensor:
    """float64 (…): r²/Σ_{i≠y}p_i², the effective number of wrong classes: 1 if one holds all of r, c − 1 if all hold the same.

    A measure of balance that does not depend on r; where `majorised` orders two predictions, it orders them the same way.
    """
    w = wrong(p, y)
    shares = w / w.sum(-1, keepdim=True)
    return 1 / (shares**2).sum(-1)


def rebalanced(p: Tensor, y: int, share: float) -> Tensor:
    """p with every wrong class moved by ``share`` of its way to their mean; p_y stays. For 0 ≤ share ≤ 1 `more_balanced` than p.

    A real network can be given it: log(rebalanced / p), added to the logits, is a change of the last bias; see `Rebiased`.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must lie in [0, 1], got {share}: 0 leaves p as it is, 1 makes the wrong classes equal")
    w, p = wrong(p, y), torch.as_tensor(p).double()
    moved = (1 - share) * p + share * w.mean(-1, keepdim=True)
    moved[..., y] = p[..., y]
    return moved


def single_step_interaction(p: Tensor, y: int, kappa: float | Tensor = 1.0, eta: float = 1.0) -> Tensor:
    """δᵀHδ for δ = ηg under Assumption 3 (Eq. 103), float64 (…): η²κ²[Σp_i³ + p_y(1−p_y)² − (Σp_i² − p_y(1−p_y))²], sums over i ≠ y.

    With r = 1 − p_y and s = Σp_i² the bracket is Σp_i³ + p_y r³ + 2p_y r s − s², where nothing cancels for small r.
    """
    w = wrong(p, y)
    r, s = w.sum(-1), (w**2).sum(-1)
    right = 1 - r
    return (eta * kappa) ** 2 * ((w**3).sum(-1) + right * r**3 + 2 * right * r * s - s**2)


def squared_gradient(p: Tensor, y: int, kappa: float | Tensor = 1.0) -> Tensor:
    """‖g‖² under Assumption 3, float64 (…): κ‖p − Y‖² = κ[Σ_{i≠y}p_i² + (1 − p_y)²]."""
    w = wrong(p, y)
    return kappa * ((w**2).sum(-1) + w.sum(-1) ** 2)


class Rebiased(nn.Module):
    """``model`` with ``shift`` (c,) or (batch, c) added to its logits: other predictions, the same class gradients at every image."""

    def __init__(self, model: nn.Module, shift: Tensor):
        super().__init__()
        self.model = model
        self.register_buffer("shift", shift)
        self.train(model.training)

    def forward(self, x: Tensor) -> Tensor:
        """The shifted logits (batch, c)."""
        z = self.model(x)
        return z + self.shift.to(z)


def class_gradients(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """(z (batch, c), W̃ᵀ (batch, c, n)), float64: the logits of images and their gradients, one forward and c backward passes of the batch.

    Computed in the model's own precision; `irlib.Quadratic.at` has one image in float64.
    """
    _check.eval_mode(model)
    _check.images(x, model)
    with torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        z = model(x)
        _check.logits(z, len(x))
        rows = [torch.autograd.grad(column.sum(), x, retain_graph=True)[0].flatten(1) for column in z.unbind(1)]
    return z.detach().double(), torch.stack(rows, 1).double()


def class_gram(gradients: Tensor, centred: bool = True) -> Tensor:
    """float64 (…, c, c): the inner products of the class gradients W̃ᵀ (…, c, n), by default after their mean over classes is taken off.

    Softmax does not see what is common to all logits, so only the centred ones matter. Assumption 3 makes the Gram matrix κI, and κ(I − 11ᵀ/c)
    when centred.
    """
    if centred:
        gradients = gradients - gradients.mean(-2, keepdim=True)
    return gradients @ gradients.mT


def kappa(gram: Tensor) -> Tensor:
    """float64 (…): the κ for which κ(I − 11ᵀ/c) comes closest to a centred Gram matrix (…, c, c): its trace over c − 1."""
    return gram.diagonal(dim1=-2, dim2=-1).sum(-1) / (gram.shape[-1] - 1)


def quadratic_form(gram: Tensor, p: Tensor, y: int) -> tuple[Tensor, Tensor]:
    """(gᵀHg, gᵀg), float64 (…), of a piecewise linear network with Gram matrix W̃ᵀW̃ (…, c, c), centred or not, and prediction p (…, c).

    With a = p − Y: gᵀg = aᵀGa and gᵀHg = aᵀG(diag p − ppᵀ)Ga, the variance under p of the entries of Ga. No assumption on G.
    """
    p = torch.as_tensor(p).double()
    a = p.clone()
    a[..., y] = -wrong(p, y).sum(-1)
    pulled = (gram @ a[..., None])[..., 0]
    mean = (p * pulled).sum(-1, keepdim=True)
    return (p * (pulled - mean) ** 2).sum(-1), (a * pulled).sum(-1)


def noisy(p: Tensor, tau: float | Tensor) -> Tensor:
    """p̄_i(τ) for every class (Eq. 304): the mean of its probability with its logit raised and lowered by ``tau``, all others held.

    (p² + ωp(1−p)) / (1 + 2(ω−1)p(1−p)) with ω = cosh τ (Eq. 306), float64 (…); each class by itself, so the results need not sum to 1.
    """
    p, omega = torch.as_tensor(p).double(), torch.cosh(torch.as_tensor(tau).double())
    if ((p < 0) | (p > 1)).any():
        raise ValueError("p must hold probabilities, between 0 and 1: use logits.double().softmax(-1)")
    return (p**2 + omega * p * (1 - p)) / (1 + 2 * (omega - 1) * p * (1 - p))


def _comparable(q: Tensor, p: Tensor, y: int) -> tuple[Tensor, Tensor]:
    q, p = wrong(q, y), wrong(p, y)
    if q.ndim != 1 or q.shape != p.shape:
        raise ValueError(f"two predictions of the same classes are compared, (classes,) each; got {len(q.shape)} and {len(p.shape)} axes, "
                         f"{q.shape[-1] + 1} and {p.shape[-1] + 1} classes")  # fmt: skip
    return q, p


def _same_rest(q: Tensor, p: Tensor, tolerance: float) -> bool:
    return bool((q.sum() - p.sum()).abs() <= tolerance * p.sum())
