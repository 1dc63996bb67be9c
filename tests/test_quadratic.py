"""The closed forms against step-by-step simulation, the low-rank Hessian against autograd's."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from irlib.amplification import amplification
from irlib.quadratic import Quadratic
from tests.conftest import assert_untouched, make_images, make_network, snapshot


def random_quadratic(n=7, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    half = scale * torch.randn(n, n, generator=generator, dtype=torch.float64)
    return torch.randn(n, generator=generator, dtype=torch.float64), half + half.T


def ascend(g, H, alpha, steps):
    """m plain gradient steps on the quadratic, one by one."""
    delta = torch.zeros_like(g)
    for _ in range(steps):
        delta = delta + alpha * (g + H @ delta)
    return delta


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("alpha", "steps"), [(0.1, 1), (0.1, 2), (0.02, 50), (0.3, 20), (1.0, 5)])
def test_lemma_1_is_the_simulation(seed, alpha, steps):
    """Indefinite Hessians; at alpha = 1 some αλ are below −1, where a step overshoots."""
    g, H = random_quadratic(seed=seed)
    expected = ascend(g, H, alpha, steps)
    assert (torch.linalg.eigvalsh(H) < 0).any()
    torch.testing.assert_close(Quadratic(g, H).multi_step(alpha, steps), expected, rtol=0, atol=1e-12 * float(expected.norm()))


def test_the_exponent_of_the_main_text_is_a_misprint():
    g, H = random_quadratic()
    q, alpha, steps = Quadratic(g, H), 0.1, 10
    printed = ((1 + alpha * q.eigenvalues) ** (steps - 1)) / q.eigenvalues
    assert (q.modes @ (printed * q.gamma) - ascend(g, H, alpha, steps)).norm() > 0.1 * ascend(g, H, alpha, steps).norm()


def test_corollary_1_is_the_flow_and_the_limit_at_rate_one_over_m():
    g, H = random_quadratic(scale=0.5)
    q, beta = Quadratic(g, H), 1.3
    # δ' = g + Hδ solved by the exponential of the augmented matrix: no eigenvectors
    augmented = torch.zeros(8, 8, dtype=torch.float64)
    augmented[:7, :7], augmented[:7, 7] = H, g
    flow = torch.linalg.matrix_exp(beta * augmented)[:7, 7]
    limit = q.infinite_step(beta)
    torch.testing.assert_close(limit, flow, rtol=1e-12, atol=1e-12)
    errors = [(q.multi_step(beta / m, m) - limit).norm().item() for m in (1000, 2000, 4000, 8000)]
    for coarse, fine in itertools.pairwise(errors):
        assert coarse / fine == pytest.approx(2, rel=0.01)


def test_lemma_2_and_the_quadratic_itself():
    g, H = random_quadratic()
    q, delta = Quadratic(g, H), torch.linspace(-1, 1, 7, dtype=torch.float64)
    torch.testing.assert_close(q.interaction(delta), delta @ H @ delta)
    torch.testing.assert_close(q.gradient(delta), g + H @ delta)
    torch.testing.assert_close(q.loss_increase(delta), g @ delta + delta @ H @ delta / 2)
    beta = 0.4
    lemma2 = (q.eigenvalues * (q.amplification(beta) * q.gamma) ** 2).sum()
    torch.testing.assert_close(q.interaction(q.infinite_step(beta)), lemma2)


def test_single_steps_at_equal_strength_and_at_equal_norm():
    g, H = random_quadratic()
    q = Quadratic(g, H)
    torch.testing.assert_close(q.single_step(0.3), 0.3 * g)
    torch.testing.assert_close(q.single_step(0.3), q.multi_step(0.3, 1))
    multi = q.multi_step(0.1, 20)
    matched = q.single_step_like(multi)
    torch.testing.assert_close(matched.norm(), multi.norm())
    torch.testing.assert_close(F.cosine_similarity(matched, g, dim=0), torch.tensor(1.0, dtype=torch.float64))
    assert q.interaction(multi) > q.interaction(matched)  # Theorem 2 at equal norm
    with pytest.raises(ValueError, match="gradient is zero"):
        Quadratic(torch.zeros(2), torch.eye(2)).single_step_like(torch.ones(2))


@pytest.mark.parametrize("steps", [1, 7, 1000, math.inf])
def test_no_digits_are_lost_near_lambda_zero(steps):
    """Against the same expression in 60 decimal digits."""
    from decimal import Decimal, getcontext

    getcontext().prec = 60
    beta = 1.7
    for lam in [0.0, 5e-324, 1e-300, 1e-17, -1e-17, 3e-16, 1e-12, -1e-9, 1e-5, -0.3, 2.0, 30.0]:
        b, d = Decimal(beta), Decimal(lam)
        if lam == 0:
            exact = b
        elif steps == math.inf:
            exact = ((b * d).exp() - 1) / d
        else:
            exact = ((1 + b / steps * d) ** steps - 1) / d
        if abs(lam) < 1e-40:  # 60 digits do not reach: the exact value is β(1 + O(βλ))
            exact = b
        found = amplification(torch.tensor([lam], dtype=torch.float64), beta, steps).item()
        assert abs(Decimal(found) - exact) <= abs(exact) * Decimal("3e-15") * (1 + abs(b * d)), (lam, found, exact)


def test_overflow_is_an_error_that_names_beta_and_lambda():
    q = Quadratic(torch.ones(2), torch.diag(torch.tensor([80.0, -1.0])))
    assert torch.isfinite(q.infinite_step(8.0)).all()
    for call in (lambda: q.infinite_step(10.0), lambda: q.multi_step(0.01, 10**6), lambda: q.amplification(10.0)):
        with pytest.raises(OverflowError, match=r"beta=1.*lambda=80"):
            call()
    with pytest.raises(OverflowError, match="overflows"):
        q.interaction(q.infinite_step(8.0))  # δ fits, its square does not


def hessian(network, x, y):
    loss = lambda flat: F.cross_entropy(network(flat.view(x.shape)), y)
    return torch.autograd.functional.jacobian(loss, x.flatten()), torch.autograd.functional.hessian(loss, x.flatten())


@pytest.mark.parametrize(("classes", "seed"), [(2, 0), (5, 1), (10, 2)])
def test_the_low_rank_hessian_is_autograds_on_a_relu_network(classes, seed):
    network, x = make_network(seed, classes=classes, channels=2), make_images(seed, batch=1, channels=2)
    for label in range(classes):
        y = torch.tensor([label])
        q = Quadratic.at(network, x, y)
        g, H = hessian(network, x, y)
        torch.testing.assert_close(q.g, g, rtol=0, atol=1e-13)
        torch.testing.assert_close(q.modes @ q.eigenvalues.diag() @ q.modes.T, H, rtol=0, atol=1e-13)
        assert len(q.eigenvalues) <= classes - 1 and (q.eigenvalues > 0).all() and (q.eigenvalues.diff() <= 0).all()
        torch.testing.assert_close(q.modes.T @ q.modes, torch.eye(len(q.gamma), dtype=torch.float64), rtol=0, atol=1e-12)
        assert (q.g - q.modes @ q.gamma).norm() <= 1e-10 * q.g.norm()  # g lies in the span of the modes


def test_its_closed_form_is_dense_algebra_on_autograds_hessian():
    network, x, y = make_network(), make_images(batch=1), torch.tensor([3])
    q, dense = Quadratic.at(network, x, y), Quadratic(*hessian(network, x, y))
    for m, beta in [(1, 0.5), (30, 2.0), (math.inf, 2.0)]:
        low, full = (p.infinite_step(beta) if m == math.inf else p.multi_step(beta / m, m) for p in (q, dense))
        torch.testing.assert_close(low, full, rtol=0, atol=1e-10)
        torch.testing.assert_close(q.interaction(low), dense.interaction(full))


def test_confident_images_keep_their_digits():
    """z scaled until 1 − p_y ≈ 1e-30: the loss is far below float64's resolution of 1, its derivatives are not."""
    network, x = make_network(), make_images(batch=1)
    y = network(x).argmax(1)
    last = network[-1]
    top2 = network(x)[0].topk(2).values
    with torch.no_grad():
        scale = 69 / (top2[0] - top2[1])
        last.weight.mul_(scale)
        last.bias.mul_(scale)
    q = Quadratic.at(network, x, y)
    z = network(x)[0]
    p = (z - z.max()).exp()  # p_k relative to p_y = 1 − 1e-30
    p[y] = 0
    rows = torch.stack([torch.autograd.grad(network(v := x.clone().requires_grad_())[0, k], v)[0].flatten() for k in range(5)])
    g = ((rows - rows[y]) * p[:, None]).sum(0)
    assert 0 < q.g.norm() < 1e-26
    torch.testing.assert_close(q.g, g, rtol=1e-11, atol=0)
    torch.testing.assert_close(q.eigenvalues[0], torch.linalg.svdvals((rows - rows[y]) * p.sqrt()[:, None])[0] ** 2, rtol=1e-11, atol=0)


def test_what_is_left_out_for_a_smooth_network_is_the_curvature_of_the_logits():
    network, x, y = make_network(activation=nn.Softplus), make_images(batch=1), torch.tensor([1])
    q = Quadratic.at(network, x, y)
    _, H = hessian(network, x, y)
    left_out = H - q.modes @ q.eigenvalues.diag() @ q.modes.T
    p = network(x)[0].softmax(0).detach()
    p[1] -= 1
    logits = lambda flat: network(flat.view(x.shape))[0] @ p
    torch.testing.assert_close(left_out, torch.autograd.functional.hessian(logits, x.flatten()), rtol=0, atol=1e-12)
    assert left_out.norm() > 0.01 * H.norm()


def test_a_float32_model_is_evaluated_in_float64_and_left_alone():
    network, x, y = make_network().float(), make_images(batch=1).float(), torch.tensor([0])
    before = snapshot(network)
    q = Quadratic.at(network, x, y)
    assert_untouched(network, before)
    assert q.g.dtype == torch.float64
    with torch.no_grad():
        assert Quadratic.at(network, x, y).g.equal(q.g)
    torch.testing.assert_close(q.g, hessian(network.double(), x.double(), y)[0], rtol=0, atol=1e-13)


def test_bad_input_is_refused():
    g, H = random_quadratic(3)
    q = Quadratic(g, H)
    for call, words in [
        (lambda: Quadratic(g[:2], H), "shapes"),
        (lambda: Quadratic(g, H.triu()), "symmetric"),
        (lambda: Quadratic(g, H * torch.nan), "finite"),
        (lambda: q.multi_step(0.0, 3), "alpha"),
        (lambda: q.multi_step(0.1, 0), "steps"),
        (lambda: q.multi_step(0.1, 2.5), "steps"),
        (lambda: q.multi_step(0.1, math.inf), "steps"),
        (lambda: q.infinite_step(-1.0), "beta"),
        (lambda: q.infinite_step(math.nan), "beta"),
        (lambda: q.single_step(0), "eta"),
        (lambda: q.interaction(torch.ones(4)), "3 entries"),
    ]:
        with pytest.raises(ValueError, match=words):
            call()
    network, x = make_network(), make_images(batch=2)
    with pytest.raises(ValueError, match="one image"):
        Quadratic.at(network, x, torch.tensor([0, 0]))
    with pytest.raises(ValueError, match="labels"):
        Quadratic.at(network, x[:1], torch.tensor([5]))
    with pytest.raises(ValueError, match="normalisation"):
        Quadratic.at(network, 3 * x[:1], torch.tensor([0]))
    with pytest.raises(ValueError, match="eval"):
        Quadratic.at(network.train(), x[:1], torch.tensor([0]))
