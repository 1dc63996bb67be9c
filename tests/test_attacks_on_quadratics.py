"""Attacks on a network whose cross-entropy is a quadratic, against the closed forms of `Quadratic`: the theorems' setting, run as an attack."""

import pytest
import torch
from torch import nn

from irlib import Quadratic, create_attack


class QuadraticLoss(nn.Module):
    """Two logits whose cross-entropy for label 0 is c + gᵀd + ½dᵀHd at x = ½ + d: log(1 + e^z) = q where z = log(e^q − 1)."""

    def __init__(self, g, H, c=200.0):
        super().__init__()
        self.g, self.H, self.c = nn.Parameter(g), nn.Parameter(H), c

    def forward(self, x):
        d = (x - 0.5).flatten(1)
        q = self.c + d @ self.g + ((d @ self.H) * d).sum(1) / 2
        return torch.stack([torch.zeros_like(q), q + torch.log(-torch.expm1(-q))], 1)


def problem(seed, definite, side=3):
    generator = torch.Generator().manual_seed(seed)
    n = side * side
    g = torch.randn(n, generator=generator, dtype=torch.float64)
    B = torch.randn(n, n, generator=generator, dtype=torch.float64) / n**0.5
    H = B @ B.T if definite else B + B.T
    return QuadraticLoss(g, H).eval(), Quadratic(g, H), torch.full((1, 1, side, side), 0.5, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)


FORMS = {
    "pgd": (dict(norm="none"), lambda q, alpha, m: q.multi_step(alpha, m)),
    "fgsm": (dict(idealised=True), lambda q, alpha, m: q.single_step(alpha)),
    "mi": (dict(idealised=True), lambda q, alpha, m: q.mi(alpha, m)),
    "rap": (dict(idealised=True, inner_steps=4), lambda q, alpha, m: q.rap(alpha, m, 4)),
    "il": (dict(idealised=True, base_steps=5, base_alpha=0.07), lambda q, alpha, m: q.il(alpha * m, 0.35, 5)),
}


@pytest.mark.parametrize("definite", [True, False])
@pytest.mark.parametrize("name", FORMS)
def test_the_idealised_attack_is_its_closed_form(name, definite):
    args, closed = FORMS[name]
    for seed, (alpha, m) in enumerate([(0.05, 1), (0.05, 9), (0.1, 6), (0.2, 3)]):
        network, q, x, y = problem(seed, definite)
        run = create_attack(name, network, alpha=alpha, steps=m, **args).run(x, y, record=True)
        expected = closed(q, alpha, m)
        assert run.delta.flatten().sub(expected).norm() < 1e-10 * expected.norm()
        torch.testing.assert_close(run.losses[-1] - run.losses[0], q.loss_increase(expected)[None], rtol=1e-8, atol=1e-8)


def test_pi_in_two_stages_is_its_closed_form():
    """The middle unit reaches ε exactly after the first stage, and no other one does: A then hands its further steps to the eight around it."""
    first, second, alpha = 5, 4, 0.01
    generator = torch.Generator().manual_seed(0)
    g = 0.1 * torch.rand(9, generator=generator, dtype=torch.float64)
    g[4] = 1.0
    B = torch.randn(9, 2, generator=generator, dtype=torch.float64)
    H = 0.3 * B @ B.T
    network, q = QuadraticLoss(g, H).eval(), Quadratic(g, H)
    x, y = torch.full((1, 1, 3, 3), 0.5, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    A = torch.eye(9, dtype=torch.float64)
    A[:, 4] = 1 / 8
    A[4, 4] = 0
    eps = float(q.multi_step(alpha, first)[4])
    run = create_attack("pi", network, idealised=True, eps=eps, alpha=alpha, steps=first + second).run(x, y, record=True)
    expected = q.pi(alpha, first, second, A)
    assert run.delta.flatten().sub(expected).norm() < 1e-10 * expected.norm()
    torch.testing.assert_close(run.delta[0, 0, 1, 1], torch.tensor(eps, dtype=torch.float64), rtol=1e-12, atol=0)
    assert run.delta.flatten()[[0, 1, 2, 3, 5, 6, 7, 8]].max() < eps


def test_many_small_steps_approach_the_infinite_forms():
    network, q, x, y = problem(3, definite=True)
    beta = 0.8
    for name, args, limit in [
        ("pgd", dict(norm="none"), q.infinite_step(beta)),
        ("mi", dict(idealised=True), q.mi_infinite(beta)),
        ("rap", dict(idealised=True), q.rap_infinite(beta, beta / 2)),
    ]:
        far = []
        for m in (40, 80):
            extra = {"inner_steps": m // 2} if name == "rap" else {}
            found = create_attack(name, network, alpha=beta / m, steps=m, **args, **extra).run(x, y).delta.flatten()
            far.append((found - limit).norm() / limit.norm())
        assert far[1] < 0.03
        assert far[1] / far[0] == pytest.approx(0.5, abs=0.03)  # first order in the step
