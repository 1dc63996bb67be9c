"""How much of the gradient's part along an eigenvector ends up in the perturbation: D_ii of every attack that has a closed form in modes.

For an eigenvalue λ and strength β = αm, δ = Σ_i D(λ_i) γ_i v_i. Everything is float64; for λ → 0 every D is β. Each raises ValueError for
β ≤ 0 or a step number that is not a whole number ≥ 1, and OverflowError, naming β and λ, where the result exceeds float64.
"""

import math

import torch
from scipy.special import eval_laguerre, i0, j0
from torch import Tensor

from irlib import _check

MODERATE = 1.0  # |βλ| up to which the momentum series is summed: above, its closed forms lose no digits to the subtraction of 1


def amplification(eigenvalues: Tensor, beta: float, steps: float = math.inf) -> Tensor:
    """D_ii for each eigenvalue λ: ((1+αλ)^m − 1)/λ with α = β/m (Lemma 1; its main-text print has m−1), (e^{βλ} − 1)/λ for m = ∞ (Corollary 1).

    Written with expm1 and log1p, so that no digits are lost near λ = 0.
    """
    lam = torch.as_tensor(eigenvalues).double()
    return _grown(lam, torch.ones_like(lam), beta, steps)


def momentum_amplification(eigenvalues: Tensor, beta: float, steps: float = math.inf) -> Tensor:
    """D_ii of the idealised MI attack (Eq. 14): Σ_{k=1}^m C(m,k) α^k λ^{k−1}/k! with α = β/m, and Σ_k β^k λ^{k−1}/(k!)² for m = ∞.

    Every term is that of plain gradient ascent divided by k!. In closed form (L_m(−αλ) − 1)/λ, L_m the Laguerre polynomial, and
    (I₀(2√(βλ)) − 1)/λ, I₀ the Bessel function (J₀(2√(−βλ)) for λ < 0). The paper has the recursion of the coefficients (Eq. 120) without its
    solution: with p_t the sum of the gradients so far, t(d_t − d_{t−1}) = αp_t and p_t − p_{t−1} = 1 + λd_{t−1}, which for m → ∞ is (t d')' = 1 + λd.
    """
    _check.positive(beta, "beta")
    lam = torch.as_tensor(eigenvalues).double()
    z = beta * lam
    if steps == math.inf:
        ratio = [1 / (k + 1) ** 2 for k in range(1, 25)]
        grown = torch.where(z >= 0, torch.as_tensor(i0(2 * z.clamp_min(0).sqrt().numpy())), torch.as_tensor(j0(2 * (-z).clamp_min(0).sqrt().numpy())))
    else:
        _check.at_least(steps, 1, "steps")
        ratio = [(1 - k / steps) / (k + 1) ** 2 for k in range(1, 25)]
        grown = torch.as_tensor(eval_laguerre(int(steps), (-z / steps).numpy()))
    term = series = torch.full_like(z, beta)
    for r in ratio:
        term = term * z.clamp(-MODERATE, MODERATE) * r
        series = series + term
    return _finite(torch.where(z.abs() <= MODERATE, series, (grown - 1) / torch.where(lam == 0, 1.0, lam)), beta, lam)


def reverse_amplification(eigenvalues: Tensor, beta: float, beta_r: float, steps: float = math.inf, inner_steps: float = math.inf) -> Tensor:
    """D_ii of the idealised RAP attack: (e^{βλρ} − 1)/λ with ρ = e^{−β_r λ}, and ((1+αλρ)^m − 1)/λ with ρ = (1 − αλ)^{m_r}, α = β/m.

    That is ρ times the plain amplification of the eigenvalue λρ. The proof of Lemma 20 arrives at this (Eq. 260, 262); its statement, and
    Corollary 5, have the ρ outside the power. For finite steps the inner steps are of length α as well (Eq. 239): β_r = α·inner_steps.
    """
    if not 0 <= beta_r < math.inf:
        raise ValueError(f"beta_r must be a finite number ≥ 0, got {beta_r}")
    if inner_steps != math.inf:
        _check.at_least(inner_steps, 1, "inner_steps")
    lam = torch.as_tensor(eigenvalues).double()
    damping = torch.exp(-beta_r * lam) if inner_steps == math.inf else (1 - beta_r / inner_steps * lam) ** inner_steps
    return _grown(lam, damping, beta, steps)


def _grown(lam: Tensor, factor: Tensor, beta: float, steps: float) -> Tensor:
    """((1 + αλρ)^m − 1)/λ, or (e^{βλρ} − 1)/λ, for ρ = ``factor``."""
    _check.positive(beta, "beta")
    mu = lam * factor
    if steps == math.inf:
        growth = torch.expm1(beta * mu)
    else:
        _check.at_least(steps, 1, "steps")
        step = beta / steps * mu
        # below −1 a step overshoots and the sign alternates: no logarithm, and no cancellation that would need one
        growth = torch.where(step >= -1, torch.expm1(steps * torch.log1p(step.clamp_min(-1))), (1 + step) ** steps - 1)
    flat = (beta * mu).abs() < torch.finfo(torch.float64).eps / 2  # D = βρ(1 + βλρ/2 + …) is βρ to the last digit
    return _finite(torch.where(flat, beta * factor, growth / torch.where(lam == 0, 1.0, lam)), beta, lam)


def _finite(d: Tensor, beta: float, lam: Tensor) -> Tensor:
    if not torch.isfinite(d).all():
        worst = lam[~torch.isfinite(d)][0].item()
        raise OverflowError(f"the amplification overflows float64 at beta={beta:g}, lambda={worst:g} (βλ = {beta * worst:g}): choose a smaller beta")
    return d
