"""The tables of RAP's theory widget against both loops written out, on a small network and on its own quadratic."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from irlib import AttackGame, Quadratic, load_images, load_model, total_interaction
from irlib.widgets.rap import SPECTRUM, STEPS, reverse_perturbation, reverse_tables
from tests.conftest import make_images, make_network

STRENGTHS, RATIOS = (0.3, 1.5), (0.0, 0.5, 0.8)


def climbed(gradient, start, alpha, inner):
    """RAP as Eq. 239–240 have it, for any gradient."""
    delta = torch.zeros_like(start)
    for _ in range(STEPS):
        r = torch.zeros_like(start)
        for _ in range(inner):
            r = r - alpha * gradient(delta + r)
        delta = delta + alpha * gradient(delta + r)
    return delta


@pytest.fixture(scope="module")
def case():
    model, x, y = make_network(size=8), make_images(batch=2, size=8), torch.tensor([1, 3])
    quadratics = [Quadratic.at(model, x[i : i + 1], y[i : i + 1]) for i in range(2)]
    return model, x, y, quadratics, reverse_tables(model, x, y, quadratics, STRENGTHS, RATIOS)


def test_the_closed_forms_are_those_of_both_loops(case):
    _, _, _, quadratics, tables = case
    for k, q in enumerate(quadratics):
        H = q.modes @ torch.diag(q.eigenvalues) @ q.modes.T

        def gradient(point, q=q, H=H):
            return q.g + H @ point

        for i, s in enumerate(STRENGTHS):
            alpha = s / float(q.eigenvalues[0]) / STEPS
            plain = climbed(gradient, q.g, alpha, 0)
            for j, r in enumerate(RATIOS):
                rap = climbed(gradient, q.g, alpha, round(r * STEPS))
                share = (rap @ H @ rap) / (plain @ H @ plain)
                assert tables["same_beta"].data[i, j, k] == pytest.approx(100 * float(share))
                assert tables["same_length"].data[i, j, k] == pytest.approx(100 * float(share * (plain @ plain) / (rap @ rap)))
                assert tables["length"].data[i, j, k] == pytest.approx(100 * float(rap.norm() / plain.norm()))
                rank = tables["weights"].data.shape[-1]
                np.testing.assert_allclose(tables["weights"].data[i, j, k], (q.modes.T @ rap)[:rank], rtol=1e-6, atol=1e-12)
                np.testing.assert_allclose(tables["kept"].data[i, j, k], (q.modes.T @ rap / (q.modes.T @ plain))[:rank], rtol=1e-6)


def test_the_networks_own_perturbation_its_gap_and_its_interaction(case):
    model, x, y, quadratics, tables = case
    for k, q in enumerate(quadratics):
        image, label = x[k : k + 1], y[k : k + 1]

        def gradient(point, image=image, label=label):
            point = (image + point).detach().requires_grad_()
            return torch.autograd.grad(F.cross_entropy(model(point), label), point)[0]

        for i, s in enumerate(STRENGTHS):
            alpha = s / float(q.eigenvalues[0]) / STEPS
            for j, r in enumerate(RATIOS):
                delta = climbed(gradient, image, alpha, round(r * STEPS))
                closed = q.rap(alpha, STEPS, round(r * STEPS)) if r else q.multi_step(alpha, STEPS)
                gap = 100 * float((delta.flatten() - closed).norm() / delta.norm())
                assert tables["gap"].data[i, j, k] == pytest.approx(gap, rel=1e-6)
                expected = float(total_interaction(AttackGame(model, image, delta, label, grid=7)))
                assert tables["total"].data[i, j, k] == pytest.approx(expected, rel=1e-6)
                assert tables["plain_total"].data[i, j, k] == tables["total"].data[i, 0, k]
                assert tables["plain_gap"].data[i, j, k] == tables["gap"].data[i, 0, k]


def test_the_curves_are_those_of_the_corollary_and_of_its_misprint(case):
    tables = case[-1]
    for j, r in enumerate(RATIOS):
        for z, plain, damped, printed in zip(
            SPECTRUM[1:], tables["grown"].data[1:], tables["damped"].data[j][1:], tables["printed"].data[j][1:], strict=True
        ):
            assert plain == pytest.approx(math.expm1(z) / z)
            assert damped == pytest.approx(math.expm1(z * math.exp(-r * z)) / z)
            assert printed == pytest.approx(math.expm1(z) / z * math.exp(-r * z))
    assert tables["grown"].data[0] == tables["damped"].data[1][0] == tables["printed"].data[1][0] == 1


def test_the_widget_says_that_no_inner_descent_is_plain_ascent():
    sweep = reverse_perturbation(load_model("fmnist-mlp"), *load_images("fashion-mnist", 2, seed=0), strengths=(0.5, 1.0), ratios=(0.0, 0.8))
    assert sweep.said("same_beta", ratio=0.0) == sweep.said("same_length", ratio=0.0) == sweep.said("length", ratio=0.0) == "100 %"
    assert sweep.at("gap", strength=1.0, ratio=0.0, bowl=1) == sweep.at("plain_gap", strength=1.0, ratio=0.8, bowl=1)
    assert sweep.at("same_length", strength=1.0, ratio=0.8, bowl=0) < 100
