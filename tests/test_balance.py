"""Balance: orders and Theorem 3's formula against autograd, brute force and exact fractions; Proposition 8 against softmax."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from irlib.balance import (
    Rebiased,
    class_gradients,
    class_gram,
    competitors,
    kappa,
    majorised,
    more_balanced,
    noisy,
    quadratic_form,
    rebalanced,
    single_step_interaction,
    squared_gradient,
    wrong,
)
from irlib.quadratic import Quadratic
from tests.conftest import assert_untouched, make_images, make_network, snapshot


def predictions(count=20, classes=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(count, classes, generator=generator, dtype=torch.float64)).softmax(1)


def as_printed(p, y):
    """Eq. 103's bracket, in the arithmetic of the entries of p."""
    others = [v for i, v in enumerate(p) if i != y]
    return sum(v**3 for v in others) + p[y] * (p[y] - 1) ** 2 - (sum(v**2 for v in others) + p[y] * (p[y] - 1)) ** 2


@pytest.mark.parametrize("y", [0, 2])
def test_eq_103_is_the_hessian_of_a_network_of_orthogonal_classes(y):
    generator = torch.Generator().manual_seed(1)
    W = math.sqrt(3.0) * torch.linalg.qr(torch.randn(12, 5, generator=generator, dtype=torch.float64))[0]
    x = torch.randn(12, generator=generator, dtype=torch.float64)
    loss = lambda v: F.cross_entropy((v @ W)[None], torch.tensor([y]))
    g, H = torch.autograd.functional.jacobian(loss, x), torch.autograd.functional.hessian(loss, x)
    p = (x @ W).softmax(0)
    delta = 0.7 * g
    torch.testing.assert_close(single_step_interaction(p, y, kappa=3.0, eta=0.7), delta @ H @ delta)
    torch.testing.assert_close(squared_gradient(p, y, 3.0), g @ g)


def test_eq_103_keeps_its_digits_where_the_network_is_sure():
    rest = Fraction(1, 10**14)
    p = [1 - rest, rest * Fraction(3, 4), rest * Fraction(1, 4)]
    expected = float(as_printed(p, 0))
    got = single_step_interaction(torch.tensor([float(v) for v in p], dtype=torch.float64), 0).item()
    assert got == pytest.approx(expected, rel=1e-12, abs=0)
    assert as_printed([float(v) for v in p], 0) != pytest.approx(expected, rel=1e-3, abs=0)  # the printed form has lost them


def test_wrong_classes_are_sorted_and_without_the_true_one():
    p = torch.tensor([[0.1, 0.5, 0.3, 0.1], [0.4, 0.3, 0.1, 0.2]])
    torch.testing.assert_close(wrong(p, 1), torch.tensor([[0.3, 0.1, 0.1], [0.4, 0.2, 0.1]], dtype=torch.float64), rtol=0, atol=1e-7)


def test_the_two_orders_against_their_definitions():
    """All ways to share eight eighths of r among three wrong classes, compared with each other."""
    parts = [(a, b, 8 - a - b) for a, b in itertools.product(range(9), repeat=2) if a + b <= 8]
    ordered = {"gaps": 0, "majorised": 0}
    for u, v in itertools.product(parts, repeat=2):
        q, p = (torch.tensor([0.5, *(k / 16 for k in shares)], dtype=torch.float64) for shares in (u, v))
        a, b = sorted(u, reverse=True), sorted(v, reverse=True)
        gaps = all(a[k] - a[k + 1] <= b[k] - b[k + 1] for k in range(2))
        partial = all(sum(a[:k]) <= sum(b[:k]) for k in range(1, 4))
        assert more_balanced(q, p, 0) == gaps
        assert majorised(q, p, 0) == partial
        assert partial or not gaps  # Definition 1 implies majorised
        if partial:
            assert as_printed(q, 0) <= as_printed(p, 0) + 1e-15
            assert competitors(q, 0) >= competitors(p, 0) - 1e-12
        ordered["gaps"] += gaps
        ordered["majorised"] += partial
    assert ordered["gaps"] < ordered["majorised"] < len(parts) ** 2


def test_another_confidence_is_never_ordered():
    p, q = torch.tensor([0.6, 0.4, 0.0]), torch.tensor([0.7, 0.15, 0.15])
    assert not more_balanced(q, p, 0)
    assert not majorised(q, p, 0)
    assert more_balanced(q, p, 0, tolerance=0.3)


def test_effective_competitors_at_both_ends():
    assert competitors(torch.tensor([0.7, 0.3, 0.0, 0.0]), 0).item() == pytest.approx(1)
    assert competitors(torch.tensor([0.7, 0.1, 0.1, 0.1]), 0).item() == pytest.approx(3)


def test_rebalanced_keeps_the_true_class_and_shrinks_every_gap():
    for p in predictions():
        for share in (0, 0.3, 1):
            q = rebalanced(p, 2, share)
            assert q[2] == p[2]
            torch.testing.assert_close(q.sum(), p.sum())
            torch.testing.assert_close(-wrong(q, 2).diff(), -(1 - share) * wrong(p, 2).diff(), rtol=1e-9, atol=1e-15)
            assert more_balanced(q, p, 2)


def test_a_changed_last_bias_changes_the_prediction_and_no_gradient():
    network, x = make_network(), make_images(batch=2)
    z, w = class_gradients(network, x)
    shift = torch.arange(5.0, dtype=torch.float64)
    moved = Rebiased(network, shift)
    other, same = class_gradients(moved, x)
    torch.testing.assert_close(other, z + shift)
    torch.testing.assert_close(same, w)
    assert not moved.training


def test_the_gram_matrix_gives_the_hessians_quadratic_form():
    network, x = make_network(), make_images()
    before = snapshot(network)
    z, w = class_gradients(network, x)
    assert_untouched(network, before)
    for i in range(len(x)):
        for y in (0, 3):
            q = Quadratic.at(network, x[i : i + 1], torch.tensor([y]))
            for centred in (False, True):
                form, square = quadratic_form(class_gram(w[i], centred), z[i].softmax(0), y)
                torch.testing.assert_close(form, q.interaction(q.g))
                torch.testing.assert_close(square, q.g @ q.g)


def test_kappa_is_the_best_multiple_of_the_ideal():
    gram = class_gram(torch.randn(5, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    ideal = torch.eye(5, dtype=torch.float64) - 1 / 5
    distance = lambda k: (gram - k * ideal).norm()
    best = kappa(gram)
    assert distance(best) < min(distance(best * 1.001), distance(best * 0.999))
    torch.testing.assert_close(kappa(7 * ideal), torch.tensor(7.0, dtype=torch.float64))


def test_proposition_8_is_the_mean_of_two_softmaxes():
    z = torch.log(predictions(classes=4))
    for tau in (0.0, 0.5, 3.0):
        for i in range(4):
            step = tau * torch.eye(4, dtype=torch.float64)[i]
            expected = ((z + step).softmax(1) + (z - step).softmax(1))[:, i] / 2
            torch.testing.assert_close(noisy(z.softmax(1), tau)[:, i], expected)
    p = np.linspace(0, 1, 21)
    change = noisy(torch.tensor(p), 2.0).numpy() - p
    assert (np.sign(np.round(change, 12)) == np.sign(np.round(p * (1 - p) * (1 - 2 * p), 12))).all()


def test_what_makes_no_sense_is_refused_in_words():
    p = torch.tensor([0.5, 0.25, 0.25])
    with pytest.raises(ValueError, match="sum to 1: use logits"):
        competitors(2 * p, 0)
    with pytest.raises(ValueError, match="classes 0 … 2, got 3"):
        competitors(p, 3)
    with pytest.raises(ValueError, match="share must lie in"):
        rebalanced(p, 0, 1.5)
    with pytest.raises(ValueError, match="3 and 4 classes"):
        majorised(p, torch.tensor([0.4, 0.2, 0.2, 0.2]), 0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        noisy(2 * p - 0.6, 1.0)
    with pytest.raises(ValueError, match="eval mode"):
        class_gradients(make_network().train(), make_images())
