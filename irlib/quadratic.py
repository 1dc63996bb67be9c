"""The loss as a quadratic form, L(x+δ) = L(x) + gᵀδ + ½δᵀHδ (Assumption 1), and what gradient ascent does on it, in closed form.

Symbols are the paper's: H = VΛVᵀ, γ = Vᵀg, strength β = αm. Everything is float64.
"""

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from irlib import _check
from irlib.amplification import amplification, momentum_amplification, reverse_amplification


class Quadratic:
    """The quadratic loss of gradient ``g`` (n,) and symmetric Hessian ``H`` (n, n), as eigenvalues and modes.

    Attributes:
        g: float64 (n,).
        eigenvalues: float64 (r,), λ_i in falling order; r = n here, at most c − 1 from `at`. All other eigenvalues are 0.
        modes: float64 (n, r), the eigenvectors v_i as orthonormal columns.
        gamma: float64 (r,), γ_i = gᵀv_i.

    Raises ValueError where shapes do not fit, H is not symmetric, or an entry is not finite.
    """

    def __init__(self, g: Tensor, H: Tensor):
        g, H = torch.as_tensor(g).double(), torch.as_tensor(H).double()
        if g.ndim != 1 or H.shape != (len(g), len(g)):
            raise ValueError(f"g and H must have shapes (n,) and (n, n), got {tuple(g.shape)} and {tuple(H.shape)}")
        if not (torch.isfinite(g).all() and torch.isfinite(H).all()):
            raise ValueError("g and H must be finite")
        if not torch.allclose(H, H.T, rtol=1e-9, atol=1e-12 * float(H.abs().max())):
            raise ValueError("H must be symmetric: a Hessian is; use (H + H.T) / 2 where only the quadratic form is meant")
        eigenvalues, modes = torch.linalg.eigh(H)
        self._set(g, eigenvalues.flip(0), modes.flip(1))

    def _set(self, g: Tensor, eigenvalues: Tensor, modes: Tensor) -> None:
        self.g, self.eigenvalues, self.modes = g, eigenvalues, modes
        self.gamma = modes.T @ g
        self._rest = g - modes @ self.gamma  # the part of g that the Hessian does not see

    @classmethod
    def at(cls, model: nn.Module, x: Tensor, y: Tensor) -> "Quadratic":
        """The cross-entropy of ``model`` around one image: g and the low-rank Hessian, from the c gradients of the logits.

        With w_k = ∇z_k and p = softmax(z): g = Σ_k p_k (w_k − w_y) and H = W̃(diag p − ppᵀ)W̃ᵀ = Σ_k p_k (w_k − w_y − g)(w_k − w_y − g)ᵀ,
        the covariance of the class gradients under p. It has rank ≤ c − 1, is positive semi-definite, and g lies in its range.

        Exact (almost everywhere) for piecewise linear networks: convolution, affine, ReLU, pooling, BatchNorm in eval mode. For smooth
        networks the term Σ_k (p_k − 1[k=y]) ∇²z_k, the curvature of the logits themselves, is left out (the Gauss–Newton approximation).

        The differences w_k − w_y are formed first, so that g and H keep their relative accuracy for confident images, whose 1 − p_y is tiny.

        Args:
            model: in eval mode; a float64 copy is evaluated, the model itself is not touched.
            x: one image (1, channels, height, width) in [0, 1]; n = channels·height·width, in the order of x.flatten().
            y: int64 label (1,).
        """
        _check.eval_mode(model)
        _check.images(x, model)
        if len(x) != 1:
            raise ValueError(f"Quadratic.at takes one image (1, channels, height, width), got {tuple(x.shape)}: loop over the images")
        z, w = _logit_gradients(copy.deepcopy(model).double(), x.detach().double())
        _check.labels(y, x, len(z))
        p = z.softmax(0)
        w = w - w[:, y]
        g = w @ p
        # H = BBᵀ: the eigenproblem of H (n×n) is the singular value problem of the triangle of B (c×c).
        orthonormal, triangle = torch.linalg.qr((w - g[:, None]) * p.sqrt())
        left, singular, _ = torch.linalg.svd(triangle)
        kept = singular[:-1] > singular[0] * max(w.shape) * torch.finfo(torch.float64).eps
        self = cls.__new__(cls)
        self._set(g, singular[:-1][kept] ** 2, orthonormal @ left[:, :-1][:, kept])
        return self

    def amplification(self, beta: float, steps: float = math.inf) -> Tensor:
        """float64 (r,): D_ii of every mode after ``steps`` steps of total strength ``beta``; see the function `amplification`."""
        return amplification(self.eigenvalues, beta, steps)

    def single_step(self, eta: float) -> Tensor:
        """δ = ηg (Eq. 11), float64 (n,). At equal strength η = β; at equal norm (Eq. 13) see `single_step_like`."""
        _check.positive(eta, "eta")
        return eta * self.g

    def single_step_like(self, delta: Tensor) -> Tensor:
        """The single step ηg whose ℓ2 norm is that of ``delta`` (Eq. 13). Raises ValueError where g = 0 and no step has a length."""
        length = torch.linalg.vector_norm(self.g)
        if length == 0:
            raise ValueError("the gradient is zero: a single step has norm 0 whatever its size")
        return torch.linalg.vector_norm(self._vector(delta)) / length * self.g

    def multi_step(self, alpha: float, steps: int) -> Tensor:
        """δ^(m) = V D^(m) γ (Lemma 1), float64 (n,): m = ``steps`` gradient steps of size ``alpha`` from δ = 0, without sign or clip."""
        return self._combined(_strength(alpha, steps), steps)

    def infinite_step(self, beta: float) -> Tensor:
        """δ^(∞) = V D γ (Corollary 1), float64 (n,): the limit m → ∞ at fixed strength β = αm, gradient flow until time β."""
        return self._combined(beta, math.inf)

    def mi(self, alpha: float, steps: int) -> Tensor:
        """The idealised MI attack (Eq. 14), float64 (n,): steps along the mean of all gradients so far; see `momentum_amplification`."""
        beta = _strength(alpha, steps)
        return self._spread(momentum_amplification(self.eigenvalues, beta, steps), beta)

    def mi_infinite(self, beta: float) -> Tensor:
        """Its limit m → ∞ at fixed β = αm."""
        return self._spread(momentum_amplification(self.eigenvalues, beta), beta)

    def rap(self, alpha: float, steps: int, inner_steps: int) -> Tensor:
        """The idealised RAP attack (Eq. 239–240), float64 (n,): each step is taken where ``inner_steps`` steps of descent, as long, have led to."""
        beta, beta_r = _strength(alpha, steps), _strength(alpha, inner_steps)
        return self._spread(reverse_amplification(self.eigenvalues, beta, beta_r, steps, inner_steps), beta)

    def rap_infinite(self, beta: float, beta_r: float) -> Tensor:
        """Its limit of many small steps, outside and inside, at fixed strengths β and β_r (Eq. 262)."""
        return self._spread(reverse_amplification(self.eigenvalues, beta, beta_r), beta)

    def il(self, eta: float, beta: float, steps: float = math.inf) -> Tensor:
        """The idealised IL attack, η·δ_base (Eq. 276), float64 (n,): δ_base the multi-step attack of strength ``beta`` in ``steps`` steps."""
        _check.positive(eta, "eta")
        return eta * self._combined(beta, steps)

    def pi(self, alpha: float, first: int, second: int, A: Tensor) -> Tensor:
        """The idealised two-stage PI attack (Eq. 172), float64 (n,): ``first`` plain steps, then ``second`` steps α·A∇ with one matrix ``A`` (n, n).

        The second stage (Lemma 12) is linear and its gradient stays in g₁ + span V: the power of a (2r+1)-square matrix sums its steps up.
        """
        before, beta = self.multi_step(alpha, first), _strength(alpha, second)
        return before + self._redistributed(before, A, lambda M: torch.linalg.matrix_power(torch.eye(len(M)).to(M) + alpha * M, second), beta)

    def pi_infinite(self, beta_1: float, beta_2: float, A: Tensor) -> Tensor:
        """Its limit of many small steps at fixed strengths of the two stages (Eq. 180); Lemma 13 where H has one mode."""
        _check.positive(beta_2, "beta_2")
        before = self.infinite_step(beta_1)
        return before + self._redistributed(before, A, lambda M: torch.linalg.matrix_exp(beta_2 * M), beta_2)

    def _redistributed(self, before: Tensor, A: Tensor, propagator: Callable[[Tensor], Tensor], beta: float) -> Tensor:
        """A·∫h, where h' = HAh from h₀ = g + H·before. In h = h₀ + Vc: c' = Nc + b with N = ΛVᵀAV and b = ΛVᵀAh₀; and ∫c = e, e' = c."""
        A = torch.as_tensor(A).double()
        if A.shape != (len(self.g), len(self.g)) or not torch.isfinite(A).all():
            raise ValueError(f"A must have shape ({len(self.g)}, {len(self.g)}), got {tuple(A.shape)}, and be finite")
        h, r = self.gradient(before), len(self.eigenvalues)
        length = torch.linalg.vector_norm(h).clamp_min(torch.finfo(h.dtype).tiny)  # taken out: M's norm decides how its exponential is rounded
        left = self.eigenvalues[:, None] * (self.modes.T @ A)
        M = torch.zeros(2 * r + 1, 2 * r + 1, dtype=torch.float64)  # acts on (c, e, 1)
        M[:r, :r], M[:r, -1], M[r:-1, :r] = left @ self.modes, left @ (h / length), torch.eye(r)
        return _finite(A @ (beta * h + length * (self.modes @ propagator(M)[r:-1, -1])), "δ")

    def interaction(self, delta: Tensor) -> Tensor:
        """δᵀHδ = Σ_i λ_i (v_iᵀδ)² (Lemma 2), a float64 scalar. It counts a = b too, which Eq. 12's sum over a ≠ b does not."""
        return _finite((self.eigenvalues * (self.modes.T @ self._vector(delta)) ** 2).sum(), "δᵀHδ")

    def gradient(self, delta: Tensor) -> Tensor:
        """g + Hδ, float64 (n,): the gradient of the quadratic at δ (Eq. 30)."""
        return self.g + self.modes @ (self.eigenvalues * (self.modes.T @ self._vector(delta)))

    def loss_increase(self, delta: Tensor) -> Tensor:
        """gᵀδ + ½δᵀHδ, a float64 scalar (Eq. 29)."""
        return self._vector(delta) @ self.g + self.interaction(delta) / 2

    def _combined(self, beta: float, steps: float) -> Tensor:
        return self._spread(self.amplification(beta, steps), beta)

    def _spread(self, amplification: Tensor, beta: float) -> Tensor:
        """Σ_i D_ii γ_i v_i, and β times what the Hessian does not see."""
        return _finite(self.modes @ (amplification * self.gamma) + beta * self._rest, "δ")

    def _vector(self, delta: Tensor) -> Tensor:
        delta = torch.as_tensor(delta).double().flatten()
        if delta.shape != self.g.shape:
            raise ValueError(f"delta must have {len(self.g)} entries, as g has, got {len(delta)}")
        return delta


def _strength(alpha: float, steps: int) -> float:
    _check.positive(alpha, "alpha")
    _check.at_least(steps, 1, "steps")
    return alpha * steps


def _finite(value: Tensor, what: str) -> Tensor:
    if not torch.isfinite(value).all():
        raise OverflowError(f"{what} overflows float64: choose a smaller beta (or a smaller perturbation)")
    return value


def _logit_gradients(model: nn.Module, x: Tensor, batch: int = 64) -> tuple[Tensor, Tensor]:
    """(z (c,), W̃ (n, c)): the logits of x and their gradients, c backward passes in batches of copies of x."""
    with torch.no_grad():
        z = model(x)
    _check.logits(z, 1)
    rows = []
    for classes in torch.arange(z.shape[1], device=x.device).split(batch):
        with torch.enable_grad():
            copies = x.expand(len(classes), -1, -1, -1).clone().requires_grad_()
            chosen = model(copies).gather(1, classes[:, None]).sum()
        rows.append(torch.autograd.grad(chosen, copies)[0].flatten(1))
    return z[0], torch.cat(rows).T
