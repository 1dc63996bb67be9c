"""The chapter's widget in the built page: the numbers are those of δᵀHδ, the sliders move what they should, the text quotes the start."""

import math

import numpy as np
import pytest
import torch

from irlib import Quadratic, load_images, load_model
from irlib.widgets.closed_form_interactions import STEPS, STRENGTHS, SYNTHETIC
from tests.browser.conftest import shown, slide

PAGE = "notebooks/closed-form-interactions.html"


@pytest.fixture(scope="module")
def quadratics():
    source = load_model("fmnist-resnet14")
    x, y = load_images("fashion-mnist", 30, seed=0)
    right = source(x).argmax(1) == y
    x, y = x[right][[9, 21, 3, 0]], y[right][[9, 21, 3, 0]]
    return [Quadratic.at(source, x[i : i + 1], y[i : i + 1]) for i in range(4)]


@pytest.mark.parametrize(("strength", "steps", "image"), [(0, 0, 0), (6, 3, 0), (8, 6, 1), (4, 4, 2), (7, 1, 3)])
def test_the_numbers_are_the_quadratics(open_page, quadratics, strength, steps, image):
    page = open_page(PAGE)
    slide(page, strength=strength, steps=steps, spectrum=image)
    q, m = quadratics[image], STEPS[steps]
    beta = STRENGTHS[strength] / q.eigenvalues[0].item()
    delta = q.infinite_step(beta) if m == math.inf else q.multi_step(beta / m, m)
    unit = beta**2 * (q.g @ q.g).item() * q.eigenvalues[0].item()
    several, same_beta, same_norm = (q.interaction(d).item() for d in (delta, q.single_step(beta), q.single_step_like(delta)))
    for name, value in {"multi": several / unit, "beta": same_beta / unit, "norm": same_norm / unit}.items():
        assert shown(page, name) == pytest.approx(value, rel=6e-3)
    assert shown(page, "ratio_beta") == pytest.approx(several / same_beta, rel=6e-3)
    assert shown(page, "ratio_norm") == pytest.approx(several / same_norm, rel=6e-3)


def heights(page, view):
    bars = page.locator(".irw svg").nth(view).locator("rect[data-bar]").all()
    return np.array([float(bar.get_attribute("height")) for bar in bars])


def test_the_bars_are_the_modes_shares(open_page):
    page = open_page(PAGE)
    slide(page, strength=6, steps=6, spectrum=4 + list(SYNTHETIC).index("invented: four modes negative"))
    lam, u = SYNTHETIC["invented: four modes negative"]
    augmented = torch.tensor([[0.0, 0.0], [0.0, 0.0]]).double()
    delta = []
    for each in lam:  # δ' = 1 + λδ until time 1, by a matrix exponential
        augmented[0, 0], augmented[0, 1] = each, 1
        delta.append(torch.linalg.matrix_exp(augmented)[0, 1])
    expected = (lam.abs() * u * torch.stack(delta) ** 2).numpy()
    found = heights(page, 0)
    assert len(found) == 9
    tall = found > 1.5  # a bar is at least one pixel high
    assert tall.sum() >= 4
    np.testing.assert_allclose(found[tall] / found[0], expected[tall] / expected[0], rtol=1e-2)


def test_each_slider_moves_what_it_should(open_page):
    page = open_page(PAGE)
    slide(page, spectrum=5)
    for name, stop, single_moves in [("strength", 2, False), ("steps", 6, False), ("spectrum", 6, True)]:
        before = heights(page, 0), heights(page, 1)
        slide(page, **{name: stop})
        assert not np.array_equal(heights(page, 0), before[0])
        assert np.array_equal(heights(page, 1), before[1]) != single_moves


def test_one_step_is_the_single_step(open_page):
    page = open_page(PAGE)
    for spectrum in range(7):
        slide(page, steps=0, strength=8, spectrum=spectrum)
        assert shown(page, "ratio_beta") == shown(page, "ratio_norm") == 1
        np.testing.assert_array_equal(heights(page, 0), heights(page, 1))
