"""The closed forms of MI, RAP, IL and PI against their recursions, exact series in fractions, and the bounds of Propositions 1 and 6."""

import itertools
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from irlib.amplification import amplification, momentum_amplification, reverse_amplification
from irlib.quadratic import Quadratic
from tests.conftest import make_images, make_network

SIZES = [(0.1, 1), (0.1, 2), (0.05, 17), (0.3, 20), (1.2, 5)]


def random_matrix(n, seed):
    return torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_quadratic(seed, definite, n=6):
    half = random_matrix(n, seed)
    return random_matrix(n, seed + 100)[0], half @ half.T / n if definite else (half + half.T) / 2


def ascend(g, H, alpha, steps, delta=None, A=None):
    delta = torch.zeros_like(g) if delta is None else delta
    for _ in range(steps):
        ascent = g + H @ delta
        delta = delta + alpha * (ascent if A is None else A @ ascent)
    return delta


def momentum(g, H, alpha, steps):
    delta, mean = torch.zeros_like(g), torch.zeros_like(g)
    for t in range(1, steps + 1):
        mean = ((t - 1) * mean + g + H @ delta) / t
        delta = delta + alpha * mean
    return delta


def reverse(g, H, alpha, steps, inner_steps):
    delta = torch.zeros_like(g)
    for _ in range(steps):
        r = torch.zeros_like(g)
        for _ in range(inner_steps):
            r = r - alpha * (g + H @ (delta + r))
        delta = delta + alpha * (g + H @ (delta + r))
    return delta


def assert_relative(found, expected, tolerance=1e-12):
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * float(expected.norm()))


def assert_halving(finite, limit, steps=(400, 800, 1600, 3200)):
    """The distance from the limit halves as the number of steps doubles."""
    errors = [(finite(m) - limit).norm().item() for m in steps]
    assert errors[0] > 1e-6 * limit.norm()
    for coarse, fine in itertools.pairwise(errors):
        assert coarse / fine == pytest.approx(2, rel=0.02)


@pytest.mark.parametrize("definite", [True, False])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("alpha", "steps"), SIZES)
def test_every_finite_form_is_its_simulation(seed, definite, alpha, steps):
    g, H = random_quadratic(seed, definite)
    assert definite == bool((torch.linalg.eigvalsh(H) > 0).all())
    q, A = Quadratic(g, H), random_matrix(6, seed + 200)
    assert_relative(q.mi(alpha, steps), momentum(g, H, alpha, steps))
    assert_relative(q.il(0.7, alpha * steps, steps), 0.7 * ascend(g, H, alpha, steps))
    for other in (1, 2, 7):
        assert_relative(q.rap(alpha, steps, other), reverse(g, H, alpha, steps, other))
        assert_relative(q.pi(alpha, steps, other, A), ascend(g, H, alpha, other, ascend(g, H, alpha, steps), A))
        assert_relative(q.pi(alpha, other, steps, A), ascend(g, H, alpha, steps, ascend(g, H, alpha, other), A))


@pytest.mark.parametrize("definite", [True, False])
def test_every_infinite_form_is_the_limit_at_rate_one_over_m(definite):
    g, H = random_quadratic(3, definite)
    q, A = Quadratic(g, H), random_matrix(6, 4) / 3
    assert_halving(lambda m: momentum(g, H, 1.5 / m, m), q.mi_infinite(1.5))
    assert_halving(lambda m: q.mi(1.5 / m, m), q.mi_infinite(1.5))
    assert_halving(lambda m: q.rap(1.2 / m, m, m // 2), q.rap_infinite(1.2, 0.6))
    assert_halving(lambda m: 1.3 * ascend(g, H, 0.9 / m, m), q.il(1.3, 0.9))
    assert_halving(lambda m: ascend(g, H, 0.8 / m, m // 2, ascend(g, H, 0.8 / m, m), A), q.pi_infinite(0.8, 0.4, A))
    assert_halving(lambda m: q.pi(0.8 / m, m, m // 2, A), q.pi_infinite(0.8, 0.4, A))


def test_the_limit_of_rap_is_that_of_its_simulation():
    g, H = random_quadratic(3, definite=False)
    assert_halving(lambda m: reverse(g, H, 1.2 / m, m, m // 2), Quadratic(g, H).rap_infinite(1.2, 0.6), steps=(40, 80, 160, 320)[1:])


def test_pi_in_the_limit_is_the_flow_of_the_dense_equation():
    g, H = random_quadratic(5, definite=False)
    A = random_matrix(6, 6)
    expected = torch.zeros(6, dtype=torch.float64)
    for beta, matrix in [(0.7, torch.eye(6, dtype=torch.float64)), (0.5, A)]:
        augmented = torch.zeros(7, 7, dtype=torch.float64)
        augmented[:6, :6], augmented[:6, 6] = matrix @ H, matrix @ g
        expected = (torch.linalg.matrix_exp(beta * augmented) @ torch.cat([expected, torch.ones(1, dtype=torch.float64)]))[:6]
    assert_relative(Quadratic(g, H).pi_infinite(0.7, 0.5, A), expected)


@pytest.mark.parametrize(("length", "first"), [(1.0, 12.0), (1e8, 0.1), (1e16, 1.0)])
def test_pi_in_the_limit_is_as_accurate_for_a_long_gradient_and_a_long_first_stage(first, length):
    q = Quadratic(length * torch.ones(2, dtype=torch.float64), torch.diag(torch.tensor([3.0, -1.0])))
    expected = [length * math.expm1((first + 1) * lam) / lam for lam in (3.0, -1.0)]  # A = 1 only goes on
    assert q.pi_infinite(first, 1.0, torch.eye(2)).tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("lam", [0.8, -1.7])
def test_lemma_13_where_the_hessian_has_one_mode(lam):
    v = random_matrix(6, 0)[0]
    v, A = v / v.norm(), random_matrix(6, 1)
    gamma, beta_1, beta_2 = 1.4, 0.6, 0.9
    bend = (v @ A @ v).item()
    expected = gamma * (math.exp(beta_1 * lam) - 1) / lam * v
    expected = expected + gamma * math.exp(beta_1 * lam) * (math.exp(beta_2 * lam * bend) - 1) / (lam * bend) * (A @ v)
    assert_relative(Quadratic(gamma * v, lam * torch.outer(v, v)).pi_infinite(beta_1, beta_2, A), expected)


@pytest.mark.parametrize("outside", [0.0, 2.0])
def test_a_low_rank_quadratic_of_a_network_keeps_what_its_modes_do_not_span(outside):
    q = Quadratic.at(make_network(classes=4), make_images(batch=1), torch.tensor([2]))
    H = q.modes @ q.eigenvalues.diag() @ q.modes.T
    assert len(q.eigenvalues) == 3 < len(q.g) == 36
    q._set(q.g + outside * random_matrix(36, 2)[0], q.eigenvalues, q.modes)
    A, alpha = random_matrix(36, 3), 0.05 / float(q.eigenvalues[0])
    first = ascend(q.g, H, alpha, 6)
    assert_relative(q.pi(alpha, 6, 9, A), ascend(q.g, H, alpha, 9, first, A))
    assert_relative(q.mi(alpha, 9), momentum(q.g, H, alpha, 9))
    assert_relative(q.rap(alpha, 6, 3), reverse(q.g, H, alpha, 6, 3))
    assert_halving(lambda m: q.pi(6 * alpha / m, m, m, A), q.pi_infinite(6 * alpha, 6 * alpha, A), steps=(1600, 3200, 6400))


def exact_momentum(lam, beta, steps):
    """Σ C(m,k) α^k λ^{k−1}/k! term by term; for m = ∞, Σ β^k λ^{k−1}/(k!)² until the rest is below 1e-40 of the sum."""
    lam, beta = Fraction(lam), Fraction(beta)
    if steps < math.inf:
        return sum(math.comb(steps, k) * (beta / steps) ** k * lam ** (k - 1) / math.factorial(k) for k in range(1, steps + 1))
    total, term, k = beta, beta, 1
    while abs(term) > abs(total) / 10**40 or k * k < 2 * abs(beta * lam):
        k += 1
        term = term * beta * lam / k**2
        total += term
    return total


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 60, math.inf])
@pytest.mark.parametrize("beta", [0.3, 1.0, 1.7])
def test_momentum_is_its_series_in_exact_fractions(steps, beta):
    lams = [0.0, 1e-14, -1e-14, 1e-8, -1e-5, 0.25, -0.3, 0.55, -0.59, 0.99, -0.99, 1.3, -1.3, 3.5, -3.4, 30.0, -30.0, 400.0, -77.0, -400.0]
    found = momentum_amplification(torch.tensor(lams, dtype=torch.float64), beta, steps).tolist()
    for lam, d in zip(lams, found, strict=True):
        exact = exact_momentum(lam, beta, steps)
        scale = max(abs(exact), Fraction(min(beta, 1 / abs(lam or 1e-9))))  # where L_m(−αλ) ≈ 1 (at 3 for m = 3) D has digits left of 1/λ only
        assert abs(Fraction(d) - exact) <= scale * Fraction("5e-14"), (lam, d, float(exact))


@pytest.mark.parametrize("steps", [1, 7, 10**6, math.inf])
def test_at_lambda_zero_every_form_is_beta(steps):
    zero, beta = torch.tensor([0.0, -0.0, 5e-324, -1e-300], dtype=torch.float64), 0.7
    assert momentum_amplification(zero, beta, steps).tolist() == [beta] * 4
    for inner_steps in (1, 5, math.inf):
        assert reverse_amplification(zero, beta, 0.4, steps, inner_steps).tolist() == [beta] * 4


@pytest.mark.parametrize("steps", [1, 2, 5, 40, 1000, math.inf])
@pytest.mark.parametrize("sign", [1, -1])
def test_nothing_jumps_where_the_series_hands_over(steps, sign):
    ends = [sign * math.nextafter(1.0, 0.0), sign * 1.0, sign * math.nextafter(1.0, 2.0)]
    below, at, above = momentum_amplification(torch.tensor(ends, dtype=torch.float64), 1.0, steps).tolist()
    assert below == pytest.approx(at, rel=1e-15)
    assert above == pytest.approx(at, rel=4e-15)


def exact_reverse(lam, beta, steps, alpha_r, inner_steps):
    """One mode of RAP with γ = 1, step by step in fractions."""
    lam, alpha, d = Fraction(lam), Fraction(beta) / steps, Fraction(0)
    for _ in range(steps):
        r = Fraction(0)
        for _ in range(inner_steps):
            r -= alpha_r * (1 + lam * (d + r))
        d += alpha * (1 + lam * (d + r))
    return d


@pytest.mark.parametrize(("steps", "inner_steps"), [(1, 1), (3, 2), (8, 5), (5, 1)])
def test_reverse_is_its_recursion_in_exact_fractions(steps, inner_steps):
    beta, beta_r = 0.75, 0.5
    lams = [1e-12, -1e-6, 0.25, -0.5, 1.5, -2.25, 6.0, -20.0]
    found = reverse_amplification(torch.tensor(lams, dtype=torch.float64), beta, beta_r, steps, inner_steps).tolist()
    for lam, d in zip(lams, found, strict=True):
        exact = exact_reverse(lam, beta, steps, Fraction(beta_r) / inner_steps, inner_steps)
        assert abs(Fraction(d) - exact) <= abs(exact) * Fraction("2e-14"), (lam, d, float(exact))


def test_lemma_20_has_the_damping_inside_the_power():
    lam, alpha, steps, inner_steps = 2.0, 0.1, 10, 4
    simulated = reverse(torch.ones(1).double(), torch.full((1, 1), lam).double(), alpha, steps, inner_steps).item()
    printed = ((1 + alpha * lam) ** steps - 1) / lam * (1 - alpha * lam) ** inner_steps
    found = Quadratic(torch.ones(1), torch.full((1, 1), lam)).rap(alpha, steps, inner_steps).item()
    assert found == pytest.approx(simulated, rel=1e-14)
    assert abs(printed - simulated) > 0.3 * simulated


def test_without_inner_strength_rap_is_the_plain_attack():
    g, H = random_quadratic(0, definite=False)
    assert_relative(Quadratic(g, H).rap_infinite(0.9, 0.0), Quadratic(g, H).infinite_step(0.9))


spectra = st.lists(st.floats(0, 50), min_size=1, max_size=6).map(lambda lams: torch.tensor(lams, dtype=torch.float64))
strengths = st.floats(1e-3, 8)


@settings(deadline=None)
@given(spectra, strengths, st.integers(1, 200) | st.just(math.inf))
def test_proposition_1_momentum_amplifies_no_mode_more(lam, beta, steps):
    slow, plain = momentum_amplification(lam, beta, steps), amplification(lam, beta, steps)
    assert (slow <= plain * (1 + 1e-12)).all()
    assert (slow >= beta * (1 - 1e-12)).all()


@settings(deadline=None)
@given(spectra, strengths, st.floats(0, 8))
def test_proposition_6_rap_amplifies_no_mode_more(lam, beta, beta_r):
    assert (reverse_amplification(lam, beta, beta_r) <= amplification(lam, beta) * (1 + 1e-12)).all()


@settings(deadline=None)
@given(spectra, st.floats(1e-3, 1), st.integers(1, 200), st.integers(1, 20))
def test_proposition_6_in_finite_steps_that_do_not_overshoot(lam, fraction, steps, inner_steps):
    alpha = fraction / max(1.0, lam.max().item())
    damped = reverse_amplification(lam, alpha * steps, alpha * inner_steps, steps, inner_steps)
    assert (damped >= 0).all() and (damped <= amplification(lam, alpha * steps, steps) * (1 + 1e-12)).all()


def test_the_damping_may_overflow_where_the_amplification_does_not():
    lam = torch.tensor([-600.0, -800.0], dtype=torch.float64)
    assert reverse_amplification(lam, 1.0, 1.0).tolist() == pytest.approx([1 / 600, 1 / 800], rel=1e-14)  # e^{βλρ} = 0


@pytest.mark.parametrize("inner_steps", [0, 2.5, -1])
def test_inner_steps_are_whole_numbers(inner_steps):
    with pytest.raises(ValueError, match="inner_steps"):
        reverse_amplification(torch.tensor([0.5, 3.0]), 1.0, 1.0, 4, inner_steps)


def test_overflow_of_rap_names_lambda_itself():
    with pytest.raises(OverflowError, match="lambda=100 "):
        reverse_amplification(torch.tensor([100.0]), 500.0, 2.0, 500, 2)


def test_bad_input_is_refused_by_name():
    g, H = random_quadratic(0, definite=True)
    q, A = Quadratic(g, H), torch.eye(6)
    for call, words in [
        (lambda: q.mi(0.0, 3), "alpha"),
        (lambda: q.mi(0.1, 0), "steps"),
        (lambda: q.mi(0.1, 2.5), "steps"),
        (lambda: q.mi(0.1, math.inf), "steps"),
        (lambda: q.mi_infinite(0.0), "beta"),
        (lambda: q.mi_infinite(math.nan), "beta"),
        (lambda: q.rap(-0.1, 3, 2), "alpha"),
        (lambda: q.rap(0.1, 0, 2), "steps"),
        (lambda: q.rap(0.1, 3, 0), "steps"),
        (lambda: q.rap_infinite(0.0, 1.0), "beta"),
        (lambda: q.rap_infinite(1.0, -0.1), "beta_r"),
        (lambda: q.rap_infinite(1.0, math.inf), "beta_r"),
        (lambda: q.rap_infinite(1.0, math.nan), "beta_r"),
        (lambda: q.il(0.0, 1.0), "eta"),
        (lambda: q.il(1.0, -1.0), "beta"),
        (lambda: q.il(1.0, 1.0, 0), "steps"),
        (lambda: q.pi(0.0, 1, 1, A), "alpha"),
        (lambda: q.pi(0.1, 0, 1, A), "steps"),
        (lambda: q.pi(0.1, 1, 0, A), "steps"),
        (lambda: q.pi(0.1, 1, 1, A[:5]), r"A must have shape \(6, 6\), got \(5, 6\)"),
        (lambda: q.pi_infinite(0.0, 1.0, A), "beta"),
        (lambda: q.pi_infinite(1.0, 0.0, A), "beta_2"),
        (lambda: q.pi_infinite(1.0, 1.0, A[0]), r"A must have shape"),
        (lambda: momentum_amplification(H[0], -1.0), "beta"),
        (lambda: momentum_amplification(H[0], 1.0, 0), "steps"),
        (lambda: reverse_amplification(H[0], 1.0, -1.0), "beta_r"),
        (lambda: reverse_amplification(H[0], 1.0, 1.0, 2.5, 1), "steps"),
    ]:
        with pytest.raises(ValueError, match=words):
            call()


def test_overflow_is_an_error_that_names_beta_and_lambda():
    q = Quadratic(torch.ones(2), torch.diag(torch.tensor([80.0, -1.0])))
    for call in (lambda: q.mi_infinite(1e4), lambda: q.mi(10.0, 1000), lambda: q.rap_infinite(1e4, 0.0), lambda: q.il(1.0, 1e4)):
        with pytest.raises(OverflowError, match=r"beta=10000, lambda=80 .*smaller beta"):
            call()
    for call in (lambda: q.pi_infinite(0.01, 20.0, torch.eye(2)), lambda: q.pi(10.0, 1, 1000, torch.eye(2))):
        with pytest.raises(OverflowError, match=r"δ overflows.*smaller beta"):
            call()
    assert q.mi_infinite(1e3).isfinite().all()
