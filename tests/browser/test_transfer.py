"""The chapter's widget in the built page: its numbers, cells and bars are irlib's, and each slider moves what it should."""

import numpy as np
import pytest
import torch.nn.functional as F

from irlib import create_attack, load_model, transfer_success
from irlib.replicate.transfer import EPS, PLAIN, SOURCES, STEPS, TARGETS, outcomes, study_images
from tests.browser.conftest import picture, shown, slide

PAGE = "notebooks/transfer.html"


@pytest.fixture(scope="module")
def subjects():
    """The networks by name, and the first image of each of four classes: what the chapter shows."""
    models = {name: load_model(name) for name in PLAIN}
    x, y = study_images(models, 100)
    pick = sorted(y.tolist().index(label) for label in set(y.tolist()))[:4]
    return models, x[pick], y[pick]


@pytest.mark.parametrize(("eps", "steps", "source", "image"), [(4, 0, 0, 0), (3, 3, 1, 2), (5, 4, 3, 3), (0, 2, 2, 1)])
def test_the_numbers_are_irlibs(open_page, subjects, eps, steps, source, image):
    models, x, y = subjects
    page = open_page(PAGE)
    slide(page, eps=eps, steps=steps, source=source, image=image)
    model, image, label, m = models[SOURCES[source]], x[image : image + 1], y[image : image + 1], STEPS[steps]
    adversarial = image
    if eps:
        adversarial = create_attack("pgd", model, eps=EPS[eps], alpha=EPS[eps] / min(m, 8), steps=m)(image, label)
    assert shown(page, "clean") == pytest.approx(F.cross_entropy(model(image).double(), label).item(), rel=6e-3)
    assert shown(page, "loss") == pytest.approx(F.cross_entropy(model(adversarial).double(), label).item(), rel=2e-2)
    seven = [models[name] for name in TARGETS]
    assert shown(page, "fooled") == round(7 * transfer_success(adversarial, label, seven).mean().item())
    for i, target in enumerate(seven):
        cells = [page.locator(f'rect[data-cell="{i},{j}"] title').text_content().split(": ")[1] for j in range(10)]
        np.testing.assert_allclose([float(c) for c in cells], 100 * target(adversarial).detach().softmax(1)[0], atol=1.6)
    rates = 100 * outcomes("grid")[eps, steps, source].double().mean(-1).numpy()
    assert shown(page, "mean") == pytest.approx(rates.mean(), rel=5.01e-3)
    heights = np.array([float(bar.get_attribute("height")) for bar in page.locator("rect[data-bar]").all()])
    assert len(heights) == 7
    if rates.max() > 10:
        tall = rates > 5  # a bar is at least one pixel high
        np.testing.assert_allclose(heights[tall] / heights.max(), rates[tall] / rates.max(), rtol=1e-2)


def test_each_slider_moves_the_pictures_it_should(open_page):
    page = open_page(PAGE)
    for name, pictures in [("eps", {1, 2}), ("steps", {1, 2}), ("source", {1, 2}), ("image", {0, 1, 2})]:
        before = [picture(page, k) for k in range(3)]
        page.locator(f'input[data-param="{name}"]').press("ArrowRight")
        assert {k for k in range(3) if picture(page, k) != before[k]} == pictures
    slide(page, eps=0)
    assert page.locator(".irw-scale").nth(1).inner_text().strip().startswith("±0")
    assert picture(page, 0) == picture(page, 2)
    assert shown(page, "fooled") == shown(page, "mean") == 0
