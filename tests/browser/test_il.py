"""The theory widget of the chapter on IL in the built page: its numbers are irlib's, and a longer first attack has more interaction."""

import pytest

from irlib import Quadratic, load_images, load_model
from irlib.transfer import all_right
from irlib.widgets.il import SHARES, STRENGTHS, pulled
from tests.browser.conftest import picture, shown, slide


def test_the_numbers_are_irlibs_and_each_slider_moves_what_it_should(open_page):
    names = ("resnet14", "densenet22", "vgg", "alexnet", "inception3", "seresnet")
    networks = [load_model(f"fmnist-{name}") for name in names]
    x, y = all_right(*load_images("fashion-mnist", 60, seed=1), networks)
    x, y = x[[3, 9, 12]], y[[3, 9, 12]]
    page = open_page("notebooks/il.html")
    for bowl, strength, share in ((1, 2, 1), (3, 3, 3)):
        slide(page, bowl=bowl, strength=strength, share=share)
        model, image, label = networks[bowl // 3], x[bowl % 3][None], y[bowl % 3][None]
        q = Quadratic.at(model, image, label)
        beta = STRENGTHS[strength] / q.eigenvalues[0].item()
        plain, base = q.infinite_step(beta), q.infinite_step(SHARES[share] * beta)
        along = lambda d, q=q: float(q.interaction(d) / (d @ d))
        assert shown(page, "il_eta") == pytest.approx(float(plain.norm() / base.norm()), rel=6e-3)
        assert shown(page, "il_pixels") == pytest.approx(100 * along(base) / along(plain), rel=6e-3)
        assert shown(page, "il_features") == pytest.approx(100 * along(pulled(model, image, base[None])[0]) / along(plain), rel=6e-3)
    interactions = []
    for share in range(len(SHARES)):
        slide(page, share=share)
        interactions.append(shown(page, "il_pixels"))
    assert interactions == sorted(interactions)
    assert interactions[0] < interactions[-1] == 100
    first = page.locator(".irw").first.locator("canvas").count()  # of the explorer
    for name, stop, moved in (("share", 0, {1, 2}), ("strength", 4, {0}), ("bowl", 0, {0, 1, 2})):
        before = [picture(page, first + k) for k in range(3)]
        slide(page, **{name: stop})
        assert {k for k in range(3) if picture(page, first + k) != before[k]} >= moved
