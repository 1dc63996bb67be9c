"""The chapter's theory widget in the built page: another network, other numbers, and they are irlib's."""

import pytest

from irlib import Quadratic, load_images, load_model
from irlib.transfer import all_right
from tests.browser.conftest import picture, shown, slide

PAGE = "notebooks/adversarial-training.html"


def test_training_changes_the_bowl_and_the_numbers_are_irlibs(open_page):
    networks = [load_model("fmnist-resnet14" + end) for end in ("", "-adv2", "-adv4", "-adv8")]
    others = [load_model(f"fmnist-{name}") for name in ("resnet26", "densenet22", "alexnet", "inception3")]
    x, y = all_right(*load_images("fashion-mnist", 60, seed=1), [*networks, *others])
    x, y = x[[3, 0, 1, 8]], y[[3, 0, 1, 8]]
    page = open_page(PAGE)
    for trained, example in ((0, 0), (1, 2), (3, 1)):
        slide(page, trained=trained, example=example)
        each = [Quadratic.at(model, x[example : example + 1], y[example : example + 1]) for model in networks]
        beta = 1 / max(float(q.eigenvalues[0]) for q in each)
        plain, own = (each[k].interaction(each[k].infinite_step(beta)).item() for k in (0, trained))
        assert shown(page, "first") == pytest.approx(float(each[trained].eigenvalues[0]), rel=6e-3)
        assert shown(page, "bend") == pytest.approx(own, rel=6e-3)
        assert shown(page, "by_beta") == pytest.approx(100 * own / plain, rel=6e-3)
    before = picture(page, 5), shown(page, "x_total")
    slide(page, eps=3, image=1)
    assert (picture(page, 5), shown(page, "x_total")) != before
