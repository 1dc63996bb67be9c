"""The theory widget of the chapter on PI in the built page: its numbers are irlib's, and breaking Assumption 4 breaks Proposition 4."""

import pytest

from irlib import Quadratic, load_images, load_model
from irlib.transfer import all_right
from irlib.widgets.pi import EXCESS, FIRST, SECOND, beyond, shares
from tests.browser.conftest import picture, shown, slide


def test_the_numbers_are_irlibs_and_each_slider_moves_what_it_should(open_page):
    names = ("resnet14", "densenet22", "vgg", "alexnet", "inception3", "seresnet")
    networks = [load_model(f"fmnist-{name}") for name in names]
    x, y = all_right(*load_images("fashion-mnist", 60, seed=1), networks)
    page = open_page("notebooks/pi.html")
    for bowl, who, excess, second in ((0, 0, 3, 2), (4, 2, 1, 4)):
        slide(page, bowl=bowl, who=who, excess=excess, second=second)
        q = Quadratic.at(networks[bowl // 3], x[bowl % 3][None], y[bowl % 3][None])
        v, lam = q.modes[:, 0], q.eigenvalues[0].item()
        A = shares(beyond(v.view(28, 28), who, EXCESS[excess]))
        pi, plain = q.pi_infinite(FIRST / lam, SECOND[second] / lam, A), q.infinite_step((FIRST + SECOND[second]) / lam)
        assert shown(page, "bend") == pytest.approx(float(v @ A @ v), rel=6e-3)
        assert shown(page, "all_modes") == pytest.approx(100 * float(q.interaction(pi) / q.interaction(plain)), rel=6e-3)
        assert shown(page, "length") == pytest.approx(100 * float(pi.norm() / plain.norm()), rel=6e-3)
        assert (shown(page, "all_modes") > 100) == (who == 2)
    first = page.locator(".irw").first.locator("canvas").count()  # of the explorer
    for name, stop, moved in (("excess", 5, {2}), ("second", 0, set()), ("who", 1, {2}), ("bowl", 0, {0, 1, 2})):
        before = [picture(page, first + k) for k in range(3)], shown(page, "all_modes")
        slide(page, **{name: stop})
        assert {k for k in range(3) if picture(page, first + k) != before[0][k]} == moved
        assert shown(page, "all_modes") != before[1]
