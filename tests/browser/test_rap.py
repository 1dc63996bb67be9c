"""RAP's theory widget in the built page: its shares are those of the closed forms, and the sliders move what they should."""

import pytest

from irlib import Quadratic, load_images, load_model
from irlib.widgets.rap import RATIOS, STRENGTHS
from tests.browser.conftest import shown, slide


def test_the_shares_are_the_quadratics_and_follow_the_sliders(open_page):
    model = load_model("fmnist-resnet14")
    x, y = load_images("fashion-mnist", 30, seed=0)
    right = model(x).argmax(1) == y
    x, y = x[right][[9, 21, 3]], y[right][[9, 21, 3]]
    page = open_page("notebooks/rap.html")
    for strength, ratio, bowl in [(2, 4, 0), (0, 1, 1), (3, 5, 2)]:
        slide(page, strength=strength, ratio=ratio, bowl=bowl)
        q = Quadratic.at(model, x[bowl : bowl + 1], y[bowl : bowl + 1])
        alpha = STRENGTHS[strength] / q.eigenvalues[0].item() / 10
        plain, rap = q.multi_step(alpha, 10), q.rap(alpha, 10, round(10 * RATIOS[ratio]))
        share = 100 * float(q.interaction(rap) / q.interaction(plain))
        assert shown(page, "same_beta") == pytest.approx(share, rel=6e-3)
        assert shown(page, "same_length") == pytest.approx(share * float(plain @ plain / (rap @ rap)), rel=6e-3)
    slide(page, ratio=0)
    assert shown(page, "same_beta") == shown(page, "same_length") == 100
    assert shown(page, "total") == shown(page, "plain_total")
