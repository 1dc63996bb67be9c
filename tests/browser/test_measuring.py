"""The chapter's widget in the built page: the numbers shown are irlib's, and each slider moves what it should."""

import numpy as np
import pytest
import torch

from irlib import AttackGame, create_attack, load_images, load_model, mean_interaction
from irlib.samplers import SAMPLERS
from irlib.widgets.measuring import CELLS, DRAWS, contrasts, measuring, pool
from tests.browser.conftest import picture, shown, slide

PAGE = "notebooks/measuring.html"
NETWORKS = ("fmnist-mlp", "fmnist-resnet14")


@pytest.fixture(scope="module")
def shown_images():
    models = {name: load_model(name) for name in NETWORKS}
    x, y = load_images("fashion-mnist", 12, seed=0)
    right = torch.stack([m(x).argmax(1) == y for m in models.values()]).all(0)
    return models, x[right][:3], y[right][:3]


@pytest.fixture(scope="module")
def sweep(shown_images):
    return measuring(*shown_images)


@pytest.mark.parametrize(("network", "image", "sampler", "cells", "draws"), [(0, 0, 0, 3, 2), (1, 1, 2, 2, 0), (1, 2, 3, 4, 3), (0, 2, 1, 0, 1)])
def test_the_numbers_are_irlibs(open_page, shown_images, network, image, sampler, cells, draws):
    """Exact mean and average, recomputed from the attack on: of all images, since a network's rounding depends on its batch."""
    models, x, y = shown_images
    model = models[NETWORKS[network]]
    delta = create_attack("pgd", model, eps=16 / 255, alpha=2 / 255, steps=10)(x, y) - x
    game = AttackGame(model, x, delta, y, grid=8)
    page = open_page(PAGE)
    slide(page, network=network, image=image, sampler=sampler, cells=cells, draws=draws)
    name, k = list(SAMPLERS)[sampler], CELLS[cells]
    exact = mean_interaction(game)[image].item()
    found = contrasts(game, [pool(game, name, k)])[0][image]
    assert shown(page, "exact") == pytest.approx(exact, rel=6e-3)
    assert shown(page, "average") == pytest.approx(found.mean().item() / SAMPLERS[name].pairs(64, 1, k) / exact, rel=6e-3)
    assert shown(page, "forwards") == 2 * DRAWS[draws] + 2


def test_the_bars_are_the_estimates(open_page, sweep):
    page = open_page(PAGE)
    slide(page, network=1, image=1, sampler=0, cells=2, draws=0)
    bars = page.locator("rect[data-bar]").all()
    heights = np.array([float(b.get_attribute("height")) for b in bars])
    values = sweep.at("seeds", network=1, image=1, sampler=0, cells=4, draws=8)
    assert len(heights) == len(values) == 20
    far = np.abs(values - 1) > 0.05  # a bar is at least one pixel high
    assert far.any()
    per_unit = heights[far] / np.abs(values[far] - 1)
    np.testing.assert_allclose(per_unit, per_unit[0], rtol=0.03)


def test_each_slider_moves_what_it_should(open_page):
    page = open_page(PAGE)
    slide(page, network=0, sampler=0, cells=2, draws=0)
    for name, pictures, kept in [
        ("network", {0, 1}, {"forwards", "pairs"}),
        ("image", {0, 1}, {"forwards", "pairs"}),
        ("sampler", {1}, {"forwards", "exact"}),
        ("cells", {1}, {"forwards", "exact"}),
        ("draws", set(), {"exact", "pairs", "average"}),
    ]:
        before = [picture(page, k) for k in range(2)]
        numbers = {r: shown(page, r) for r in ("average", "error", "forwards", "exact", "pairs")}
        page.locator(f'input[data-param="{name}"]').focus()
        page.keyboard.press("ArrowRight")
        assert {k for k in range(2) if picture(page, k) != before[k]} == pictures
        assert {r for r, value in numbers.items() if shown(page, r) == value} == kept


def test_more_coalitions_or_disjoint_ones_have_a_smaller_error(open_page):
    page = open_page(PAGE)
    slide(page, network=1, image=0, sampler=0, cells=3, draws=0)
    few = shown(page, "error")
    slide(page, draws=3)
    many = shown(page, "error")
    slide(page, sampler=3)
    assert few > 1.5 * many > 3 * shown(page, "error")
    assert "“stratified”" in page.locator(".irw-caption").inner_text()
